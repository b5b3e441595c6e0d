"""Draw negatives exactly: items without an interaction of the user in training.

UniformNegatives draws all of them equally often, WeightedNegatives in proportion to weights. Both
have what sampler.Uniform needs of a distribution: `draw`, and `unseen` (U,), which is 0 for a user
who has no negative.

Shapes: B batch, b batches drawn at a time, U users, I items.
"""

from itertools import pairwise

import numpy as np
import torch

BLOCK = 1 << 22  # interactions that are prepared together


class UniformNegatives:
    """Items without an interaction of the user in training, equally likely; exact, no rejection.

    The r-th unseen item of user u is r + s, where s is the number of u's items below it. With u's
    items sorted, i_0 < i_1 < ..., item i_j lies below the r-th unseen one if and only if
    i_j - j <= r. As i_j - j never falls when j grows, each user has a list of steps: the distinct
    values of i_j - j, each with the s that holds from there on. The list begins with -1 and s = 0.

    Keys: u * (I + 1) + 1 is added to the steps of each user u. Then the steps of all users are one
    sorted array.

    Guide table (Chen & Asau, 1974): it saves most of the binary search for a key. The positions r
    of a user are divided into buckets of 2^shift positions, about as many buckets as the user has
    items. The guide holds the last key before each bucket. The rest of the search takes
    `levels` rounds; each looks up all negatives at once.
    """

    def __init__(self, train, device):
        """train: csr_array (U, I) with sorted indices."""
        users, items = train.shape
        self.span = items + 1  # keys of one user

        # Use int32 where the numbers fit: half the bytes. The largest numbers are a key, and the
        # number of buckets: at most two for each interaction and two for each user.
        key_type, column_type = (
            np.int32 if largest < 2**31 else np.int64
            for largest in (users * self.span, 2 * (train.nnz + users))
        )

        blocks, n_steps, levels = [], 0, 0
        for first, last in user_blocks(train.indptr):
            keys, skips, unseen = self._steps(train, first, last)

            # Choose the size of each user's buckets. frexp: floor of the binary logarithm, plus 1.
            degree = items - unseen
            shift = np.frexp(np.maximum(unseen // np.maximum(degree, 1), 1))[1] - 1
            buckets = (unseen >> shift) + 1

            # List the buckets of all users: where each begins, and where the next one begins.
            user = np.repeat(np.arange(last - first), buckets)
            bucket = np.arange(len(user)) - (np.cumsum(buckets) - buckets)[user]
            begin = bucket << shift[user]
            end = np.minimum(begin + (1 << shift[user]), items)

            # Find the last key before each of these two positions. One level of binary search
            # halves the number of keys between them.
            zero = (user + first) * self.span + 1  # the key of position 0
            guide = np.searchsorted(keys, zero + begin) - 1
            guide_end = np.searchsorted(keys, zero + end) - 1
            levels = max(levels, int((guide_end - guide).max()).bit_length())

            columns = skips, guide + n_steps, buckets, shift, unseen
            blocks.append([keys.astype(key_type), *(v.astype(column_type) for v in columns)])
            n_steps += len(keys)

        # The search may look at keys after the last one: append some that are larger than any.
        self.levels = levels
        padding = np.full(1 << levels, users * self.span, key_type)
        blocks[-1][0] = np.append(blocks[-1][0], padding)

        # Join the blocks one column at a time, and free it there: this bounds the memory.
        columns = (
            np.concatenate([block.pop(0) for block in blocks]) for _ in range(len(blocks[0]))
        )
        keys, skips, guide, buckets, shift, unseen = columns
        begin = (np.cumsum(buckets, dtype=np.int64) - buckets).astype(column_type)

        self.keys = torch.as_tensor(keys, device=device)  # (steps + padding,)
        self.skips = torch.as_tensor(skips, device=device)  # (steps,) s of each step
        self.guide = torch.as_tensor(guide, device=device)  # (buckets,)
        self.guide_begin = torch.as_tensor(begin, device=device)  # (U,) a user's first bucket
        self.shift = torch.as_tensor(shift, device=device)  # (U,)
        self.unseen = torch.as_tensor(unseen, dtype=torch.float64, device=device)  # (U,)

    def _steps(self, train, first, last):
        """Steps of the users from `first` to before `last`, in the order of their keys.

        Returns (keys (n,), skips (n,): s of each step, numbers of unseen items (last - first,)).
        """
        items = train.shape[1]
        degree = np.diff(train.indptr[first : last + 1]).astype(np.int64)
        user = np.repeat(np.arange(last - first), degree)
        seen = train.indices[train.indptr[first] : train.indptr[last]]  # i_j
        j = np.arange(len(user)) - (np.cumsum(degree) - degree)[user]

        # One step per user for -1, whose key is u * (I + 1), then one step per interaction.
        before_all = np.arange(last - first) * self.span
        keys = np.concatenate([before_all, user * self.span + seen - j + 1])
        skips = np.concatenate([np.zeros(last - first, dtype=np.int64), j + 1])

        # Sort by key; of equal keys keep the last, which skips the most items.
        order = np.argsort(keys, kind="stable")
        keys, skips = keys[order], skips[order]
        last_of_equal = np.append(keys[1:] != keys[:-1], True)
        return keys[last_of_equal] + first * self.span, skips[last_of_equal], items - degree

    def draw(self, users, count, generator):
        """Draw `count` negatives for each user, with replacement. Returns items (b, count, B).

        users (b, B): each with at least one unseen item
        generator: on the device of this object's tables
        """
        # Look up the user's numbers once, for all of its negatives: (b, 1, B) each.
        flat = users.flatten()
        unseen, begin, shift = (
            table.index_select(0, flat).view(len(users), 1, -1)
            for table in (self.unseen, self.guide_begin, self.shift)
        )

        # Draw which of the unseen items: a position in [0, unseen), (b, count, B).
        shape = len(users), count, users.shape[1]
        uniform = torch.rand(shape, dtype=torch.float64, device=users.device, generator=generator)
        position = (uniform * unseen).int()

        # Find the last step whose key is not above the position's key: the guide tells where to
        # begin; each round advances by a power of two if the key there is still not above.
        zero = (users * self.span + 1).to(self.keys.dtype)[:, None]  # (b, 1, B)
        key = (zero + position).flatten()  # (b, count, B) -> (b * count * B,)
        step = self.guide.index_select(0, (begin + (position >> shift)).flatten())
        for level in reversed(range(self.levels)):
            step.add_(self.keys.index_select(0, step + (1 << level)) <= key, alpha=1 << level)

        # Skip the user's items that lie below.
        return (position + self.skips.index_select(0, step).view(shape)).long()


def user_blocks(indptr):
    """Yield (first user, user after the last) of blocks with about BLOCK interactions each.

    indptr (U + 1,): number of interactions before each user
    """
    starts = np.searchsorted(indptr, np.arange(BLOCK, indptr[-1], BLOCK))
    yield from pairwise(np.unique([0, *starts, len(indptr) - 1]).tolist())


class WeightedNegatives:
    """Items without an interaction of the user in training, in proportion to weights; exact.

    The weights are rounded to whole numbers, and each item owns as many consecutive points as its
    weight. A point that no item of the user owns is drawn, without rejection: the r-th such point
    is r + s, where s is the number of points below it that the user's items own. As in
    UniformNegatives, a binary search finds s. Its keys are the first points of the user's items,
    less the points of the user's items before. A second binary search finds the point's item.
    """

    RESOLUTION = 2**31  # about the sum of all weights

    def __init__(self, train, weights, device):
        """Build the tables of both searches.

        train: csr_array (U, I) with sorted indices
        weights (I,): positive; after division by their sum they are rounded to 1 / RESOLUTION
        """
        # Give each item its points; `start` (I,) is its first one.
        weights = np.maximum(np.rint(weights / weights.sum() * self.RESOLUTION), 1).astype(np.int64)
        start = np.cumsum(weights) - weights
        self.span = int(weights.sum()) + 1  # keys of one user

        # For each interaction, count the points of the user's items before it.
        degree = np.diff(train.indptr)
        user = np.repeat(np.arange(train.shape[0], dtype=np.int64), degree)
        seen = weights[train.indices]
        before = np.cumsum(seen) - seen  # over all users
        user_begin = np.append(before, seen.sum())[train.indptr]  # (U + 1,) `before` at each user
        before -= user_begin[user]

        keys = user * self.span + start[train.indices] - before
        # s after each interaction; the last entry serves the index -1.
        skipped = np.append(before + seen, 0)
        unseen = self.span - 1 - np.diff(user_begin)  # points

        self.keys = torch.as_tensor(keys, device=device)  # (interactions,)
        self.skipped = torch.as_tensor(skipped, device=device)  # (interactions + 1,)
        self.start = torch.as_tensor(start, device=device)  # (I,)
        # (U,) the number of a user's first interaction
        self.begin = torch.as_tensor(train.indptr[:-1].astype(np.int64), device=device)
        self.unseen = torch.as_tensor(unseen, dtype=torch.float64, device=device)  # (U,)

    def draw(self, users, count, generator):
        """Draw `count` negatives for each user, with replacement. Returns items (b, count, B).

        users (b, B): each with at least one unseen item
        generator: on the device of this object's tables
        """
        # Draw which of the points of unseen items: a position in [0, unseen), (b, count, B).
        shape = len(users), count, users.shape[1]
        uniform = torch.rand(shape, dtype=torch.float64, device=users.device, generator=generator)
        position = (uniform * self.unseen[users][:, None]).long()

        # Skip the points of the user's items that lie below; 0 if the key found is another user's.
        key = users[:, None] * self.span + position
        last = torch.searchsorted(self.keys, key, right=True) - 1
        skipped = torch.where(last >= self.begin[users][:, None], self.skipped[last], 0)

        # Find the item that owns the point.
        return torch.searchsorted(self.start, position + skipped, right=True) - 1
