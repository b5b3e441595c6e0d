"""Data-parallel training: each process computes gradients on its share of the batch.

The shared tables of weights are updated with the sum of the gradients of all processes. If each
process computes the whole gradient of a piece of a table, there is nothing to sum.
Shapes: W ranks, M rows of a table that a rank reads in a step, R rows of a table, D dim, n rows of
a piece of a table.
"""

import logging

import torch

from distributed import collectives
from engine.optimizer import Optimizer

log = logging.getLogger("onebp")

# A row read by its index costs two to four times as much as a row in a sweep over the table.
FEW = 4


def reads_few_rows(tables, rows, per_user, same_items):
    """Whether a step reads so few rows of the tables that it pays to visit them one by one.

    tables: {table: number of its rows}
    rows: {table: rows that a step reads on one rank}
    per_user: names of the tables with a row per user, of which each rank has its own users' rows
    same_items: whether all ranks read the same rows of the other tables
    """
    # Ranks that read rows of their own, so that the rows of all of them are updated.
    ranks = collectives.world_size()
    readers = {name: 1 if name in per_user or same_items else ranks for name in tables}
    return FEW * sum(rows[name] * readers[name] for name in tables) < sum(tables.values())


def optimizer_of_ranks(make, tables, *about):
    """The optimizer of the tables: in one process that of `make`, else a ShardedOptimizer."""
    if collectives.world_size() == 1:
        return make(tables)
    return ShardedOptimizer(make, tables, *about)


