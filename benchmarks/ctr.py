"""How good is DeepFM on clicks beside FuxiCTR's, and how fast is an epoch?

python benchmarks/ctr.py [--data_dir datasets] [--dataset criteo] [--rounds 5] [--seeds 3]
                         [--hidden 64] [--batch_size 1024] [--lr 1e-3] [--l2 1e-5] [--epochs 10]

Both see the same encoded rows, so the same split and threshold. Both have dim 16, three hidden
layers of --hidden ReLUs, Adam, and --l2 on the embeddings. FuxiCTR trains by its own defaults: when
the validation AUC falls, the learning rate is divided by 10; the second time, training ends. Ours
keeps the learning rate. In both, the validation split chooses the epoch. Epochs are timed in turns,
without evaluation, in one thread; FuxiCTR's loader has another process.
"""

import json
import logging
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import build, epochs_of, in_turns, options, show, spread

from families.clicks.metrics import click_metrics
from train import learning_rate

PEER = "FuxiCTR's DeepFM"


def fuxictr_loaders(data, folder, batch_size):
    """Give FuxiCTR the encoded rows. Returns its FeatureMap, and {split: its loader}.

    data: Clicks
    folder: for files that FuxiCTR reads
    batch_size: of the loaders
    """
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.dataloaders.npz_dataloader import NpzDataLoader

    specs = {
        name: {"source": "", "type": "categorical", "vocab_size": size}
        for name, size in zip(data.fields, data.sizes, strict=True)
    }
    metadata = {
        "dataset_id": data.name,
        "labels": ["label"],
        "features": [{name: spec} for name, spec in specs.items()],
    }
    (folder / "feature_map.json").write_text(json.dumps(metadata))
    features = FeatureMap(data.name, str(folder))
    features.load(str(folder / "feature_map.json"), {"embedding_dim": 16})
    loaders = {}
    for split, span in data.splits.items():
        ids, labels = data.rows(*span)
        columns = dict(zip(data.fields, (ids - data.offsets).T, strict=True))
        np.savez(folder / f"{split}.npz", **columns, label=labels)
        path, shuffle = str(folder / split), split == "train"
        loaders[split] = NpzDataLoader(features, path, batch_size=batch_size, shuffle=shuffle)
    return features, loaders


def fuxictr_model(features, given, seed, folder):
    """Build DeepFM as FuxiCTR's model zoo does; the zoo is not in its package.

    features: FeatureMap
    given: flags of the benchmark
    seed: of the initial weights
    folder: for FuxiCTR's files
    """
    from fuxictr.pytorch.layers import FactorizationMachine, FeatureEmbedding, MLP_Block
    from fuxictr.pytorch.models import BaseModel
    from fuxictr.pytorch.torch_utils import seed_everything

    class DeepFM(BaseModel):
        def __init__(self, **settings):
            super().__init__(features, **settings)
            self.embedding_layer = FeatureEmbedding(features, 16)
            self.fm = FactorizationMachine(features)
            self.mlp = MLP_Block(
                input_dim=features.sum_emb_out_dim(),
                output_dim=1,
                hidden_units=[given.hidden] * 3,
                dropout_rates=0,
            )
            self.compile("adam", "binary_crossentropy", given.lr)
            self.reset_parameters()
            self.model_to_device()

        def forward(self, inputs):
            x = self.get_inputs(inputs)
            embedded = self.embedding_layer(x)
            logit = self.fm(x, embedded) + self.mlp(embedded.flatten(start_dim=1))
            return {"y_pred": self.output_activation(logit)}

    seed_everything(seed)
    (folder / features.dataset_id).mkdir(exist_ok=True)
    return DeepFM(
        embedding_regularizer=given.l2, metrics=["AUC"], model_root=str(folder), verbose=0
    )


def fuxictr_epoch(model, loader):
    """Return a function that trains an epoch without evaluation: it is put off by 2^40 steps."""
    model._eval_steps, model._total_steps = 1 << 40, 0
    model._stop_training, model._max_gradient_norm = False, 10.0
    return lambda: model.train_epoch(loader)


def quality(model, args):
    """Train, and return the test metrics of the epoch that the validation split chose.

    Training ends when two epochs in a row were not better.
    """
    best_valid, test, not_better = None, None, 0
    for epoch in range(1, args.epochs + 1):
        model.train_epoch(learning_rate(args, epoch), lambda: None)
        valid, not_better = model.evaluate("valid"), not_better + 1
        if best_valid is None or model.evaluator.better(valid, best_valid):
            best_valid, test, not_better = valid, model.evaluate("test"), 0
        if not_better == 2:
            break
    return test


def summary(metrics, seconds):
    """Row of the table: mean and standard deviation of the metrics, and seconds of an epoch.

    metrics: list of {metric: value}, one for each seed
    seconds: of each timed epoch
    """
    row = {}
    for name in ("AUC", "logloss"):
        values = [of_seed[name] for of_seed in metrics]
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        row[f"test {name}"] = f"{statistics.mean(values):.4f} ± {deviation:.4f}"
    return row | spread(seconds)


def main():
    given = options(
        __doc__,
        dataset="criteo",
        rounds=5,
        seeds=3,
        hidden=64,
        batch_size=1024,
        lr=1e-3,
        l2=1e-5,
        epochs=10,
    )
    layers = " ".join([str(given.hidden)] * 3)
    flags = f"--model DeepFM --dataset {given.dataset} --dim 16 --hidden {layers} "
    flags += f"--batch_size {given.batch_size} --lr {given.lr} --l2 {given.l2} "
    flags += f"--epochs {given.epochs}"

    # Train our model with each seed. `epochs` keeps a function that trains an epoch, to be timed.
    epochs, metrics = {}, {}
    for name, compiled in (("DeepFM", "off"), ("DeepFM, compiled", "on")):
        metrics[name] = []
        for seed in range(1, given.seeds + 1):
            model, args, data = build(f"{flags} --seed {seed} --compile {compiled}", given.data_dir)
            metrics[name].append(quality(model, args))
        epochs[name] = epochs_of(model, args)

    # The same with FuxiCTR, if it is installed.
    with tempfile.TemporaryDirectory() as name:
        try:
            import fuxictr  # noqa: F401
        except ImportError:
            pass
        else:
            logging.getLogger().setLevel(logging.WARNING)
            folder, metrics[PEER] = Path(name), []
            features, loaders = fuxictr_loaders(data, folder, given.batch_size)
            labels = torch.from_numpy(data.rows(*data.splits["test"])[1]).float()
            for seed in range(1, given.seeds + 1):
                torch.set_num_threads(1)
                peer = fuxictr_model(features, given, seed, folder)
                peer.fit(loaders["train"], epochs=given.epochs, validation_data=loaders["valid"])
                predicted = torch.from_numpy(peer.predict(loaders["test"]))
                metrics[PEER].append(click_metrics(labels, predicted))
            epochs[PEER] = fuxictr_epoch(peer, loaders["train"])
        torch.set_num_threads(1)
        seconds = in_turns(epochs, given.rounds)

    rows = {name: summary(metrics[name], times) for name, times in seconds.items()}
    for name, times in seconds.items() if PEER in seconds else ():
        ratio = statistics.median(times) / statistics.median(seconds[PEER])
        rows[name]["x FuxiCTR's seconds"] = f"{ratio:.2f}"
    title = f"DeepFM on {given.dataset}, MLP 3 x {given.hidden}, batches of {given.batch_size}, "
    title += (
        f"l2 {given.l2:g}; seeds 1 to {given.seeds}, {given.rounds} epochs in turns, one thread"
    )
    show(title, rows)


if __name__ == "__main__":
    main()
