"""Optimizers of tables of encodings: SGD, and Adam, whole or only the rows that a step touches.

Shapes: M rows that a step reads, R rows of a table, D dim.
"""

import math

import torch
from torch.optim.adam import adam

from engine.tables import merge, take

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # torch.optim.Adam's defaults
SEGMENT = 1024  # most steps between two moments when every row is up to date
TINY = 1e-30  # beneath the root of a second moment: a root has no slope at 0, and a float32 above 1e-22 keeps its value
MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")  # Adam's, as torch.optim.Adam calls them
NOTHING_MISSED = [0.0, 1.0, 0.0, 0.0]  # of the moments in `missed_steps`
REACH = 160  # steps after which a first moment is spent: 0.9^160 = 5e-8


class SGD:
    """Stochastic gradient descent on whole tables: w - lr * (gradient + l2 * w)."""

    by_row = False

    def __init__(self, tables, l2, decayed=None):
        """tables: {name: tensor}, changed in place; l2: weight decay, added to the gradient as l2 * weights.

        decayed: the names of the tables whose weights decay (None: all).
        """
        self.tables, self.l2 = tables, decays(tables, l2, decayed)
        self.moments = dict.fromkeys(tables, ())
        self.rate = torch.zeros((), device=next(iter(tables.values())).device)

    def prepare(self, lr):
        """Call before each step: makes the step's scalars ready. Outside of the compiled code."""
        self.rate.fill_(lr)

    def finish(self):
        """Every row is up to date; see Adam."""

    def fetch(self, name, index):
        """See Adam; here it is the whole table."""
        return self.tables[name], index

    def read(self, name, rows):
        """See Adam; there are no moments."""
        return take(self.tables[name], rows), ()

    def locate(self, name, index, rows):
        """See Adam."""
        return rows, None

    def update(self, weights, moments, gradient):
        """A step from the weights (*), their moments (there are none) and the gradient (*): (the new weights, ())."""
        return weights - self.rate * gradient, ()

    def step(self, name, index, weights, place, gradient):
        """Update a table by the gradient (R, D). Returns it."""
        return self.tables[name].copy_(
            self.update(weights, (), gradient + self.l2[name] * weights)[0]
        )

    def count(self):
        """Call after the step, once for all tables."""

    def state_dict(self):
        """Nothing: each step starts afresh."""
        return {}

    def load_state_dict(self, state):
        """Take over nothing."""


