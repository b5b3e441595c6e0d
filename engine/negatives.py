"""Negatives, drawn exactly: items that a user never interacted with in training.

Shapes: B batch, b batches drawn at a time, U users, I items.
"""

from itertools import pairwise

import numpy as np
import torch

BLOCK = 1 << 22  # interactions that are made ready together


class UniformNegatives:
    """Items that a user never interacted with in training, all equally likely; exact, without rejection.

    The r-th unseen item of user u is r + (how many of u's items are to be skipped). With u's items sorted,
    i_0 < i_1 < ..., the j-th one lies below it just when i_j - j <= r, and i_j - j never falls with j. So a user has a
    list of steps: the distinct i_j - j, each with the number of items to skip from there on, and before them -1 with 0.
    With u*(I+1) added, the steps of all users are one sorted array of keys. A guide cuts each user's ranks into about
    as many buckets as the user has items, of 2^shift ranks each, and tells the last key before each; what a binary
    search has left to do is a few gathers over all negatives at once. (Guide tables: Chen & Asau, 1974.)
    """

    def __init__(self, train, device):
        """train: csr_array (U, I) with sorted indices."""
        users, items = train.shape
        self.span = items + 1
        # Half the bytes where they will do; there are at most two buckets for each interaction and each user.
        large, small = (
            np.int32 if top < 2**31 else np.int64
            for top in (users * self.span, 2 * (train.nnz + users))
        )
        blocks, steps, levels = [], 0, 0
        for first, last in user_blocks(train.indptr):
            keys, skips, unseen = self.steps(train, first, last)
            degree = items - unseen
            shift = (
                np.frexp(np.maximum(unseen // np.maximum(degree, 1), 1))[1] - 1
            )  # floor of the binary logarithm
            buckets = (unseen >> shift) + 1
            own = np.repeat(np.arange(last - first), buckets)
            rank = (np.arange(len(own)) - (np.cumsum(buckets) - buckets)[own]) << shift[
                own
            ]  # the first of a bucket
            guide = np.searchsorted(keys, (own + first) * self.span + rank + 1) - 1
            after = np.minimum(rank + (1 << shift[own]), items)  # the first rank of the next
            bucket_end = np.searchsorted(keys, (own + first) * self.span + after + 1) - 1
            levels = max(levels, int((bucket_end - guide).max()).bit_length())
            columns = (
                column.astype(small) for column in (skips, guide + steps, buckets, shift, unseen)
            )
            blocks.append([keys.astype(large), *columns])
            steps += len(keys)
        self.levels = levels
        above = np.full(
            1 << levels, users * self.span, large
        )  # above all keys, looked at, never reached
        blocks[-1][0] = np.append(blocks[-1][0], above)
        # A column at a time, so that there need not be room for all of them and all blocks.
        columns = (
            np.concatenate([block.pop(0) for block in blocks]) for _ in range(len(blocks[0]))
        )
        keys, skips, guide, buckets, shift, unseen = columns
        begin = (np.cumsum(buckets, dtype=np.int64) - buckets).astype(small)
        self.keys, self.skips = (
            torch.as_tensor(table, device=device) for table in (keys, skips)
        )  # (steps,)
        self.guide, self.guide_begin, self.shift = (
            torch.as_tensor(v, device=device) for v in (guide, begin, shift)
        )
        self.unseen = torch.as_tensor(unseen, dtype=torch.float64, device=device)  # (U,)

    def steps(self, train, first, last):
        """(keys, skips) of the users from `first` to before `last`, and how many items each of them has not seen."""
        items = train.shape[1]
        degree = np.diff(train.indptr[first : last + 1]).astype(np.int64)
        owner = np.repeat(np.arange(last - first), degree)
        skipped = np.arange(len(owner)) - (np.cumsum(degree) - degree)[owner]  # j
        own = train.indices[train.indptr[first] : train.indptr[last]]
        # [0] is the key of i_j - j = -1.
        keys = np.concatenate(
            [np.arange(last - first) * self.span, owner * self.span + own - skipped + 1]
        )
        skips = np.concatenate([np.zeros(last - first, dtype=np.int64), skipped + 1])
        order = np.argsort(keys, kind="stable")
        keys, skips = keys[order], skips[order]
        of_equal = np.append(keys[1:] != keys[:-1], True)  # the last of equal keys
        return keys[of_equal] + first * self.span, skips[of_equal], items - degree

    def draw(self, users, count, generator):
        """users (b, B), each with at least one unseen item -> items (b, count, B), drawn with replacement."""
        own = (
            users.flatten()
        )  # what concerns the user is looked up once for its negatives, then broadcast
        unseen, begin, shift = (
            table.index_select(0, own).view(len(users), 1, -1)
            for table in (self.unseen, self.guide_begin, self.shift)
        )  # (b, 1, B) each
        shape = len(users), count, users.shape[1]
        uniform = torch.rand(shape, dtype=torch.float64, device=users.device, generator=generator)
        rank = (uniform * unseen).int()  # (b, count, B), in [0, unseen)
        first = (users * self.span + 1).to(self.keys.dtype)[:, None]  # (b, 1, B)
        key = (first + rank).flatten()  # (b, count, B) -> (b * count * B,)
        step = self.guide.index_select(0, (begin + (rank >> shift)).flatten())
        for level in reversed(range(self.levels)):  # to the last step that is not above
            step.add_(self.keys.index_select(0, step + (1 << level)) <= key, alpha=1 << level)
        return (rank + self.skips.index_select(0, step).view(shape)).long()


def user_blocks(indptr):
    """Yield (first user, user after the last) of blocks with some BLOCK interactions each. indptr (U + 1,)."""
    starts = np.searchsorted(indptr, np.arange(BLOCK, indptr[-1], BLOCK))
    yield from pairwise(np.unique([0, *starts, len(indptr) - 1]).tolist())


class WeightedNegatives:
    """Items that a user never interacted with in training, in proportion to weights; exact, without rejection.

    The weights are whole numbers: every item owns that many consecutive points. The r-th point that is not of one of
    the user's items is found as UniformNegatives finds its item, by one binary search over the starts of the user's
    items, less the points of those before; a second one tells whose point it is.
    """

    RESOLUTION = 2**31  # about the sum of all weights

    def __init__(self, train, weights, device):
        """train: csr_array (U, I) with sorted indices; weights (I,): positive numbers, rounded to 1 / RESOLUTION."""
        weights = np.maximum(np.rint(weights / weights.sum() * self.RESOLUTION), 1).astype(np.int64)
        start = np.cumsum(weights) - weights  # (I,) an item's first point
        self.span = int(weights.sum()) + 1
        degree = np.diff(train.indptr)
        owner = np.repeat(np.arange(train.shape[0], dtype=np.int64), degree)
        own = weights[train.indices]
        before = np.cumsum(own) - own  # over all users
        first = np.append(before, own.sum())[train.indptr]  # (U + 1,) where a user's begin in it
        before -= first[owner]
        keys = owner * self.span + start[train.indices] - before
        skipped = np.append(
            before + own, 0
        )  # of the user's points, the number up to the end of an item

        self.keys, self.skipped, self.start = (
            torch.as_tensor(v, device=device) for v in (keys, skipped, start)
        )
        self.begin = torch.as_tensor(train.indptr[:-1].astype(np.int64), device=device)  # (U,)
        self.unseen = torch.as_tensor(
            self.span - 1 - np.diff(first), dtype=torch.float64, device=device
        )  # (U,) points

    def draw(self, users, count, generator):
        """users (b, B), each with at least one unseen item -> items (b, count, B), drawn with replacement."""
        shape = len(users), count, users.shape[1]
        uniform = torch.rand(shape, dtype=torch.float64, device=users.device, generator=generator)
        rank = (uniform * self.unseen[users][:, None]).long()  # (b, count, B), in [0, unseen)
        last = torch.searchsorted(self.keys, users[:, None] * self.span + rank, right=True) - 1
        skipped = torch.where(last >= self.begin[users][:, None], self.skipped[last], 0)
        return torch.searchsorted(self.start, rank + skipped, right=True) - 1
