"""ClickModel: the networks of networks.py, trained on clicks, then streamed over the test split.

Shapes: B batch, m rows, W ids of a row, d numbers of a key.
"""

import numpy as np
import torch
from torch.nn import functional

from checkpointing.files import load_checkpoint
from distributed import agreement, collectives
from families.clicks import stream
from families.clicks.batches import ImpressionBatches
from families.clicks.dataset import RowRange
from families.clicks.logs import append_reloop2_logs, rewind_reloop2_logs
from families.clicks.metrics import ClickMetrics, UserClickMetrics, gauc_is_defined
from families.clicks.networks import NETWORKS
from recommender import BatchTrained


class ClickModel(BatchTrained):
    """Learns clicks by cross-entropy. --l2 is the weight decay of the embeddings."""

    identifying = ("model", "dim", "hidden", "layers")
    optimizer = None  # before the training starts

    def __init__(self, data, args, device):
        """See Recommender. Raises UserError if a slot of the stream would be empty."""
        stream.check_slots(data, args)
        super().__init__(data, args, device)
        self.evaluator = type(self.evaluators["test"])
        self.streamed = None
        # All ranks shuffle alike: each takes its share of every batch.
        state = self.generator.get_state()
        collectives.broadcast_([state])
        self.generator.set_state(state)

    @staticmethod
    def evaluator_class(args):
        return ClickMetrics

    def split_rows(self, split):
        """The RowRange of a split."""
        return RowRange(self.data, *self.data.splits[split], self.device)

    def make_evaluators(self):
        splits = {name: rows for name in ("test", "valid") if len(rows := self.split_rows(name))}
        kind = UserClickMetrics if all(map(gauc_is_defined, splits.values())) else ClickMetrics
        return {name: kind(rows) for name, rows in splits.items()}

    def make_encoder(self):
        return NETWORKS[self.args.model](self.data, self.args, self.generator)

    def make_sampler(self):
        return ImpressionBatches(self.data, self.data.splits["train"], self.args, self.generator)

    def train_on(self, sampler):
        super().train_on(sampler)
        if self.optimizer:
            self.optimizer.schedule = self.schedule  # by which the ranks weigh their gradients

    def decayed_weights(self):
        return ["embedding"]

    def rows_per_step(self):
        return {"embedding": self.args.batch_size * self.data.width}

    def make_optimizer(self, trained, rows):
        # A batch has many values several times: count the different ones of the first rows.
        start, stop = self.data.splits["train"]
        ids, _ = self.data.rows(start, min(start + self.args.batch_size, stop))
        return super().make_optimizer(trained, {"embedding": len(np.unique(ids))})

    def rows_of(self, ids, labels):
        return {"embedding": ids}

    def loss(self, trained, constant, place, ids, labels):
        logits = self.encoder(trained, place["embedding"]).logits
        return functional.binary_cross_entropy_with_logits(logits, labels)

    @torch.no_grad()
    def predict(self, ids, key):
        """Predict clicks on impressions. Returns probabilities (m,) and keys (m, d).

        ids (m, W)
        key: the field of networks.Outputs to return as keys of a memory
        """
        outputs = self.encoder(self.weights, ids)
        return outputs.logits.sigmoid(), getattr(outputs, key)

    def scorer(self):
        """Function of ids (m, W) that returns probabilities (m,)."""
        return lambda ids: self.predict(ids, "hidden")[0]

    def baselines(self):
        """Metrics of a constant prediction: the share of clicks in the training split."""
        share = self.data.clicks

        def click_rate(ids):
            return torch.full_like(ids[:, 0], share, dtype=torch.float32)

        return {"Click rate": self.metrics_of(click_rate, "test")}

    def final_evaluation_done(self, folder):
        return stream.is_done(folder / stream.FILE, self.args)

    def final_evaluation(self, checkpoint, folder):
        """Stream the test split, see stream.py."""
        file = folder and folder / stream.FILE
        collectives.all_reduce_int(0)  # the first rank has written the checkpoint
        with agreement.raise_on_all_ranks():
            saved = load_checkpoint(checkpoint)
        self.streamed = stream.Stream(self, saved, file)
        self.streamed.run()
        return {"stream": self.streamed.summary()}

    def write_epoch(self, folder, row):
        append_reloop2_logs(folder, self.args, self.steps_per_epoch, row)

    def rewind_outputs(self, folder, rows):
        rewind_reloop2_logs(folder, self.args, rows)

    def write_outputs(self, folder, checkpoint):
        return self.streamed.write_outputs(folder)
