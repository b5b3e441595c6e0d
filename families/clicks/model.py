"""What models of clicks have in common: the loss, the evaluation, and the stream in the end.

Shapes: B batch, m rows, F fields, d numbers of a key.
"""

import torch
from torch.nn import functional

from checkpointing.files import load_checkpoint
from families.clicks import stream
from families.clicks.dataset import ImpressionBatches, RowRange
from families.clicks.metrics import ClickMetrics, UserClickMetrics, judges_users
from families.clicks.networks import NETWORKS
from recommender import BatchTrained


class ClickModel(BatchTrained):
    """Learns clicks from them, by cross-entropy, --l2 being the weight decay of embeddings; streamed in the end."""

    modes = ("evaluate",)
    identifying = ("model", "dim", "hidden", "layers")

    def __init__(self, data, args, device):
        """See Recommender. Raises UserError where the stream would have an empty slot."""
        stream.check_slots(data, args)
        super().__init__(data, args, device)
        self.evaluator = type(self.evaluators["test"])
        self.streamed = None

    @staticmethod
    def evaluator_class(args):
        return ClickMetrics

    def rows_of(self, part):
        """The clicks.Rows of a part."""
        return RowRange(self.data, *self.data.parts[part], self.device)

    def make_evaluators(self):
        parts = {part: rows for part in ("test", "valid") if len(rows := self.rows_of(part))}
        kind = UserClickMetrics if all(map(judges_users, parts.values())) else ClickMetrics
        return {part: kind(rows) for part, rows in parts.items()}

    def make_encoder(self):
        return NETWORKS[self.args.model](self.data, self.args, self.generator)

    def make_sampler(self):
        return ImpressionBatches(self.data, self.data.parts["train"], self.args, self.generator)

    def decayed(self):
        return ["embedding"]

    def rows_read(self):
        return {"embedding": self.args.batch_size * len(self.data.fields)}

    def touched(self, ids, labels):
        return {"embedding": ids}

    def loss(self, trained, constant, place, ids, labels):
        return functional.binary_cross_entropy_with_logits(
            self.encoder(trained, place["embedding"]).logits, labels
        )

    @torch.no_grad()
    def predict(self, ids, key):
        """Predict clicks on impressions.

        ids (m, F)
        key: name of the field of networks.Outputs to return as keys of a memory

        Returns probabilities (m,) and keys (m, d).
        """
        outputs = self.encoder(self.weights, ids)
        return outputs.logits.sigmoid(), getattr(outputs, key)

    def scorer(self):
        return lambda ids: self.predict(ids, "hidden")[0]

    def baselines(self):
        """Metrics of predicting the share of clicks in the training part, for every impression."""
        share = self.data.clicks
        return {
            "Click rate": self.evaluators["test"].evaluate(
                lambda ids: torch.full_like(ids[:, 0], share, dtype=torch.float32)
            )
        }

    def concluded(self, folder):
        return stream.is_done(folder / stream.FILE, self.args)

    def conclude(self, checkpoint, folder):
        self.streamed = stream.Stream(
            self, load_checkpoint(checkpoint), folder and folder / stream.FILE
        )
        self.streamed.run()
        return {"stream": self.streamed.summary()}

    def leave(self, folder, checkpoint):
        return self.streamed.leave(folder)
