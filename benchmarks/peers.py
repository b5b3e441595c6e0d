"""Other programs, trained on the same interactions: implicit, elsarec, RecBole.

Shapes: U users, I items, D dim. Each import stands in its function: a peer may not be installed.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_matrix

from engine.tables import csr_tensor
from evaluate import DotProduct


def implicit(kind, data, seed, threads, watch, epochs, **settings):
    """Train implicit's AlternatingLeastSquares or BayesianPersonalizedRanking, which `kind` names.

    data: sources.interactions.Interactions
    watch: function of a number of epochs that returns a quality.Watch, which is returned
    settings: arguments of implicit's class
    """
    from implicit.cpu import als, bpr

    settings |= {"iterations": epochs, "num_threads": threads, "random_state": seed}
    model = {"ALS": als.AlternatingLeastSquares, "BPR": bpr.BayesianPersonalizedRanking}[kind]
    model, train = model(**settings), csr_matrix(data.train).astype("float32")

    def scorer():
        return DotProduct(*map(torch.as_tensor, (model.user_factors, model.item_factors)))

    watched = watch(epochs)
    model.fit(train, show_progress=False, callback=lambda *about: watched.end_epoch(scorer))
    return watched


def elsa(data, seed, threads, watch, epochs, dim=256, batch_size=128):
    """Train ELSA by its authors' package elsarec, on scores of all items. See `implicit`.

    The defaults are those of its README; its learning rate is its own default.
    """
    from elsa import ELSA

    torch.manual_seed(seed)
    model = ELSA(data.shape[1], dim, torch.device("cpu"))
    train = csr_matrix(data.train).astype("float32")
    arrays = data.train.indptr, data.train.indices, np.ones(data.train.nnz, np.float32)
    histories = csr_tensor(*arrays, data.train.shape, "cpu")  # (U, I)

    def scorer():
        items = torch.nn.functional.normalize(model.get_items_embeddings(), dim=1)
        return DotProduct(histories @ items, items)

    watched = watch(epochs)
    for _ in range(epochs):
        model.fit(train, epochs=1, batch_size=batch_size, shuffle=True, verbose=False)
        watched.end_epoch(scorer)
    return watched


def recbole(data, seed, threads, watch, epochs, **settings):
    """Train RecBole's BPR. See `implicit`."""
    trainer, batches, ids = recbole_trainer(data, seed=seed, **settings)
    users, items = trainer.model.user_embedding.weight, trainer.model.item_embedding.weight

    def scorer():
        return DotProduct(users.detach()[ids[0]], items.detach()[ids[1]])

    watched = watch(epochs)
    for epoch in range(epochs):
        trainer._train_epoch(batches, epoch, show_progress=False)
        watched.end_epoch(scorer)
    return watched


def recbole_trainer(data, **settings):
    """A RecBole trainer of BPR: (trainer, its batches, [RecBole's numbers of users, of items]).

    settings: of recbole.config.Config
    """
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.model.general_recommender import BPR
    from recbole.trainer import Trainer
    from recbole.utils import init_seed

    # The files of users and items name also those without training interactions.
    folder = Path(tempfile.mkdtemp()) / "made"
    folder.mkdir()
    columns = {}
    for kind, size in zip(("user", "item"), data.shape, strict=True):
        columns[kind] = f"{kind}_id"
        lines = [f"{kind}_id:token", *map(str, range(size))]
        (folder / f"made.{kind}").write_text("\n".join(lines) + "\n")
    rows = "\n".join(f"{user}\t{item}" for user, item in zip(*data.train.nonzero(), strict=True))
    (folder / "made.inter").write_text(f"user_id:token\titem_id:token\n{rows}\n")
    whole = {"split": {"RS": [1, 0, 0]}, "order": "RO", "group_by": "user", "mode": "full"}
    settings |= {
        "data_path": str(folder.parent),
        "load_col": {"inter": [*columns.values()], "user": ["user_id"], "item": ["item_id"]},
        "eval_args": whole,
        "use_gpu": False,
        "show_progress": False,
        "state": "ERROR",
    }
    # RecBole writes logs into the current folder: change to a temporary one.
    current = Path.cwd()
    os.chdir(folder)
    try:
        config = Config(model="BPR", dataset="made", config_dict=settings)
        init_seed(config["seed"], config["reproducibility"])
        dataset = create_dataset(config)
        batches = data_preparation(config, dataset)[0]
        trainer = Trainer(config, BPR(config, dataset))
    finally:
        os.chdir(current)
    ids = [
        torch.as_tensor(dataset.token2id(name, np.arange(size).astype(str)))
        for name, size in zip(columns.values(), data.shape, strict=True)
    ]
    return trainer, batches, ids
