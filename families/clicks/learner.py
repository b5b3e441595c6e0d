"""StreamLearner: a model, with a memory of its errors, that learns from a stream slot by slot.

Shapes: n rows of a slot, m rows of a block, d numbers of a key.
"""

import math

from checkpointing.shards import whole_model
from cli.errors import Diverged
from cli.registry import find
from families.clicks.batches import ImpressionBatches
from families.clicks.dataset import RowRange
from families.clicks.family import MEMORIES


class StreamLearner:
    """Predicts each slot, then learns from it once the labels are known.

    Without --memory it has no memory. If it is not incremental, its model stays as it was trained.
    """

    def __init__(self, model, state, args, incremental):
        """Start before the first slot.

        model: ClickModel
        state: the model's state in the checkpoint
        args: flags, with the settings of this learner's memory
        incremental: whether to train the model on each slot; it is a copy then
        """
        self.args, self.incremental = args, incremental
        self.model = model
        if incremental:
            # The copy continues the training. A slot has few steps, so compiling would not pay.
            self.model = type(model)(model.data, args.replace(compile="off"), model.device)
            self.model.start_training(state)
        # First row of the stream, width of a key, memory; all are known from the first slot on.
        self.start, self.width, self.memory = None, None, None

    def predict(self, rows):
        """Predict a slot. Yields (probabilities (m,), Similar examples or None) by blocks.

        Of several ranks, each predicts its portion of a block.

        rows: RowRange of the slot

        Similar is None without a memory. Its examples are from earlier slots only.
        """
        self.start = rows.start if self.start is None else self.start
        self.predicted = []  # what `learn` will write to the memory
        for ids, labels in rows.own_blocks():
            probabilities, keys = self.model.predict(ids, self.args.memory_key)
            similar = None
            if self.args.memory != "none":
                self.make_memory(keys.shape[1])
                address = self.memory.address(keys)
                similar = self.memory.read(address)
                self.predicted.append((address, labels, probabilities))
            yield probabilities, similar

    def make_memory(self, width):
        """Make an empty memory for keys (m, d), unless there is a memory. width: d"""
        self.width = width
        self.memory = self.memory or find(MEMORIES, self.args.memory)(
            width, self.args, self.model.device
        )

    def learn(self, rows):
        """Learn from a slot, after `predict`. rows: RowRange of the slot"""
        if self.incremental:
            self.train(rows)
            if self.memory:
                self.refill(rows.stop)
        elif self.memory:
            for block in self.predicted:
                self.write(*block)
            self.memory.settle()
        self.predicted = []

    def train(self, rows):
        """Train the model on a slot, one pass. Raises Diverged if the loss is not finite."""
        span = rows.start, rows.stop
        batches = ImpressionBatches(rows.data, span, self.args, self.model.generator)
        self.model.train_on(batches)
        lr = self.args.incremental_lr or self.args.lr
        if not math.isfinite(loss := self.model.train_epoch(lr, lambda: None)):
            raise Diverged(
                f"the loss is {loss} in rows {rows.start} to {rows.stop}; "
                f"lower --incremental_lr ({lr:g})"
            )

    def refill(self, stop):
        """Rebuild the memory from the latest --memory_size examples before row `stop`.

        After training, the model computes other keys and predictions for the same examples.
        """
        self.memory = None
        self.make_memory(self.width)
        first = max(self.start, stop - self.args.memory_size)
        for ids, labels in RowRange(self.model.data, first, stop, self.model.device).own_blocks():
            probabilities, keys = self.model.predict(ids, self.args.memory_key)
            self.write(self.memory.address(keys), labels, probabilities)
        self.memory.settle()

    def write(self, address, labels, probabilities):
        """Store the examples whose error is above --memory_sigma.

        address: keys of m examples, from the memory's `address`
        labels, probabilities (m,)
        """
        wrong = (labels - probabilities).abs() > self.args.memory_sigma
        self.memory.write(address[wrong], labels[wrong], probabilities[wrong])

    def state_dict(self):
        """Return all that decides the rest of the stream. The tensors are not copies.

        All ranks must call it; it is whole on the first one.
        """
        return {
            "start": self.start,
            "width": self.width,
            "memory": self.memory.state_dict() if self.memory else None,
            "model": whole_model(self.model.state_dict()) if self.incremental else None,
        }

    def load_state_dict(self, state):
        """Take over what `state_dict` returned."""
        self.start, self.width = state["start"], state["width"]
        if not {type(self.start), type(self.width)} <= {int, type(None)}:
            raise ValueError("its first row or its width is no number")
        if self.incremental:
            self.model.load_state_dict(state["model"])
        if state["memory"]:
            self.make_memory(self.width)
            self.memory.load_state_dict(state["memory"])
