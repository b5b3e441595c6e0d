"""Training in step: each rank trains on its part of a batch, and what all have in common moves by the sum.

Shapes: W ranks, M rows that a rank's part of a step reads, R rows of a table, D dim.
"""

import logging

import torch

from distributed import collectives
from distributed.collectives import OWN

log = logging.getLogger("onebp")


FEW = 4  # a row picked out of a table costs two to so many times what it costs in a sweep over the whole table


class ShardedOptimizer:
    """An optimizer whose shared tables take the sum of all ranks' gradients in each step, and so stay the same.

    A table goes one of three ways:

    rows: few of its rows are read; the ranks send each other the numbers and gradients of these, or sum the gradients
        where they all read the same rows, and all move them;
    pieces: it is read by rows, by many; each rank gets the sum for its piece of the table, 1/W, moves that, for which
        it alone keeps moments, and sends it to the others (Rajbhandari et al., ZeRO, arXiv 1910.02054, stage 1);
    sum: it is not read by rows, and small; the gradient is summed, and all move the table.
    """

    def __init__(self, make, tables, rows, by_row, schedule):
        """make: of {name: tensor}, an optimizer, see optimizer.py, that is by_row or not; schedule: above.

        tables: {name: tensor}, changed in place; rows: how many rows a step reads of a table, by the table's name.
        """
        self.tables, self.by_row, self.schedule, self.number = tables, by_row, schedule, 0
        self.share = torch.ones(
            (), device=next(iter(tables.values())).device
        )  # of the step's interactions
        self.begin = 0  # where this rank's part of the step's batch begins
        self.widths = {
            name: max(collectives.all_gather_ints(rows[name])) for name in tables if name in rows
        }  # of any rank
        self.common = schedule.sampler.common
        self.ways = {name: self._way(name) for name in tables if name != OWN}
        self.room = {
            name: self._make_room(tables[name])
            for name, way in self.ways.items()
            if way == "pieces"
        }
        self.optimizer = make(
            tables | {name: self._own_piece(room) for name, room in self.room.items()}
        )
        for name, way in self.ways.items():
            # A sum, and pieces, are sent twice: gradients to where they are added up, and what becomes of them to all.
            size = self.widths[name] if way == "rows" else len(tables[name])
            if way != "rows" or self.common:
                size *= 2 / collectives.world_size()
            traffic = 4 * (collectives.world_size() - 1) * size * tables[name][0].numel()
            log.info(
                "gradients of %s: exchanged by %s, %.3g MB a step from each rank",
                name,
                way,
                traffic / 1e6,
            )

    def _way(self, name):
        if name not in self.widths:
            return "sum"
        moved = self.widths[name] * (1 if self.common else collectives.world_size())
        return "rows" if self.by_row or FEW * moved < len(self.tables[name]) else "pieces"

    @staticmethod
    def _make_room(table):
        """Move a table (R, D) to where there is room for W equal pieces, (W * n, D), which is returned."""
        size = -(-len(table) // collectives.world_size())
        room = table.new_zeros(collectives.world_size() * size, *table.shape[1:])
        table.set_(room[: len(table)].copy_(table))
        return room

    @staticmethod
    def _own_piece(room):
        """This rank's piece (n, D) of (W * n, D)."""
        return room.chunk(collectives.world_size())[collectives.rank()]

    def prepare(self, lr):
        """Call before each step."""
        sizes = self.schedule.sizes(self.number)
        self.share.fill_(sizes[collectives.rank()] / sum(sizes))
        self.begin = sum(sizes[: collectives.rank()])
        self.number += 1
        self.optimizer.prepare(lr)

    def finish(self):
        """Call at the end of an epoch."""
        self.number = 0
        self.optimizer.finish()

    def fetch(self, name, index):
        """(weights (*, D), the place in them of each row that `index` (any shape) names), for the loss."""
        way = self.ways.get(name)
        if way == "pieces":
            return self.room[name], index
        if (
            way == "rows"
        ):  # equal rows keep places of their own: their gradients are summed where they arrive
            rows = index.flatten()
            return self.optimizer.read(name, rows)[0], torch.arange(
                len(rows), device=rows.device
            ).view(index.shape)
        return self.optimizer.fetch(name, index)

    def train_step(self, batch, index, look, move, follow):
        """A step of all ranks, from the parts of recommender.Backpropagated's. Returns the loss that `look` does.

        index: the rows that the batch reads of a table, by its name. The next batch is drawn while gradients are sent.
        """
        rows = {
            name: self._start_numbers(name, index[name])
            for name, way in self.ways.items()
            if way == "rows"
        }
        loss, gradients, fetched = look(batch)
        arriving = {name: self._start(name, gradient) for name, gradient in gradients.items()}
        self.schedule.draw_ahead()
        gradients = {name: arrived() for name, arrived in arriving.items()}
        gradients |= {name: (arrived(), gradients[name]) for name, arrived in rows.items()}
        move(batch, gradients, fetched)
        for arrived in [collectives.start_all_gather(room) for room in self.room.values()]:
            arrived()
        follow(batch)
        return loss

    def _start(self, name, gradient):
        """Begin to send a gradient. Returns a function that waits for what `step` shall have in its place."""
        way = self.ways.get(name)
        if way == "pieces":
            return collectives.start_reduce_scatter(gradient)
        if way == "rows" and self.common:
            return collectives.start_all_reduce(
                gradient.roll(self.begin, 0)
            )  # in the order of the first rank
        if way == "rows":
            return collectives.start_all_gather_padded(gradient, self.widths[name])
        if way == "sum":
            return collectives.start_all_reduce(gradient)
        return lambda: gradient

    def _start_numbers(self, name, index):
        """Begin to send the numbers of the rows that this rank reads; those of all ranks arrive."""
        if self.common:
            rows = index.flatten().roll(self.begin)
            return lambda: rows
        return collectives.start_all_gather_padded(index.flatten(), self.widths[name])

    def step(self, name, index, weights, place, gradient):
        """Move a table. gradient: what has arrived.

        Pieces: (any number, n, D), whose sum is that of this rank's piece; rows: (numbers (all M,), gradients
        (all M, D)); else the whole gradient, with what `fetch` returned for the index.
        """
        way = self.ways.get(name)
        if way == "pieces":
            return self.optimizer.step(
                name, None, self.optimizer.tables[name], None, gradient.sum(0)
            )
        if way == "rows":
            return self._step_rows(name, *gradient)
        return self.optimizer.step(name, index, weights, place, gradient)

    def _step_rows(self, name, rows, gradients):
        """Move a table by the gradients (all ranks' M, D) of `rows` (all ranks' M,), any of them several times."""
        weights, place = self.optimizer.fetch(name, rows)
        gradient = torch.zeros_like(weights).index_add_(0, place, gradients)
        return self.optimizer.step(name, rows, weights, place, gradient)

    def count(self):
        """Call after the step, once for all tables."""
        self.optimizer.count()

    def state_dict(self):
        """Like an optimizer's, but what belongs to pieces of tables is by itself, see shards.py."""
        state = self.optimizer.state_dict()
        pieces = {name: self._cut(name, state.pop(name)) for name in self.room if name in state}
        return {**state, collectives.PIECES: pieces}

    def _cut(self, name, moments):
        """The moments of this rank's piece without the rows that the table does not have."""
        size = len(self.optimizer.tables[name])
        rows = max(len(self.tables[name]) - collectives.rank() * size, 0)
        return {key: value[:rows] if value.dim() else value for key, value in moments.items()}

    def load_state_dict(self, state):
        """Take over the state of an optimizer of whole tables."""
        pieces = {
            name: {key: self._piece(name, value) for key, value in moments.items()}
            for name, moments in state.items()
            if name in self.room
        }
        self.optimizer.load_state_dict(state | pieces)

    def _piece(self, name, moment):
        """This rank's piece of a moment (R, D) of the whole table, with zeros for rows that the table does not have."""
        if not moment.dim():
            return moment
        if len(moment) != len(self.tables[name]):
            raise ValueError("the optimizer's moments have another shape")
        room = moment.new_zeros(self.room[name].shape)
        room[: len(moment)] = moment
        return self._own_piece(room)
