"""Training in step: each rank trains on its part of a batch, and what all have in common moves by the sum.

Shapes: W ranks, M rows that a rank's part of a step reads, R rows of a table, D dim.
"""

import logging

import torch

from ranks import OWN, all_of, count, gathered, rank, summed

log = logging.getLogger("onebp")

FEW = 4  # a row picked out of a table costs as much as so many of the whole table


class Schedule:
    """An epoch's steps. A rank that has no interactions left takes part in the last ones with empty batches."""

    def __init__(self, sampler):
        self.sampler = sampler
        self.left = list(zip(all_of(sampler.size), all_of(sampler.batch_size), strict=True))  # of each rank
        self.interactions = sum(size for size, _ in self.left)

    def __len__(self):
        return max(-(-size // batch_size) for size, batch_size in self.left)

    def sizes(self, number):
        """Of the step `number`, from 0, the interactions of each rank."""
        return [min(max(size - number * batch_size, 0), batch_size) for size, batch_size in self.left]

    def whole(self, number):
        """Whether in the step `number` every rank's part of the batch is whole."""
        return all((number + 1) * batch_size <= size for size, batch_size in self.left)

    def batches(self):
        """Yield this rank's batches, see sampler.py."""
        for batch in self.sampler.epoch():
            yield batch
        for _ in range(len(self.sampler), len(self)):
            yield tuple(part if part is None else part[..., :0] for part in batch)


class InStep:
    """An optimizer whose shared tables take the sum of all ranks' gradients in each step, and so stay the same.

    The gradient of the whole batch's mean loss is the ranks' mean, weighted by the interactions that each has in the
    step. Of a table all rows are summed or, where these are few, those that any rank reads in the step.
    """

    def __init__(self, optimizer, rows, schedule):
        """optimizer: see optimizer.py; rows: how many a step reads of a table, by the table's name; schedule: above."""
        self.optimizer, self.schedule, self.number = optimizer, schedule, 0
        self.tables, self.by_row = optimizer.tables, optimizer.by_row
        self.share = torch.ones((), device=next(iter(self.tables.values())).device)  # of the step's interactions
        self.widths = {}  # of the tables whose rows are summed, how many a rank reads in a step, at most
        self.read = {}  # of these tables in this step, the rows (W * M,) and their places in what `fetch` returned
        for name, table in self.tables.items():
            if name == OWN:
                continue
            width = max(all_of(rows.get(name, len(table))))
            if self.by_row or FEW * count() * width < len(table):
                self.widths[name] = width
            size = count() * width if name in self.widths else len(table)
            traffic = 8 * (count() - 1) / count() * size * table[0].numel()
            log.info("gradients of %s: %d rows are summed, %.3g MB a step and rank", name, size, traffic / 1e6)

    def prepare(self, lr):
        sizes = self.schedule.sizes(self.number)
        self.share.fill_(sizes[rank()] / sum(sizes))
        self.number += 1
        self.optimizer.prepare(lr)

    def finish(self):
        self.number = 0
        self.optimizer.finish()

    def fetch(self, name, index):
        if name not in self.widths:
            return self.optimizer.fetch(name, index)
        width = self.widths[name]
        rows = index.flatten()
        rows = gathered(torch.cat([rows, rows.new_zeros(width - len(rows))]))  # a smaller batch names row 0 instead
        weights, place = self.optimizer.fetch(name, rows)
        self.read[name] = rows, place
        return weights, place[rank() * width :][: index.numel()].view(index.shape)

    def step(self, name, index, weights, place, gradient):
        gradient = self.share * gradient
        if name == OWN:
            return self.optimizer.step(name, index, weights, place, gradient)
        if name not in self.widths:
            return self.optimizer.step(name, index, weights, place, summed(gradient))
        rows, place = self.read[name]
        # (W * M, D); equal rows have equal gradients. Which of them is the place of all may differ between ranks.
        block = summed(gradient.index_select(0, place))
        if not self.by_row:  # the gradient is that of the whole table
            block = torch.zeros_like(gradient).index_copy_(0, rows, block)
        return self.optimizer.step(name, rows, weights, place, block)

    def count(self):
        self.optimizer.count()

    def state_dict(self):
        return self.optimizer.state_dict()

    def load_state_dict(self, state):
        self.optimizer.load_state_dict(state)
