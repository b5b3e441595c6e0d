"""A model that predicts slots of a stream one after the other, and learns from each.

Shapes: m rows of a block.
"""

import math

from cli.errors import Diverged
from cli.registry import find
from families.clicks.dataset import ImpressionBatches, RowRange
from families.clicks.family import MEMORIES


class StreamLearner:
    """A model that predicts the slots one after the other, the memory of its errors, and how it learns from a slot."""

    def __init__(self, model, state, args, incremental):
        """model: a ClickModel; state: its checkpoint's; args: with the settings of the memory; incremental: whether the
        model goes on learning, or only its memory does.
        """
        self.args, self.incremental = args, incremental
        self.model = model
        if incremental:  # a model of its own, that steps as it was trained to; for so few steps nothing is compiled
            self.model = type(model)(model.data, args.replace(compile="off"), model.device)
            self.model.start_training(state)
        self.start, self.width, self.memory = None, None, None

    def look(self, rows):
        """Yield (chances (m,), what the memory has of Similar examples, or None) of a slot, block by block."""
        self.start = rows.start if self.start is None else self.start
        self.seen = []
        for ids, labels in rows.blocks():
            chances, keys = self.model.predict(ids, self.args.memory_key)
            similar = None
            if self.args.memory != "none":
                self.remember(keys.shape[1])
                address = self.memory.address(keys)
                similar = self.memory.read(address)
                self.seen.append((address, labels, chances))
            yield chances, similar

    def remember(self, width):
        """Have a memory, of nothing if there was none, for keys of `width` numbers."""
        self.width = width
        self.memory = self.memory or find(MEMORIES, self.args.memory)(
            width, self.args, self.model.device
        )

    def learn(self, rows):
        """Learn from a slot that was looked at."""
        if self.incremental:
            self.update(rows)
            if self.memory:
                self.refill(rows.stop)
        elif self.memory:
            for example in self.seen:
                self.write(*example)
        self.seen = []

    def update(self, rows):
        """One pass of training over the slot."""
        self.model.train_on(
            ImpressionBatches(rows.data, (rows.start, rows.stop), self.args, self.model.generator)
        )
        lr = self.args.incremental_lr or self.args.lr
        if not math.isfinite(loss := self.model.train_epoch(lr, lambda: None)):
            raise Diverged(
                f"the loss is {loss} in rows {rows.start} to {rows.stop}; lower --incremental_lr ({lr:g})"
            )

    def refill(self, stop):
        """The keys of a model that was updated are others: remember the latest examples anew, as it sees them now."""
        self.memory = None
        self.remember(self.width)
        latest = RowRange(
            self.model.data, max(self.start, stop - self.args.memory_size), stop, self.model.device
        )
        for ids, labels in latest.blocks():
            chances, keys = self.model.predict(ids, self.args.memory_key)
            self.write(self.memory.address(keys), labels, chances)

    def write(self, address, labels, chances):
        """Remember the examples whose error is above --memory_sigma."""
        kept = (labels - chances).abs() > self.args.memory_sigma
        self.memory.write(address[kept], labels[kept], chances[kept])

    def state_dict(self):
        """All that decides the rest of the stream."""
        return {
            "start": self.start,
            "width": self.width,
            "memory": self.memory.state_dict() if self.memory else None,
            "model": self.model.state_dict() if self.incremental else None,
        }

    def load_state_dict(self, state):
        """Take over what `state_dict` returned."""
        self.start, self.width = state["start"], state["width"]
        if self.incremental:
            self.model.load_state_dict(state["model"])
        if state["memory"]:
            self.remember(self.width)
            self.memory.load_state_dict(state["memory"])