class ShardedOptimizer(Optimizer):
    """An optimizer that keeps the shared tables equal on all ranks, at the latest after an epoch.

    Tables with a row per user are not shared: each rank updates the rows of its users. A shared
    table is exchanged in one of five ways:

    rows: a step reads few of its rows. The ranks exchange the indices and gradients of these rows;
        if all ranks read the same rows, they sum the gradients. Each rank updates all these rows.
    touched rows: the same for an optimizer of whole tables. Each rank computes the gradient of the
        table, and the ranks exchange the rows of it that they read. Each rank updates the table.
    pieces: a step reads many of its rows. The table is cut into W pieces. Each rank receives the
        summed gradient of its piece, updates the piece and sends it to the others. Only this rank
        has the moments of the piece (Rajbhandari et al., ZeRO, arXiv 1910.02054, stage 1).
    own piece: each rank has computed the whole gradient of its piece and updates that. The others
        get the piece after an epoch. The ranks exchange what the loss needs of the pieces.
    sum: it is small and not read by rows. The gradients are summed; each rank updates the table.
    """

    def __init__(self, make, tables, per_user, rows, by_row, schedule):
        """Choose how each table is exchanged, and make the optimizer of this rank.

        make: function of {name: tensor} that returns an optimizer
        tables: {name: tensor}, changed in place
        per_user: names of the tables with a row per user
        rows: {table: number of rows that a step reads}
        by_row: whether that optimizer updates single rows
        schedule: Schedule of the epoch's steps
        """
        self.tables, self.by_row, self.schedule, self.number = tables, by_row, schedule, 0
        self.share = torch.ones((), device=next(iter(tables.values())).device)
        read = {name: rows[name] for name in tables if name in rows}
        self.most_rows = {name: max(collectives.all_gather_ints(n)) for name, n in read.items()}
        self.same_items = schedule.sampler.same_items_on_all_ranks
        self.own_pieces = schedule.sampler.own_piece_of_items
        self.ways = {name: self._way(name) for name in tables if name not in per_user}
        in_pieces = [name for name, way in self.ways.items() if way in ("pieces", "own piece")]
        self.padded = {name: self._pad(tables[name]) for name in in_pieces}
        own = {name: self._own_piece(padded) for name, padded in self.padded.items()}
        self.optimizer = make(tables | own)
        self.arriving_rows = {}
        for name, way in self.ways.items():
            self._log_traffic(name, way)

    def _way(self, name):
        """Choose how a shared table is exchanged, see the class."""
        if name not in self.most_rows:
            return "sum"
        if self.own_pieces:
            return "own piece"
        read = self.most_rows[name] * (1 if self.same_items else collectives.world_size())
        if not self.by_row and FEW * read >= len(self.tables[name]):
            return "pieces"
        return "rows" if self.by_row or self.same_items else "touched rows"

    def _log_traffic(self, name, way):
        """Log how many bytes a step sends.

        With "sum" and "pieces" two things are sent: gradients to be summed, then the results.
        """
        if way == "own piece":
            log.info("gradients of %s: each rank computes those of its piece, none is sent", name)
            return
        few = way in ("rows", "touched rows")
        size = self.most_rows[name] if few else len(self.tables[name])
        if not few or self.same_items:
            size *= 2 / collectives.world_size()
        traffic = 4 * (collectives.world_size() - 1) * size * self.tables[name][0].numel()
        text = "gradients of %s: exchanged by %s, %.3g MB a step from each rank"
        log.info(text, name, way, traffic / 1e6)

    @staticmethod
    def _pad(table):
        """Pad a table (R, D) with zeros to W equal pieces. Returns the padded table (W * n, D).

        The memory of `table` becomes the first R rows of the padded table.
        """
        size = -(-len(table) // collectives.world_size())
        padded = table.new_zeros(collectives.world_size() * size, *table.shape[1:])
        table.set_(padded[: len(table)].copy_(table))
        return padded

    @staticmethod
    def _own_piece(padded):
        """Return this rank's piece (n, D) of a padded table (W * n, D)."""
        return padded[collectives.own_piece(len(padded))]

    def prepare(self, lr):
        sizes = self.schedule.sizes(self.number)
        self.share.fill_(sizes[collectives.rank()] / sum(sizes))
        self.begin = sum(sizes[: collectives.rank()])
        self.number += 1
        self.optimizer.prepare(lr)

    def finish(self):
        self.number = 0
        self.optimizer.finish()
        self._send("own piece")

    def announce(self, index):
        """Start exchanging the indices of the rows that the ranks read.

        index: {table: rows that this rank's batch reads}
        """
        by_rows = [name for name, way in self.ways.items() if way == "rows"]
        self.arriving_rows = {name: self._start_rows(name, index[name]) for name in by_rows}
        self.index = index

    def fetch(self, name, index):
        way = self.ways.get(name)
        if way == "pieces":
            return self.padded[name], self.optimizer.moments[name], index
        if way == "rows":
            # Equal rows keep separate places: their gradients are summed after the exchange.
            rows = index.flatten()
            place = torch.arange(len(rows), device=rows.device).view(index.shape)
            return self.optimizer.read(name, rows)[0], (), place
        return self.optimizer.fetch(name, index)

    def exchange(self, gradients, meanwhile):
        """Exchange the gradients of all tables.

        gradients: {name: gradient}
        meanwhile: function to call while the gradients are sent

        Returns {name: gradient for `step`}, which is for a table exchanged by
        pieces: (1, n, D) on a GPU, (W, n, D) on a CPU, to be summed over axis 0
        rows: indices (W * M,) and gradients (W * M, D) of the rows that all ranks read; (M,) and
            (M, D) if they read the same rows
        touched rows, sum: the summed gradient
        own piece, or a table with a row per user: the gradient as it is
        """
        summed = {name: x for name, x in gradients.items() if self.ways.get(name) == "sum"}
        arriving = {
            name: self._start(name, gradient)
            for name, gradient in gradients.items()
            if name not in summed
        }
        arriving_sums = collectives.start_sum(summed)
        meanwhile()
        arrived = {name: wait() for name, wait in arriving.items()} | arriving_sums()
        rows = {name: (wait(), arrived[name]) for name, wait in self.arriving_rows.items()}
        return arrived | rows

    def _start(self, name, gradient):
        """Start exchanging a gradient. Returns a function that waits for and returns the result."""
        way = self.ways.get(name)
        if way == "pieces":
            return collectives.start_reduce_scatter(gradient)
        if way == "rows" and self.same_items:
            # Each rank's rows begin with its own interactions (see sampler.InBatch.exchange). Use
            # the first rank's order.
            return collectives.start_all_reduce(gradient.roll(self.begin, 0))
        if way == "rows":
            return collectives.start_all_gather_padded(gradient, self.most_rows[name])
        if way == "touched rows":
            return self._start_touched(gradient, self.index[name])
        return lambda: gradient

    @staticmethod
    def _start_touched(gradient, index):
        """Start summing the rows of a gradient (R, D) that the ranks read. Result: the sum.

        index: rows that this rank's batch reads
        """
        is_read = torch.zeros(len(gradient), dtype=torch.bool, device=gradient.device)
        is_read[index.flatten()] = True
        rows = is_read.nonzero()[:, 0]
        sizes = collectives.all_gather_ints(len(rows))
        columns = rows, gradient.index_select(0, rows)
        arriving = [collectives.start_all_gather_sized(column, sizes) for column in columns]

        def summed():
            pieces = list(zip(*(wait() for wait in arriving), strict=True))
            # All ranks need equal bits. Two ranks get them if each adds the other's rows to its
            # own, as a + b = b + a. More ranks add all rows in the same order, to zeros.
            if len(pieces) == 2:
                del pieces[collectives.rank()]
            else:
                gradient.index_fill_(0, rows, 0)
            for of_rank, added in pieces:
                gradient.index_add_(0, of_rank, added)
            return gradient

        return summed

    def _start_rows(self, name, index):
        """Start gathering the indices of rows.

        Returns a function that waits for, and returns, the indices of all ranks, in the order of
        the gradients.
        """
        if self.same_items:
            rows = index.flatten().roll(self.begin)
            return lambda: rows
        return collectives.start_all_gather_padded(index.flatten(), self.most_rows[name])

    def step(self, name, index, weights, moments, place, gradient):
        """Update a table. gradient: from `exchange`"""
        way = self.ways.get(name)
        if way == "pieces":
            piece = self.optimizer.tables[name]
            return self.optimizer.step(name, None, piece, moments, None, gradient.sum(0))
        if way == "rows":
            return self._step_rows(name, *gradient)
        return self.optimizer.step(name, index, weights, moments, place, gradient)

    def _step_rows(self, name, rows, gradients):
        """Update rows of a table; the gradients of equal rows are summed.

        rows, gradients: of the rows that all ranks read, see `exchange`
        """
        weights, moments, place = self.optimizer.fetch(name, rows)
        gradient = torch.zeros_like(weights).index_add_(0, place, gradients)
        return self.optimizer.step(name, rows, weights, moments, place, gradient)

    def count(self):
        self.optimizer.count()

    def publish(self):
        self._send("pieces")

    def _send(self, way):
        """Send this rank's pieces of the tables with a way to the others, and receive theirs."""
        tables = [padded for name, padded in self.padded.items() if self.ways[name] == way]
        for wait in [collectives.start_all_gather(padded) for padded in tables]:
            wait()

    def state_dict(self):
        """Return the state of this rank's optimizer.

        The moments of pieces of tables are under the key PIECES, see checkpointing/shards.py.
        """
        state = self.optimizer.state_dict()
        pieces = {name: self._cut(name, state.pop(name)) for name in self.padded if name in state}
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
            if name in self.padded
        }
        self.optimizer.load_state_dict(state | pieces)

    def _piece(self, name, moment):
        """Return this rank's piece (n, D) of a whole table's moment (R, D), padded with zeros."""
        if not moment.dim():
            return moment
        if len(moment) != len(self.tables[name]):
            raise ValueError("the optimizer's moments have another shape")
        padded = moment.new_zeros(self.padded[name].shape)
        padded[: len(moment)] = moment
        return self._own_piece(padded)
