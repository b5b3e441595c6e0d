"""Fixed regularizers: weight decay (the default), and an L2 penalty on the rows that a batch reads.

Shapes: B batch, R rows of a table, M rows that a batch reads, D dim.
"""

import torch


class WeightDecay:
    """--regularizer decay: weight decay by the optimizer; every weight shrinks in every step.

    Also the contract of a regularizer. `decay` is the weight decay that the optimizer uses.
    `by_row` says whether the optimizer may go by the row.
    """

    def __init__(self, model, by_row):
        """model: a recommender.BatchTrained; by_row: whether its optimizer could go by the row."""
        self.decay = model.args.l2
        self.by_row = by_row and not self.decay

    def held_out(self, number, batch):
        """The held-out batch for this step, or None when the strengths are not updated.

        number: index of the step in the epoch, from 0
        batch: the training batch of the step
        """
        return None

    def regularised(self, gradients, trained, constant, place, batch, held_out):
        """Add the regularizer to the gradients. Returns {name: gradient}, like `gradients`.

        gradients: of the loss of `batch`, by `trained`
        trained, constant, place, batch: the arguments of the model's `loss`
        held_out: what the method `held_out` returned
        """
        return gradients

    def finish_epoch(self):
        """Called after each epoch."""

    @staticmethod
    def write_outputs(data, folder, checkpoint):
        """Write the regularizer's own output files of a run. Returns {topic: paths}.

        data: the data set of the run
        folder: the run's
        checkpoint: file with the state after the last epoch
        """
        return {}

    def state_dict(self):
        """What decides the rest of the run: tensors and plain types."""
        return {}

    def load_state_dict(self, state):
        """Continue from what `state_dict` returned."""


class L2Penalty(WeightDecay):
    """--regularizer l2: adds --l2 / B times the squares of the rows that a batch reads to its loss.

    A row that the batch reads c times counts c times, so its gradient grows by
    2 c / B * strength * weights.
    """

    def __init__(self, model, by_row):
        self.model, self.strength, self.decay, self.by_row = model, model.args.l2, 0.0, by_row

    def regularised(self, gradients, trained, constant, place, batch, held_out):
        penalties = self.penalty_gradients(trained, place, len(batch[0]))
        # Weigh this process's batch in the mean over all processes' batches, like the loss.
        strength = self.model.optimizer.share * self.strength
        return gradients | {
            name: gradients[name] + strength * penalty for name, penalty in penalties.items()
        }

    def penalty_gradients(self, trained, place, size):
        """Gradients of a penalty of strength 1, {name: tensor like the weights}.

        trained: {name: weights (M or R, D)}
        place: {name: the place in these weights of each row that the batch reads}
        size: interactions of the batch, B
        """
        penalties = {}
        for name, weights in trained.items():
            if name in place:
                index = place[name].flatten()
                ones = torch.ones_like(index, dtype=weights.dtype)
                count = torch.zeros_like(weights[:, 0]).index_add_(0, index, ones)
                penalties[name] = 2 / max(size, 1) * count[:, None] * weights
        return penalties
