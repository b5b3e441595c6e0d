"""Batches of click data in a shuffled order; each rank reads its share of every batch.

Shapes: n rows of a pool, W ids of a row, B rows of a batch on this rank.
"""

import numpy as np
import torch

from distributed import collectives
from sampler import Batches

POOL = 1 << 20  # rows that are shuffled together, at most
POOL_IDS = 1 << 26  # their ids, at most: 256 MB
PIECE = 1 << 14  # consecutive rows of a pool


class ImpressionBatches(Batches):
    """Batches of click data: every row of a split is in one of them. Large data stay on disk.

    Rows are shuffled in pools of at most POOL rows, or POOL_IDS ids. A pool consists of pieces of
    PIECE rows from random places of the split. The order of the rows does not depend on the number
    of ranks.
    """

    def __init__(self, data, span, args, generator):
        """Prepare the batches. All ranks must call it.

        data: Clicks
        span: (first row, row after the last) of the split
        args: flags; uses batch_size, the rows of a batch on this rank
        generator: source of random numbers, on the device of the batches; in the same state on all
            ranks
        """
        self.data, self.generator, self.batch_size = data, generator, args.batch_size
        self.pieces = [(start, min(start + PIECE, span[1])) for start in range(*span, PIECE)]
        sizes = collectives.all_gather_ints(self.batch_size)
        self.whole_size = sum(sizes)  # of all ranks together
        self.first = sum(sizes[: collectives.rank()])  # place of this rank's first row in a batch
        batches, rest = divmod(span[1] - span[0], self.whole_size)
        self.size = batches * self.batch_size + min(max(rest - self.first, 0), self.batch_size)

    def epoch(self):
        """Yield (ids (B, W), labels (B,)) until every row was in one batch."""
        device = self.generator.device
        order = torch.randperm(len(self.pieces), device=device, generator=self.generator).tolist()
        pieces_per_pool = max(1, min(POOL, POOL_IDS // self.data.width) // PIECE)
        rest = torch.empty(0, dtype=torch.int64, device=device)
        for first in range(0, len(order), pieces_per_pool):
            # Shuffle the rows of the next pool.
            numbers = order[first : first + pieces_per_pool]
            pieces = [torch.arange(*self.pieces[number], device=device) for number in numbers]
            pool = torch.cat(pieces)  # (n,)
            shuffled = torch.randperm(len(pool), device=device, generator=self.generator)

            # Put the rows that the last pool left over in front.
            rows = torch.cat([rest, pool[shuffled]])

            # Read whole batches; only the batch at the end of the epoch may be smaller.
            is_last = first + pieces_per_pool >= len(order)
            whole = len(rows) if is_last else len(rows) - len(rows) % self.whole_size
            rest = rows[whole:]
            ids, labels = self.read(self.own_rows(rows[:whole]))
            for start in range(0, len(ids), self.batch_size):
                batch = slice(start, start + self.batch_size)
                yield ids[batch].long(), labels[batch].float()

    def own_rows(self, rows):
        """This rank's share of the rows (n,) of whole batches."""
        place = torch.arange(len(rows), device=rows.device) % self.whole_size - self.first
        return rows[(place >= 0) & (place < self.batch_size)]

    def read(self, rows):
        """Read rows (n,) onto the device. Returns ids (n, W) and labels (n,)."""
        rows = rows.cpu().numpy()
        order = np.argsort(rows)
        place = torch.empty(len(rows), dtype=torch.int64)
        place[torch.from_numpy(order)] = torch.arange(len(rows))
        device = self.generator.device
        columns = map(torch.from_numpy, self.data.rows_at(rows[order]))
        return [column.to(device)[place.to(device)] for column in columns]

    def empty_batch(self):
        """A batch without rows."""
        ids, labels = self.read(torch.empty(0, dtype=torch.int64))
        return ids.long(), labels.float()
