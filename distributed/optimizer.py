"""Data-parallel training: each rank computes the gradients of its share of a batch.

The shared tables of weights are updated with the sum of the gradients of all ranks.
Shapes: W ranks, M rows of a table that a rank reads in a step, R rows of a table, D dim, n rows of
a piece of a table.
"""

import logging

import torch

from distributed import collectives
from distributed.collectives import OWN

log = logging.getLogger("onebp")


# A row read by its index costs two to four times as much as a row in a sweep over the whole table.
FEW = 4


class ShardedOptimizer:
    """An optimizer that keeps the shared tables equal on all ranks: it sums the ranks' gradients.

    A shared table is exchanged in one of three ways:

    rows: a step reads few of its rows. The ranks exchange the indices and gradients of these rows;
        if all ranks read the same rows, they sum the gradients. Each rank updates all these rows.
    pieces: a step reads many of its rows. The table is cut into W pieces. Each rank receives the
        summed gradient of its piece, updates the piece and sends it to the others. Only this rank
        has the moments of the piece (Rajbhandari et al., ZeRO, arXiv 1910.02054, stage 1).
    sum: it is small and not read by rows. The gradients are summed; each rank updates the table.

    The table of users is not shared: each rank has its own users and updates them alone.
    """

    def __init__(self, make, tables, rows, by_row, schedule):
        """Choose how each table is exchanged, and make the optimizer of this rank.

        make: function of {name: tensor} that returns an optimizer of engine/optimizer.py
        tables: {name: tensor}, changed in place
        rows: {name: number of rows that a step reads of a table}
        by_row: whether that optimizer updates single rows
        schedule: Schedule of the epoch's steps
        """
        self.tables, self.by_row, self.schedule, self.number = tables, by_row, schedule, 0
        # This rank's fraction of the interactions of the step.
        self.share = torch.ones((), device=next(iter(tables.values())).device)
        self.begin = 0  # position of this rank's first interaction in the step's whole batch
        # Rows that a step reads of a table: the largest number of any rank.
        self.widths = {
            name: max(collectives.all_gather_ints(rows[name])) for name in tables if name in rows
        }
        self.common = schedule.sampler.common  # whether all ranks read the same items
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
            # With "sum" and "pieces" two things are sent: gradients to be summed, then the results.
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
        """Choose how a table is exchanged: "rows", "pieces" or "sum"."""
        if name not in self.widths:
            return "sum"
        updated = self.widths[name] * (1 if self.common else collectives.world_size())
        return "rows" if self.by_row or FEW * updated < len(self.tables[name]) else "pieces"

    @staticmethod
    def _make_room(table):
        """Pad a table (R, D) with zeros to W equal pieces. Returns the padded table (W * n, D).

        The memory of `table` becomes the first R rows of the padded table.
        """
        size = -(-len(table) // collectives.world_size())
        room = table.new_zeros(collectives.world_size() * size, *table.shape[1:])
        table.set_(room[: len(table)].copy_(table))
        return room

    @staticmethod
    def _own_piece(room):
        """Return this rank's piece (n, D) of a padded table (W * n, D)."""
        return room.chunk(collectives.world_size())[collectives.rank()]

    def prepare(self, lr):
        """Prepare the next step at learning rate `lr`. Call before each step."""
        sizes = self.schedule.sizes(self.number)
        self.share.fill_(sizes[collectives.rank()] / sum(sizes))
        self.begin = sum(sizes[: collectives.rank()])
        self.number += 1
        self.optimizer.prepare(lr)

    def finish(self):
        """End an epoch: bring every row up to date. The next step is the first one of an epoch."""
        self.number = 0
        self.optimizer.finish()

    def fetch(self, name, index):
        """Fetch the weights that the loss reads from a table.

        index: rows that the batch reads, any shape

        Returns weights (*, D), and for each entry of `index` the position of its row in them.
        """
        way = self.ways.get(name)
        if way == "pieces":
            return self.room[name], index
        if way == "rows":
            # Equal rows keep separate positions: their gradients are summed after the exchange.
            rows = index.flatten()
            weights, _ = self.optimizer.read(name, rows)
            return weights, torch.arange(len(rows), device=rows.device).view(index.shape)
        return self.optimizer.fetch(name, index)

    def train_step(self, batch, index, look, move, follow):
        """Do a step together with all ranks. Returns the loss that `look` returns.

        batch: of this rank
        index: {name: rows that the batch reads of a table}
        look, move, follow: the three parts of a step, see recommender.BatchTrained
        """
        # Compute the gradients, and start all exchanges.
        rows = {
            name: self._start_numbers(name, index[name])
            for name, way in self.ways.items()
            if way == "rows"
        }
        loss, gradients, fetched = look(batch)
        arriving = {name: self._start(name, gradient) for name, gradient in gradients.items()}

        # Draw the next batch meanwhile, then wait for the gradients.
        self.schedule.draw_ahead()
        gradients = {name: arrived() for name, arrived in arriving.items()}
        gradients |= {name: (arrived(), gradients[name]) for name, arrived in rows.items()}

        # Update the weights, and exchange the updated pieces of tables.
        move(batch, gradients, fetched)
        for arrived in [collectives.start_all_gather(room) for room in self.room.values()]:
            arrived()
        follow(batch)
        return loss

    def _start(self, name, gradient):
        """Start exchanging a gradient.

        Returns a function that waits for, and returns, the gradient that `step` takes.
        """
        way = self.ways.get(name)
        if way == "pieces":
            return collectives.start_reduce_scatter(gradient)
        if way == "rows" and self.common:
            # All ranks read the same items, each beginning with its own interactions. Put the
            # rows into the first rank's order.
            return collectives.start_all_reduce(gradient.roll(self.begin, 0))
        if way == "rows":
            return collectives.start_all_gather_padded(gradient, self.widths[name])
        if way == "sum":
            return collectives.start_all_reduce(gradient)
        return lambda: gradient

    def _start_numbers(self, name, index):
        """Start gathering the indices of the rows that the ranks read, in the gradients' order.

        index: rows that this rank reads, any shape

        Returns a function that waits for, and returns, the indices of all ranks.
        """
        if self.common:
            rows = index.flatten().roll(self.begin)
            return lambda: rows
        return collectives.start_all_gather_padded(index.flatten(), self.widths[name])

    def step(self, name, index, weights, place, gradient):
        """Update a table by an exchanged gradient.

        index: rows that this rank's batch reads
        weights, place: returned by `fetch` for this index
        gradient: for a table exchanged by
            pieces: (1 or W, n, D), to be summed over axis 0
            rows: indices (W * M,) and gradients (W * M, D) of the rows that all ranks read
            sum, and for the users: gradient by the weights that `fetch` returned
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
        """Update rows of a table; the gradients of equal rows are summed.

        rows: indices of the rows that all ranks read, (W * M,), (M,) if they read the same
        gradients: their gradients, (W * M, D) or (M, D)
        """
        weights, place = self.optimizer.fetch(name, rows)
        gradient = torch.zeros_like(weights).index_add_(0, place, gradients)
        return self.optimizer.step(name, rows, weights, place, gradient)

    def count(self):
        """Count a step. Call after it, once for all tables."""
        self.optimizer.count()

    def state_dict(self):
        """Return the state of this rank's optimizer.

        The moments of pieces of tables are under the key PIECES, see checkpointing/shards.py.
        """
        state = self.optimizer.state_dict()
        pieces = {name: self._cut(name, state.pop(name)) for name in self.room if name in state}
        return {**state, collectives.PIECES: pieces}

    def _cut(self, name, moments):
        """Remove the padding from the moments of this rank's piece."""
        size = len(self.optimizer.tables[name])
        rows = max(len(self.tables[name]) - collectives.rank() * size, 0)
        return {key: value[:rows] if value.dim() else value for key, value in moments.items()}

    def load_state_dict(self, state):
        """Load the state of an optimizer of whole tables."""
        pieces = {
            name: {key: self._piece(name, value) for key, value in moments.items()}
            for name, moments in state.items()
            if name in self.room
        }
        self.optimizer.load_state_dict(state | pieces)

    def _piece(self, name, moment):
        """Return this rank's piece (n, D) of a whole table's moment (R, D), padded with zeros."""
        if not moment.dim():
            return moment
        if len(moment) != len(self.tables[name]):
            raise ValueError("the optimizer's moments have another shape")
        room = moment.new_zeros(self.room[name].shape)
        room[: len(moment)] = moment
        return self._own_piece(room)
