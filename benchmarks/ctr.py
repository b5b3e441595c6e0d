"""How good is DeepFM on clicks beside FuxiCTR's, and how fast is an epoch?

python benchmarks/ctr.py [--data_dir datasets] [--dataset criteo] [--rounds 5] [--seeds 3] [--hidden 64]
                         [--batch_size 1024] [--lr 1e-3] [--l2 1e-5] [--epochs 10]

Both see the same encoded rows, so the same split and threshold, and have dim 16, three hidden layers of --hidden ReLUs,
Adam, and --l2 on the embeddings. FuxiCTR trains as by its own defaults: the learning rate falls by 10 whenever the
validation AUC does, the second time ends the training. Ours keeps the learning rate. In both the validation part
chooses the epoch. Epochs are timed in turns, without evaluation, in one thread; FuxiCTR's loader has a process more.
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
    """FuxiCTR's map of the features and its loaders of the three parts, from the encoded rows."""
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.dataloaders.npz_dataloader import NpzDataLoader

    specs = {
        name: {"source": "", "type": "categorical", "vocab_size": size}
        for name, size in zip(data.fields, data.sizes, strict=True)
    }
    about = {
        "dataset_id": data.name,
        "labels": ["label"],
        "features": [{name: spec} for name, spec in specs.items()],
    }
    (folder / "feature_map.json").write_text(json.dumps(about))
    features = FeatureMap(data.name, str(folder))
    features.load(str(folder / "feature_map.json"), {"embedding_dim": 16})
    loaders = {}
    for part, span in data.parts.items():
        ids, labels = data.rows(*span)
        columns = dict(zip(data.fields, (ids - data.offsets).T, strict=True))
        np.savez(folder / f"{part}.npz", **columns, label=labels)
        loaders[part] = NpzDataLoader(
            features, str(folder / part), batch_size=batch_size, shuffle=part == "train"
        )
    return features, loaders


def fuxictr_model(features, given, seed, folder):
    """DeepFM as FuxiCTR's model zoo puts it together (the zoo is not in its package)."""
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
    """A function that trains an epoch, without its evaluation."""
    model._eval_steps, model._total_steps, model._stop_training, model._max_gradient_norm = (
        1 << 40,
        0,
        False,
        10.0,
    )
    return lambda: model.train_epoch(loader)


def quality(model, args):
    """Test metrics of the epoch that the validation part chose; ends when two epochs in a row were no better."""
    best, since = None, 0
    for epoch in range(1, args.epochs + 1):
        model.train_epoch(learning_rate(args, epoch), lambda: None)
        valid, since = model.evaluate("valid"), since + 1
        if best is None or model.better(valid, best[0]):
            best, since = (valid, model.evaluate("test")), 0
        if since == 2:
            break
    return best[1]


def summary(found, seconds):
    """A row: mean and standard deviation of the metrics, and the time of an epoch."""
    row = {}
    for name in ("AUC", "logloss"):
        values = [metrics[name] for metrics in found]
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
    flags = f"--model DeepFM --dataset {given.dataset} --dim 16 --hidden {given.hidden} {given.hidden} {given.hidden} "
    flags += (
        f"--batch_size {given.batch_size} --lr {given.lr} --l2 {given.l2} --epochs {given.epochs}"
    )
    epochs, found = {}, {}
    for name, compiled in (("DeepFM", "off"), ("DeepFM, compiled", "on")):
        found[name] = []
        for seed in range(1, given.seeds + 1):
            model, args, data = build(f"{flags} --seed {seed} --compile {compiled}", given.data_dir)
            found[name].append(quality(model, args))
        epochs[name] = epochs_of(model, args)
    with tempfile.TemporaryDirectory() as name:
        try:
            import fuxictr  # noqa: F401
        except ImportError:
            pass
        else:
            logging.getLogger().setLevel(logging.WARNING)
            folder, found[PEER] = Path(name), []
            features, loaders = fuxictr_loaders(data, folder, given.batch_size)
            labels = torch.from_numpy(data.rows(*data.parts["test"])[1]).float()
            for seed in range(1, given.seeds + 1):
                torch.set_num_threads(1)
                peer = fuxictr_model(features, given, seed, folder)
                peer.fit(loaders["train"], epochs=given.epochs, validation_data=loaders["valid"])
                found[PEER].append(
                    click_metrics(labels, torch.from_numpy(peer.predict(loaders["test"])))
                )
            epochs[PEER] = fuxictr_epoch(peer, loaders["train"])
        torch.set_num_threads(1)
        seconds = in_turns(epochs, given.rounds)
    rows = {name: summary(found[name], own) for name, own in seconds.items()}
    for name, own in seconds.items() if PEER in seconds else ():
        rows[name]["x FuxiCTR's seconds"] = (
            f"{statistics.median(own) / statistics.median(seconds[PEER]):.2f}"
        )
    title = f"DeepFM on {given.dataset}, MLP 3 x {given.hidden}, batches of {given.batch_size}, l2 {given.l2:g}"
    show(f"{title}; seeds 1 to {given.seeds}, {given.rounds} epochs in turns, one thread", rows)


if __name__ == "__main__":
    main()
