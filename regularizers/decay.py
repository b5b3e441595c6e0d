"""Fixed regularizers: weight decay (the default), and an L2 penalty on the rows that a batch reads.

Shapes: B batch, R rows of a table, M rows that a batch reads, D dim.
"""

import torch


class Regularizer:
    """Contract of a regularizer; the defaults do nothing.

    Attributes: `decay`, the weight decay that the optimizer uses; `by_row`, whether the optimizer
    may update only the rows of the batch.
    """

    def __init__(self, model, by_row):
        """model: a recommender.BatchTrained
        by_row: whether its optimizer could update only the rows of the batch
        """
        self.decay, self.by_row = 0.0, by_row

    def held_out(self, number, batch):
        """The held-out batch for this step, or None; only lambdaopt has one.

        number: index of the step in the epoch, from 0
        batch: the training batch of the step
        """
        return None

    def add_to_gradients(self, gradients, trained, constant, place, batch, held_out):
        """Add the regularizer's gradients. Returns {name: gradient}, like `gradients`.

        gradients: of the loss of `batch`, with respect to `trained`
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
        folder: folder of the run
        checkpoint: file with the state after the last epoch
        """
        return {}

    def state_dict(self):
        """What decides the rest of the run: tensors and plain types."""
        return {}

    def load_state_dict(self, state):
        """Continue from what `state_dict` returned."""


class WeightDecay(Regularizer):
    """--regularizer decay: weight decay by the optimizer; every weight shrinks in every step."""

    def __init__(self, model, by_row):
        self.decay = model.args.l2
        self.by_row = by_row and not self.decay


class L2Penalty(Regularizer):
    """--regularizer l2: adds --l2 / B times the squares of the rows that a batch reads.

    They are added to the batch's loss. A row that the batch reads c times counts c times, so its
    gradient grows by 2 c / B * strength * weights.
    """

    def __init__(self, model, by_row):
        self.model, self.strength, self.decay, self.by_row = model, model.args.l2, 0.0, by_row

    def add_to_gradients(self, gradients, trained, constant, place, batch, held_out):
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
