"""Weight decay (the default) and the L2 penalty on the rows that a batch reads.

Shapes: B batch, R rows of a table, M rows that a batch reads, D dim.
"""

import torch


class WeightDecay:
    """--regularizer decay: weight decay, which the optimizer does; every weight shrinks in every step."""

    def __init__(self, model, by_row):
        """model: a recommender.Backpropagated; by_row: whether Adam may go by the row (self.by_row: it can)."""
        self.decay = model.args.l2
        self.by_row = by_row and not self.decay

    def held_out(self, number, batch):
        """What the step on `batch`, the epoch's `number`-th from 0, is given to look ahead with, if anything."""
        return None

    def regularised(self, gradients, trained, constant, place, batch, held_out):
        """The gradients with what the regularizer adds, by name, like `gradients`.

        trained, constant, place, batch: what the model's `loss` took; held_out: see above.
        """
        return gradients

    def finish_epoch(self):
        """Call after each epoch."""

    @staticmethod
    def leave(data, folder, checkpoint):
        """Write what a run on `data` leaves of the regularizer; see recommender.Recommender."""
        return {}

    def state_dict(self):
        """All that decides the rest of the run, as tensors and plain types."""
        return {}

    def load_state_dict(self, state):
        """Take over what `state_dict` returned."""


class L2Penalty(WeightDecay):
    """--regularizer l2: to the loss of a batch comes --l2 times the squares of the rows that it touches, over B.

    A row that the batch touches c times counts c times, so its gradient gets 2 c / B * strength * weights.
    """

    def __init__(self, model, by_row):
        self.model, self.strength, self.decay, self.by_row = model, model.args.l2, 0.0, by_row

    def regularised(self, gradients, trained, constant, place, batch, held_out):
        pulls = self.pulls(trained, place, len(batch[0]))
        strength = self.model.share * self.strength
        return gradients | {name: gradients[name] + strength * pull for name, pull in pulls.items()}

    def pulls(self, trained, place, size):
        """What a strength of 1 adds to the gradients, {name: like the weights}, for a batch of `size` interactions."""
        pulls = {}
        for name, weights in trained.items():
            if name in place:
                index = place[name].flatten()
                ones = torch.ones_like(index, dtype=weights.dtype)
                count = torch.zeros_like(weights[:, 0]).index_add_(0, index, ones)
                pulls[name] = 2 / max(size, 1) * count[:, None] * weights
        return pulls