class Adam:
    """The trajectory of torch.optim.Adam, to the tolerance of float32, by the row where that pays.

    `whole`: a step updates every row of a table. In eager mode that is PyTorch's own fused kernel.

    `by_row`: a step reads and writes only the rows it touches. Adam moves a row also in the steps that give it no
    gradient, for its moments live on, but where it then is follows from where it was: after k such steps from step t on

        w - sum_{j=1..k} lr / (1 - b1^(t+j)) * b1^j m / (a_j sqrt(v) + eps),   a_j = sqrt(b2^j / (1 - b2^(t+j)))

    and m, v are b1^j m, b2^j v. The k steps are made up for when the row is next read. a_j hardly changes over the few
    steps that b1^j lets count, so the sum is its value at the mean of the a_j, weighted by A_j =
    lr b1^j / (1 - b1^(t+j)), with the second and the third central moment as corrections (Taylor; the first vanishes).
    These four numbers depend on t and k alone and lie in a table. Weight decay would give every row a gradient in every
    step: by_row needs l2 = 0.

    Sources: Kingma & Ba, arXiv 1412.6980, algorithm 1, eps outside the root as in torch.optim.Adam. `amsgrad`: the
    largest v so far takes the place of v (Reddi et al., arXiv 1904.09237); in the formula above it is v, and b2^j is
    not in a_j, since it stays. `low`: no weight goes below; in steps without a gradient a weight moves one way, so it
    is enough to see to it in the end.
    """

    def __init__(self, tables, l2, by_row=False, amsgrad=False, low=-math.inf, decayed=None):
        """tables: {name: (R, D) tensor}, changed in place; those that no step reads by rows, of any shape.

        l2, decayed: see SGD. by_row, amsgrad, low: see above.
        """
        if by_row and l2:
            raise ValueError("weight decay moves every row in every step")
        self.tables, self.by_row, self.amsgrad, self.low = tables, by_row, amsgrad, low
        self.l2 = decays(tables, l2, decayed)
        self.device = next(iter(tables.values())).device
        # m, v and perhaps the largest v so far, (R, D) each
        self.moments = {
            name: tuple(torch.zeros_like(table) for _ in MOMENTS[: 2 + amsgrad])
            for name, table in tables.items()
        }
        self.steps = torch.zeros((), device=self.device)  # over all epochs
        self.taken = 0  # the same number, on the host
        self.lr = 0.0
        # Of the segment, the steps since every row was up to date. The tables keep their shapes: a compiled step
        # would have to be compiled again.
        self.done = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.left = 0
        self.behind = False  # whether a step was taken since
        self.rates = torch.zeros(SEGMENT, 2, device=self.device)
        self.seen = {}
        if by_row:
            counts = {
                name: torch.zeros(len(t), dtype=torch.int64, device=self.device)
                for name, t in tables.items()
            }
            self.seen = counts  # (R,) the value of `done` that a row is up to date with
            self.mark = {name: count.clone() for name, count in counts.items()}  # (R,) see `merge`
            powers = (
                torch.tensor([BETA1, BETA2], dtype=torch.float64)
                ** torch.arange(SEGMENT + 1)[:, None]
            )
            self.decay = powers.float().to(self.device)  # (SEGMENT + 1, 2) b1^k, b2^k
            # The last row is for rows that a segment's last step touched: they have missed nothing.
            self.missed = torch.tensor(NOTHING_MISSED, device=self.device).repeat(
                SEGMENT + 1, REACH, 1
            )

    def prepare(self, lr):
        """Call before each step: makes the step's scalars ready. Outside of the compiled code."""
        if not self.left or lr != self.lr:
            self.lr = lr
            self._start_segment(lr)
        self.left -= 1
        self.taken += 1
        self.behind = True

    def finish(self):
        """Bring every row up to date. Call before the tables are read, and before the learning rate changes."""
        if self.by_row and self.behind:
            for name, table in self.tables.items():
                for rows in torch.arange(len(table), device=self.device).split(
                    max(1, (1 << 20) // table.shape[1])
                ):
                    weights, moments = self._catch_up(name, rows)
                    for tensor, value in zip(
                        (table, *self.moments[name]), (weights, *moments), strict=True
                    ):
                        tensor[rows] = value
        self._all_up_to_date()

    def _all_up_to_date(self):
        """Start counting anew."""
        for seen in self.seen.values():
            seen.zero_()
        self.done.zero_()
        self.left, self.behind = 0, False

    def fetch(self, name, index):
        """Weights to compute a step with, and the place in them of the rows `index` (any shape): (M, D) and like index.

        They are the whole table and `index` itself, or copies of the rows touched, brought up to date. Equal rows have
        one place, so that a gradient by these weights is summed there.
        """
        if not self.by_row:
            return self.tables[name], index
        rows = index.flatten()
        return self._catch_up(name, rows)[0], merge(self.mark[name], rows).view(index.shape)

    def read(self, name, rows):
        """(weights, moments) of rows (M,), None for all, up to date: (M, D) each; nothing is written."""
        if self.by_row:
            return self._catch_up(name, rows)
        return take(self.tables[name], rows), tuple(
            take(moment, rows) for moment in self.moments[name]
        )

    def locate(self, name, index, rows):
        """Where rows (n,) are in what `fetch` returned for `index` last: (place (n,), whether they are there (n,)).

        None in place of the second where all are.
        """
        if not self.by_row:
            return rows, None
        fetched = index.flatten()
        place = (
            self.mark[name].index_select(0, rows).clamp(max=len(fetched) - 1)
        )  # that of another step may be larger
        return place, fetched.index_select(0, place) == rows

    def step(self, name, index, weights, place, gradient):
        """Update a table from what `fetch` returned for `index` and the gradient by these weights, same shape.

        Returns these weights, updated.
        """
        if self.by_row:
            rows, place = index.flatten(), place.flatten()
            _, moments = self._catch_up(name, rows)
            weights, moments = self.update(weights, moments, gradient.index_select(0, place))
            # Equal rows write the same values.
            for tensor, value in zip(
                (self.tables[name], *self.moments[name]), (weights, *moments), strict=True
            ):
                tensor[rows] = value
            self.seen[name][rows] = self.done + 1
            return weights
        if torch.compiler.is_compiling():
            state = weights, *self.moments[name]
            weights, moments = self.update(
                weights, self.moments[name], gradient + self.l2[name] * weights
            )
            for tensor, value in zip(state, (weights, *moments), strict=True):
                tensor.copy_(value)
            return weights
        settings = {
            "lr": self.lr,
            "beta1": BETA1,
            "beta2": BETA2,
            "eps": EPS,
            "weight_decay": self.l2[name],
        }
        first, second, *largest = self.moments[name]
        state = [self.tables[name]], [gradient], [first], [second], largest, [self.steps.clone()]
        adam(*state, fused=True, amsgrad=self.amsgrad, maximize=False, **settings)
        if self.low > -math.inf:
            self.tables[name].clamp_(min=self.low)
        return self.tables[name]

    def count(self):
        """Call after the step, once for all tables."""
        self.done += 1
        self.steps += 1

    def update(self, weights, moments, gradient):
        """A step from the weights (*), their moments and the gradient (*): the new (weights, moments).

        Nothing is written, and it can be differentiated everywhere.
        """
        rate, scale = self.rates.index_select(0, self.done)[0].unbind()
        first, second, *largest = moments
        first = BETA1 * first + (1 - BETA1) * gradient
        second = BETA2 * second + (1 - BETA2) * gradient * gradient
        largest = [other.maximum(second) for other in largest]
        root = ((largest or [second])[0] + TINY).sqrt()
        return self._bounded(weights - rate * first / (scale * root + EPS)), (
            first,
            second,
            *largest,
        )

    def _bounded(self, weights):
        return weights if self.low == -math.inf else weights.clamp(min=self.low)

    def _catch_up(self, name, rows):
        """(weights, moments) of rows (M,), each (M, D), after all steps done; nothing is written."""
        seen = self.seen[name].index_select(0, rows)  # (M,)
        steps = self.done - seen
        total, mean, variance, skew = self.missed[seen, steps.clamp(max=REACH - 1)][
            :, :, None
        ].unbind(1)  # (M, 1) each
        decay1, decay2 = self.decay.index_select(0, steps)[:, :, None].unbind(1)
        state = self.tables[name], *self.moments[name]
        weights, first, second, *largest = (part.index_select(0, rows) for part in state)
        root = (largest or [second])[0].sqrt()
        inverse = 1 / (mean * root + EPS)
        ratio = root * inverse
        bend = 1 + ratio * ratio * (variance - ratio * skew)
        return self._bounded(weights - total * first * inverse * bend), (
            decay1 * first,
            decay2 * second,
            *largest,
        )

    def _start_segment(self, lr):
        """Tables for the steps to come. Early on a_j changes fast, so every row is brought up to date more often."""
        self.finish()
        begin = self.taken
        self.left = min(max(begin // 4, 1), SEGMENT) if self.by_row else SEGMENT
        step = begin + torch.arange(1, self.left + 1, dtype=torch.float64)
        rates = torch.stack([lr / (1 - BETA1**step), (1 - BETA2**step).rsqrt()], dim=1)
        self.rates[: self.left] = rates.to(self.rates)
        if self.by_row:
            self.missed[: self.left] = missed_steps(begin, self.left, lr, self.amsgrad).to(
                self.missed
            )

    def state_dict(self):
        """By table what torch.optim.Adam keeps: exp_avg, exp_avg_sq, step, ... The moments are live, no copies."""
        return {
            name: {**dict(zip(MOMENTS, moments, strict=False)), "step": self.steps}
            for name, moments in self.moments.items()
        }

    def load_state_dict(self, state):
        """Take over what `state_dict` returned. Raises ValueError for another shape, KeyError for an absent one."""
        for name in self.tables:
            for mine, saved in zip(self.moments[name], MOMENTS, strict=False):
                if state[name][saved].shape != mine.shape:
                    raise ValueError("the optimizer's moments have another shape")
                mine.copy_(state[name][saved])
            self.steps.copy_(state[name]["step"])
            self.taken = int(self.steps)
        self._all_up_to_date()


def missed_steps(begin, length, lr, amsgrad=False):
    """Table (length, REACH, 4): [t, k] for k steps without a gradient after step begin + t.

    Sum of the weights A_j, j = 1..k, then the mean and the second and third central moments of the a_j under them; see
    Adam. For k = 0 the sum is 0.
    """
    taken = torch.arange(1, REACH, dtype=torch.float64)  # j (REACH - 1,)
    step = begin + torch.arange(length)[:, None] + taken  # (length, REACH - 1)
    weight = lr / (1 - BETA1**step) * BETA1**taken
    a = ((1 if amsgrad else BETA2**taken) / (1 - BETA2**step)).sqrt()
    total = weight.cumsum(1)
    mean, square, cube = ((weight * a**power).cumsum(1) / total for power in (1, 2, 3))
    moments = torch.stack(
        [total, mean, square - mean**2, cube - 3 * mean * square + 2 * mean**3], dim=2
    )
    none = torch.tensor(NOTHING_MISSED, dtype=torch.float64).expand(length, 1, 4)
    return torch.cat([none, moments], dim=1)


def decays(tables, l2, decayed):
    """The weight decay of each table: l2 for those `decayed` (None: all), else 0."""
    return {name: l2 if decayed is None or name in decayed else 0.0 for name in tables}
