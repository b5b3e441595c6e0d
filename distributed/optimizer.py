"""Data-parallel training: each process computes gradients on its share of the batch.

Tables that all processes have in common are updated with the sum of the gradients.
Shapes: W ranks, M rows that a rank's share of a step reads, R rows of a table, D dim.
"""

import logging

import torch

from distributed import collectives
from engine.optimizer import Optimizer

log = logging.getLogger("onebp")

# A row picked out of a table costs two to this many times what it costs in a sweep over the table.
FEW = 4


def rows_of_all_ranks(rows, per_user, same_items):
    """{table: rows that a step reads on all ranks together}.

    rows: {table: rows that a step reads on one rank}
    per_user: names of the tables with a row per user, of which each rank has its own users' rows
    same_items: whether all ranks read the same rows of the other tables
    """
    count = collectives.world_size()
    return {
        name: size * (1 if name in per_user or same_items else count) for name, size in rows.items()
    }


class ShardedOptimizer(Optimizer):
    """Keeps the shared tables equal on all ranks: each step moves them by the sum of the gradients.

    Tables with a row per user are not shared: each rank moves those of its users. A shared table is
    exchanged in one of three ways:

    rows: a step reads few of its rows. The ranks send each other the numbers and the gradients of
        these rows (or, if all read the same rows, sum the gradients), and all move the rows.
    pieces: a step reads many of its rows. Each rank owns a piece of the table, 1/W: it gets the sum
        of the gradients for it, moves it, keeps its moments, and sends it to the others
        (Rajbhandari et al., ZeRO, arXiv 1910.02054, stage 1).
    sum: the table is small and not read by rows. The gradient is summed, and all move the table.
    """

    def __init__(self, make, tables, per_user, rows, by_row, schedule):
        """make: builds the optimizer that moves the tables, from {name: tensor}
        tables: {name: tensor}, changed in place
        per_user: names of the tables with a row per user
        rows: {table: rows that a step reads}
        by_row: whether that optimizer visits single rows
        schedule: the Schedule of the epoch
        """
        self.tables, self.by_row, self.schedule, self.number = tables, by_row, schedule, 0
        # This rank's share of the interactions of the step, and where it begins in the batch.
        self.share = torch.ones((), device=next(iter(tables.values())).device)
        self.begin = 0
        read = {name: rows[name] for name in tables if name in rows}
        self.most_rows = {name: max(collectives.all_gather_ints(n)) for name, n in read.items()}
        self.same_items = schedule.sampler.same_items_on_all_ranks
        self.ways = {name: self._way(name) for name in tables if name not in per_user}
        in_pieces = [name for name, way in self.ways.items() if way == "pieces"]
        self.padded = {name: self._pad(tables[name]) for name in in_pieces}
        own = {name: self._own_piece(padded) for name, padded in self.padded.items()}
        self.optimizer = make(tables | own)
        self.arriving_rows = {}
        for name, way in self.ways.items():
            self._log_traffic(name, way)

    def _way(self, name):
        """How a shared table is exchanged, see the class."""
        if name not in self.most_rows:
            return "sum"
        read = self.most_rows[name] * (1 if self.same_items else collectives.world_size())
        return "rows" if self.by_row or FEW * read < len(self.tables[name]) else "pieces"

    def _log_traffic(self, name, way):
        """Log how many bytes a step sends. Sums and pieces are sent twice: to where they are added
        up, and from there to all.
        """
        size = self.most_rows[name] if way == "rows" else len(self.tables[name])
        if way != "rows" or self.same_items:
            size *= 2 / collectives.world_size()
        traffic = 4 * (collectives.world_size() - 1) * size * self.tables[name][0].numel()
        text = "gradients of %s: exchanged by %s, %.3g MB a step from each rank"
        log.info(text, name, way, traffic / 1e6)

    @staticmethod
    def _pad(table):
        """Move a table (R, D) into a tensor (W * n, D) of W equal pieces. Returns that tensor."""
        size = -(-len(table) // collectives.world_size())
        padded = table.new_zeros(collectives.world_size() * size, *table.shape[1:])
        table.set_(padded[: len(table)].copy_(table))
        return padded

    @staticmethod
    def _own_piece(padded):
        """This rank's piece (n, D) of (W * n, D)."""
        return padded.chunk(collectives.world_size())[collectives.rank()]

    def prepare(self, lr):
        sizes = self.schedule.sizes(self.number)
        self.share.fill_(sizes[collectives.rank()] / sum(sizes))
        self.begin = sum(sizes[: collectives.rank()])
        self.number += 1
        self.optimizer.prepare(lr)

    def finish(self):
        self.number = 0
        self.optimizer.finish()

    def announce(self, index):
        """Start sending the numbers of the rows that this rank reads."""
        by_rows = [name for name, way in self.ways.items() if way == "rows"]
        self.arriving_rows = {name: self._start_rows(name, index[name]) for name in by_rows}

    def fetch(self, name, index):
        way = self.ways.get(name)
        if way == "pieces":
            return self.padded[name], index
        if way == "rows":
            # Equal rows keep a place each: their gradients are summed where they arrive.
            rows = index.flatten()
            place = torch.arange(len(rows), device=rows.device).view(index.shape)
            return self.optimizer.read(name, rows)[0], place
        return self.optimizer.fetch(name, index)

    def exchange(self, gradients, meanwhile):
        """Exchange the gradients. Returns what `step` takes in their place, by name.

        pieces: (1 or W, n, D), whose sum is the gradient of this rank's piece
        rows: (numbers (M of all ranks,), gradients (M of all ranks, D))
        sum, and tables with a row per user: the whole gradient
        """
        arriving = {name: self._start(name, gradient) for name, gradient in gradients.items()}
        meanwhile()
        arrived = {name: wait() for name, wait in arriving.items()}
        rows = {name: (wait(), arrived[name]) for name, wait in self.arriving_rows.items()}
        return arrived | rows

    def _start(self, name, gradient):
        """Start exchanging a gradient. Returns a function that waits for, and returns, the result."""
        way = self.ways.get(name)
        if way == "pieces":
            return collectives.start_reduce_scatter(gradient)
        if way == "rows" and self.same_items:
            # in the order of the first rank
            return collectives.start_all_reduce(gradient.roll(self.begin, 0))
        if way == "rows":
            return collectives.start_all_gather_padded(gradient, self.most_rows[name])
        if way == "sum":
            return collectives.start_all_reduce(gradient)
        return lambda: gradient

    def _start_rows(self, name, index):
        """Start sending row numbers. Returns a function that waits for those of all ranks."""
        if self.same_items:
            rows = index.flatten().roll(self.begin)
            return lambda: rows
        return collectives.start_all_gather_padded(index.flatten(), self.most_rows[name])

    def step(self, name, index, weights, place, gradient):
        """Move a table. gradient: from `exchange`."""
        way = self.ways.get(name)
        if way == "pieces":
            piece = self.optimizer.tables[name]
            return self.optimizer.step(name, None, piece, None, gradient.sum(0))
        if way == "rows":
            return self._step_rows(name, *gradient)
        return self.optimizer.step(name, index, weights, place, gradient)

    def _step_rows(self, name, rows, gradients):
        """Move a table by the gradients (M of all ranks, D) of `rows` (M of all ranks,).

        Equal rows may occur several times.
        """
        weights, place = self.optimizer.fetch(name, rows)
        gradient = torch.zeros_like(weights).index_add_(0, place, gradients)
        return self.optimizer.step(name, rows, weights, place, gradient)

    def count(self):
        self.optimizer.count()

    def publish(self):
        """Send this rank's pieces to the others, and get theirs."""
        for wait in [collectives.start_all_gather(padded) for padded in self.padded.values()]:
            wait()

    def state_dict(self):
        """Like an optimizer's; the moments of pieces are under a key of their own.

        See checkpointing/shards.py.
        """
        state = self.optimizer.state_dict()
        pieces = {name: self._cut(name, state.pop(name)) for name in self.padded if name in state}
        return {**state, collectives.PIECES: pieces}

    def _cut(self, name, moments):
        """The moments of this rank's piece, without rows past the end of the table."""
        size = len(self.optimizer.tables[name])
        rows = max(len(self.tables[name]) - collectives.rank() * size, 0)
        return {key: value[:rows] if value.dim() else value for key, value in moments.items()}

    def load_state_dict(self, state):
        """Take over the state of an optimizer of whole tables."""
        pieces = {
            name: {key: self._piece(name, value) for key, value in moments.items()}
            for name, moments in state.items()
            if name in self.padded
        }
        self.optimizer.load_state_dict(state | pieces)

    def _piece(self, name, moment):
        """This rank's piece of a moment (R, D) of the whole table; zeros past the end of the table."""
        if not moment.dim():
            return moment
        if len(moment) != len(self.tables[name]):
            raise ValueError("the optimizer's moments have another shape")
        padded = moment.new_zeros(self.padded[name].shape)
        padded[: len(moment)] = moment
        return self._own_piece(padded)
