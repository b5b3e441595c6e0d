"""The contract of an optimizer of tables of weights, and SGD. Adam is in adam.py.

Shapes: M rows that a step reads, R rows of a table, D dim.
"""

import torch

from engine.tables import take


class Optimizer:
    """Contract of an optimizer of tables {name: tensor (R, D)}, which it changes in place.

    Attributes: `tables`; `by_row`, whether a step reads and writes only the rows of its batch;
    `moments`, {name: tuple of tensors like the table}, the running averages of its gradients;
    `share`, this process's share of the interactions of the step; `begin`, the place of its first
    one in the whole batch.

    An epoch makes these calls, in this order:

        for each step:
            prepare(lr)
            announce(index)
            weights, moments, place = fetch(name, index)            for each table
            (compute the gradients of the loss with respect to `weights`)
            gradients = exchange(gradients, meanwhile)
            step(name, index, weights, moments, place, gradient)    for each table
            count()
            publish()
        finish()

    `read`, `locate` and `update` compute the result of a step without making it; see
    regularizers/lambdaopt.py. The defaults are for an optimizer of whole tables in one process.
    `prepare` and `finish` are never compiled; the calls between them can be.
    """

    by_row, share, begin = False, 1.0, 0

    def prepare(self, lr):
        """Prepare the numbers of a step, with learning rate `lr`. Call before each step."""
        raise NotImplementedError

    def finish(self):
        """Bring every row up to date. Call before the tables are read, as after each epoch."""

    def announce(self, index):
        """Called before the gradients are computed. Lets other processes know the rows early.

        index: the rows that the batch reads of each table, {name: index tensor of any shape}
        """

    def fetch(self, name, index):
        """Weights to compute the loss with, and the place in them of each row that the batch reads.

        index: the rows of the batch, an index tensor of any shape; None if the batch reads all

        Returns (weights (M or R, D), moments, place like `index`). The weights are the whole table,
        or copies of the rows that `index` names, up to date; the tuple of moments is what `step`
        needs of these rows. Equal rows have one place, where their gradients add up.
        """
        return self.tables[name], self.moments[name], index

    def read(self, name, rows):
        """The weights and moments of rows (M,), up to date. Writes nothing.

        rows: None, which by_row does not allow, stands for all rows

        Returns (weights (M, D), tuple of moments (M, D)).
        """
        weights = take(self.tables[name], rows)
        return weights, tuple(take(moment, rows) for moment in self.moments[name])

    def locate(self, name, index, rows):
        """Find rows (n,) in the weights that the last `fetch` returned, which was for `index`.

        Returns (place (n,), whether the row is there (n,)); None for the second if all rows are.
        """
        return rows, None

    def update(self, weights, moments, gradient):
        """Compute a step. Writes nothing, and is differentiable everywhere.

        weights, gradient: of equal shape
        moments: tuple of tensors of that shape

        Returns (new weights, new moments).
        """
        raise NotImplementedError

    def exchange(self, gradients, meanwhile):
        """Return the gradients summed over all processes; call `meanwhile` while waiting.

        In one process: the gradients unchanged, without a call of `meanwhile`.
        """
        return gradients

    def step(self, name, index, weights, moments, place, gradient):
        """Make a step of one table, in place. Returns the new weights, which replace `weights`.

        index: the rows of the batch, as for `fetch`
        weights, moments, place: the result of `fetch`
        gradient: of the loss with respect to `weights`, of equal shape
        """
        raise NotImplementedError

    def count(self):
        """Count the step. Call once, after the `step` of the last table."""

    def publish(self):
        """Called after the weights moved: send this process's pieces of tables to the others."""

    def state_dict(self):
        """What decides the next steps, besides the tables: tensors and plain types, no copies."""
        return {}

    def load_state_dict(self, state):
        """Continue from what `state_dict` returned."""


class SGD(Optimizer):
    """Stochastic gradient descent on whole tables: w - lr * (gradient + l2 * w)."""

    def __init__(self, tables, l2, decayed=None):
        """Build an optimizer without moments.

        tables: {name: tensor}, changed in place
        l2: weight decay; l2 * weights is added to the gradient
        decayed: names of the tables whose weights decay; None for all
        """
        self.tables, self.l2 = tables, decay_by_table(tables, l2, decayed)
        self.moments = dict.fromkeys(tables, ())
        self.rate = torch.zeros((), device=next(iter(tables.values())).device)

    def prepare(self, lr):
        self.rate.fill_(lr)

    def update(self, weights, moments, gradient):
        return weights - self.rate * gradient, ()

    def step(self, name, index, weights, moments, place, gradient):
        weights, _ = self.update(weights, (), gradient + self.l2[name] * weights)
        return self.tables[name].copy_(weights)


def decay_by_table(tables, l2, decayed):
    """{name: weight decay}: l2 for the tables named in `decayed` (None: all), 0 for the others."""
    return {name: l2 if decayed is None or name in decayed else 0.0 for name in tables}
