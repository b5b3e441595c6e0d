"""Adam for whole tables, or only for the rows of a batch.

Shapes: M rows that a step reads, R rows of a table, D dim.
"""

import math

import torch
from torch.optim.adam import adam

from engine.optimizer import Optimizer, decay_by_table
from engine.tables import overwrite, shared_places

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # torch.optim.Adam's defaults
MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")  # Adam's, as torch.optim.Adam names them
# Added to a second moment before the root, which has no derivative at 0. In float32 this changes
# no value above 1e-22.
TINY = 1e-30
SEGMENT = 1024  # most steps between two moments at which every row is up to date
REACH = 160  # steps after which a first moment is negligible: 0.9^160 = 5e-8
NOTHING_MISSED = [0.0, 1.0, 0.0, 0.0]  # what `missed_steps` gives for 0 missed steps


class Adam(Optimizer):
    """The same weights as torch.optim.Adam, to float32's precision; by the row if that is faster.

    `by_row` False: a step updates every row of a table. In eager mode PyTorch's own fused kernel
    does this.

    `by_row` True: a step reads and writes only the rows of its batch. Adam also moves a row in
    steps that give it no gradient, because its moments are not 0. Where it moves follows from the
    row's weights w and moments m, v: after k such steps, after step t, the weights are

        w - sum_{j=1..k} lr / (1 - b1^(t+j)) * b1^j m / (a_j sqrt(v) + eps),
        a_j = sqrt(b2^j / (1 - b2^(t+j)))

    and the moments are b1^j m and b2^j v with j = k. The row makes up for the k steps when it is
    next read. The sum is computed by a Taylor expansion in a_j, which hardly changes during the
    steps in which b1^j is not negligible. With weights A_j = lr b1^j / (1 - b1^(t+j)), the
    expansion needs four numbers: the sum of the A_j, and the weighted mean of the a_j with their
    second and third central moments (the first one is 0). They depend on t and k alone, so
    `missed_steps` tabulates them. Weight decay would give every row a gradient in every step:
    by_row needs l2 = 0.

    `amsgrad`: the largest second moment so far takes the place of v (Reddi et al., arXiv
    1904.09237). In the formula v is this maximum; it stays, so a_j does not contain b2^j.

    `low`: no weight goes below it. Without a gradient a weight moves in one direction, so it is
    enough to clamp it after the k steps.

    Source: Kingma & Ba, arXiv 1412.6980, algorithm 1, with eps outside the root as in
    torch.optim.Adam.
    """

    def __init__(
        self, tables, l2, by_row=False, amsgrad=False, low=-math.inf, decayed=None, beta2=BETA2
    ):
        """Build an optimizer whose moments are 0. Raises ValueError for by_row with weight decay.

        tables: {name: (R, D) tensor}, changed in place; of any shape if no step reads it by rows
        l2, decayed: see SGD in engine/optimizer.py
        by_row, amsgrad, low: see above
        beta2: b2, what a step keeps of the second moment
        """
        if by_row and l2:
            raise ValueError("weight decay moves every row in every step")
        self.tables, self.by_row, self.amsgrad, self.low = tables, by_row, amsgrad, low
        self.beta2 = beta2
        self.l2 = decay_by_table(tables, l2, decayed)
        self.device = next(iter(tables.values())).device
        # m, v and, with amsgrad, the largest v so far: (R, D) each
        self.moments = {
            name: tuple(torch.zeros_like(table) for _ in MOMENTS[: 2 + amsgrad])
            for name, table in tables.items()
        }

        # Steps of all epochs: on the device for compiled code, and the same number on the host.
        self.steps = torch.zeros((), device=self.device)
        self.host_steps = 0

        # A segment is a run of steps at one learning rate, at whose start every row is up to date.
        # Its tables keep their shapes: otherwise a compiled step would be compiled again.
        self.lr = 0.0
        self.done = torch.zeros(1, dtype=torch.int64, device=self.device)  # its steps so far
        self.left = 0  # its steps to come, on the host
        self.unfinished = False  # whether a step was made since every row was up to date
        self.rates = torch.zeros(SEGMENT, 2, device=self.device)  # see `_start_segment`
        self.row_done = {}
        if by_row:
            # (R,) the value of `done` at which a row was last written
            self.row_done = {
                name: torch.zeros(len(table), dtype=torch.int64, device=self.device)
                for name, table in tables.items()
            }
            # (R,) the place of a row in what `fetch` returned, if it is a row of that batch
            self.row_place = {name: done.clone() for name, done in self.row_done.items()}
            # (SEGMENT + 1, 2) b1^k, b2^k
            betas = torch.tensor([BETA1, beta2], dtype=torch.float64)
            powers = betas ** torch.arange(SEGMENT + 1)[:, None]
            self.powers = powers.float().to(self.device)
            # (SEGMENT + 1, REACH, 4) see `missed_steps`. The last entry is for rows that the last
            # step of a full segment wrote: they have missed no step.
            nothing = torch.tensor(NOTHING_MISSED, device=self.device)
            self.missed = nothing.repeat(SEGMENT + 1, REACH, 1)

    def prepare(self, lr):
        # A new learning rate needs new tables, so it begins a new segment.
        if not self.left or lr != self.lr:
            self.lr = lr
            self._start_segment(lr)
        self.left -= 1
        self.host_steps += 1
        self.unfinished = True

    def finish(self):
        if self.by_row and self.unfinished:
            for name, table in self.tables.items():
                # In blocks, to bound the memory of intermediate results.
                every_row = torch.arange(len(table), device=self.device)
                for rows in every_row.split(max(1, (1 << 20) // table.shape[1])):
                    self._write(name, rows, *self._catch_up(name, rows))
        self._end_segment()

    def _end_segment(self):
        """Reset the counters of the segment. Every row must be up to date."""
        for done in self.row_done.values():
            done.zero_()
        self.done.zero_()
        self.left, self.unfinished = 0, False

    def fetch(self, name, index):
        if not self.by_row:
            return super().fetch(name, index)
        rows = index.flatten()
        weights, moments = self._catch_up(name, rows)
        return weights, moments, shared_places(self.row_place[name], rows).view(index.shape)

    def read(self, name, rows):
        return self._catch_up(name, rows) if self.by_row else super().read(name, rows)

    def locate(self, name, index, rows):
        if not self.by_row:
            return super().locate(name, index, rows)
        fetched = index.flatten()
        # A row that was not fetched has the place of an earlier batch, which may be larger.
        place = self.row_place[name].index_select(0, rows).clamp(max=len(fetched) - 1)
        return place, fetched.index_select(0, place) == rows

    def step(self, name, index, weights, moments, place, gradient):
        # By the row: each occurrence of a row takes the row's whole gradient, so equal rows write
        # equal values. Memory is the limit: `fetch` read the moments already, in one visit.
        if self.by_row:
            rows, place = index.flatten(), place.flatten()
            weights, moments = self.update(weights, moments, gradient.index_select(0, place))
            self._write(name, rows, weights, moments)
            self.row_done[name][rows] = self.done + 1
            return weights

        # Whole table, compiled: the compiler fuses `update` with the copies.
        if torch.compiler.is_compiling():
            state = weights, *moments
            decayed = gradient + self.l2[name] * weights
            weights, moments = self.update(weights, moments, decayed)
            for tensor, value in zip(state, (weights, *moments), strict=True):
                tensor.copy_(value)
            return weights

        # Whole table, eager: PyTorch's fused kernel. It increments the number of steps that it is
        # given, so it gets a copy.
        first, second, *largest = moments
        state = [self.tables[name]], [gradient], [first], [second], largest, [self.steps.clone()]
        constants = {"lr": self.lr, "beta1": BETA1, "beta2": self.beta2, "eps": EPS}
        options = {"weight_decay": self.l2[name], "amsgrad": self.amsgrad, "maximize": False}
        adam(*state, fused=True, **constants, **options)
        if self.low > -math.inf:
            self.tables[name].clamp_(min=self.low)
        return self.tables[name]

    def count(self):
        self.done += 1
        self.steps += 1

    def update(self, weights, moments, gradient):
        rate, scale = self.rates.index_select(0, self.done)[0].unbind()
        first, second, *largest = moments
        first = BETA1 * first + (1 - BETA1) * gradient
        second = self.beta2 * second + (1 - self.beta2) * gradient * gradient
        largest = [other.maximum(second) for other in largest]
        root = ((largest or [second])[0] + TINY).sqrt()
        weights = self._clamped(weights - rate * first / (scale * root + EPS))
        return weights, (first, second, *largest)

    def _clamped(self, weights):
        return weights if self.low == -math.inf else weights.clamp(min=self.low)

    def _write(self, name, rows, weights, moments):
        """Write the weights and moments (M, D) of rows (M,)."""
        tables = self.tables[name], *self.moments[name]
        for table, value in zip(tables, (weights, *moments), strict=True):
            table[rows] = value

    def _catch_up(self, name, rows):
        """The weights and moments of rows (M,), (M, D) each, after all steps. Writes nothing."""
        # Look up the four numbers of the steps that each row missed, (M, 1) each. From REACH steps
        # on they do not change noticeably.
        done = self.row_done[name].index_select(0, rows)
        steps = self.done - done  # (M,)
        numbers = self.missed[done, steps.clamp(max=REACH - 1)]  # (M, 4)
        total, mean, variance, skew = numbers[:, :, None].unbind(1)
        decay1, decay2 = self.powers.index_select(0, steps)[:, :, None].unbind(1)

        # Expand 1 / (a_j root + eps) around the mean of the a_j, up to the third order.
        state = self.tables[name], *self.moments[name]
        weights, first, second, *largest = (tensor.index_select(0, rows) for tensor in state)
        root = (largest or [second])[0].sqrt()
        inverse = 1 / (mean * root + EPS)
        ratio = root * inverse
        correction = 1 + ratio * ratio * (variance - ratio * skew)
        weights = self._clamped(weights - total * first * inverse * correction)
        return weights, (decay1 * first, decay2 * second, *largest)

    def _start_segment(self, lr):
        """Bring every row up to date, and fill the tables for the next steps."""
        self.finish()
        # The a_j change fast in the first steps, so the first segments are short.
        begin = self.host_steps
        self.left = min(max(begin // 4, 1), SEGMENT) if self.by_row else SEGMENT
        # Bias corrections of each step: of the learning rate for m, of the root for v.
        step = begin + torch.arange(1, self.left + 1, dtype=torch.float64)
        rates = torch.stack([lr / (1 - BETA1**step), (1 - self.beta2**step).rsqrt()], dim=1)
        self.rates[: self.left] = rates.to(self.rates)
        if self.by_row:
            missed = missed_steps(begin, self.left, lr, self.amsgrad, self.beta2)
            self.missed[: self.left] = missed.to(self.missed)

    def state_dict(self):
        """{name: what torch.optim.Adam keeps of a table}: exp_avg, exp_avg_sq, step, ..."""
        return {
            name: {**dict(zip(MOMENTS, moments, strict=False)), "step": self.steps}
            for name, moments in self.moments.items()
        }

    def load_state_dict(self, state):
        """Continue from what `state_dict` returned.

        Raises ValueError if a moment has another shape or type, or for less than no steps, KeyError
        if one is missing.
        """
        for name in self.tables:
            for moment, key in zip(self.moments[name], MOMENTS, strict=False):
                overwrite(moment, state[name][key])
            overwrite(self.steps, state[name]["step"])
            self.host_steps = int(self.steps)
            if self.host_steps < 0:
                raise ValueError(f"its optimizer made {self.host_steps} steps")
        self._end_segment()


def missed_steps(begin, length, lr, amsgrad=False, beta2=BETA2):
    """Table (length, REACH, 4): [t, k] is for k steps without a gradient after step begin + t.

    Its four numbers, see Adam: the sum of the weights A_j, j = 1..k, then the mean and the second
    and third central moments of the a_j under these weights. For k = 0: NOTHING_MISSED.

    begin: steps made before the segment
    length: steps of the segment
    """
    j = torch.arange(1, REACH, dtype=torch.float64)  # (REACH - 1,)
    step = begin + torch.arange(length)[:, None] + j  # t + j, (length, REACH - 1)
    weight = lr / (1 - BETA1**step) * BETA1**j
    a = ((1 if amsgrad else beta2**j) / (1 - beta2**step)).sqrt()

    # Cumulative sums over j give the raw moments for every k at once.
    total = weight.cumsum(1)
    mean, square, cube = ((weight * a**power).cumsum(1) / total for power in (1, 2, 3))
    variance, skew = square - mean**2, cube - 3 * mean * square + 2 * mean**3
    missed = torch.stack([total, mean, variance, skew], dim=2)
    nothing = torch.tensor(NOTHING_MISSED, dtype=torch.float64).expand(length, 1, 4)
    return torch.cat([nothing, missed], dim=1)
