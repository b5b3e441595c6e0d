"""An epoch's batches: the training interactions in a new order, each with negatives, all drawn on the device."""

import logging

import numpy as np
import torch

from errors import UserError

log = logging.getLogger("onebp")

CHUNK = 1 << 16  # negatives drawn at a time, so that they stay in the cache, but at least those of one batch


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
        degree = np.diff(train.indptr).astype(np.int64)
        unseen = items - degree
        owner = np.repeat(np.arange(users), degree)
        skipped = np.arange(train.nnz) - train.indptr[:-1].astype(np.int64)[owner]  # j
        # [0] is the key of i_j - j = -1.
        keys = np.concatenate([np.arange(users) * self.span, owner * self.span + train.indices - skipped + 1])
        skips = np.concatenate([np.zeros(users, dtype=np.int64), skipped + 1])
        order = np.argsort(keys, kind="stable")
        keys, skips = keys[order], skips[order]
        last = np.append(keys[1:] != keys[:-1], True)  # of equal keys
        keys, skips = keys[last], skips[last]

        shift = np.frexp(np.maximum(unseen // np.maximum(degree, 1), 1))[1] - 1  # floor of the binary logarithm
        buckets = (unseen >> shift) + 1
        guide_begin = np.cumsum(buckets) - buckets
        user = np.repeat(np.arange(users), buckets)
        rank = (np.arange(len(user)) - guide_begin[user]) << shift[user]  # the first one of a bucket
        guide = np.searchsorted(keys, user * self.span + rank + 1) - 1
        after = np.minimum(rank + (1 << shift[user]), items)  # the first rank of the next
        bucket_end = np.searchsorted(keys, user * self.span + after + 1) - 1
        self.levels = int((bucket_end - guide).max()).bit_length()
        keys = np.append(keys, np.full(1 << self.levels, users * self.span))  # above all, looked at, never reached

        def table(values):  # the smaller type where it will do: half the bytes
            return torch.as_tensor(values.astype(np.int32 if values.max() < 2**31 else np.int64), device=device)

        self.keys, self.skips = table(keys), table(skips)  # (steps,)
        self.guide, self.guide_begin, self.shift = table(guide), table(guide_begin), table(shift)
        self.unseen = torch.as_tensor(unseen, dtype=torch.float64, device=device)  # (U,)

    def draw(self, users, count, generator):
        """users (b, B), each with at least one unseen item -> items (b, count, B), drawn with replacement."""
        own = users.flatten()  # what concerns the user is looked up once for its negatives, then broadcast
        unseen, begin, shift = (
            table.index_select(0, own).view(len(users), 1, -1) for table in (self.unseen, self.guide_begin, self.shift)
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


class Sampler:
    """Batches of an epoch; every training interaction is in one of them."""

    def __init__(self, train, batch_size, n_negatives, generator):
        """train: csr_array (U, I). generator: on the device where the batches are wanted; all randomness is its.

        Raises UserError where no user has an item that could be a negative.
        """
        device = generator.device
        self.batch_size, self.n_negatives, self.generator = batch_size, n_negatives, generator
        self.negatives = UniformNegatives(train, device)
        users = np.repeat(np.arange(train.shape[0], dtype=np.int64), np.diff(train.indptr))
        self.users = torch.as_tensor(users, device=device)  # (interactions,)
        self.items = torch.as_tensor(train.indices.astype(np.int64), device=device)
        # Who has interacted with every item has no negative, and by this loss nothing to learn from.
        usable = self.negatives.unseen[self.users] > 0
        left_out = int((~usable).sum())
        if left_out:
            log.info("%d interactions of users who have every item are left out: they have no negative", left_out)
            self.users, self.items = self.users[usable], self.items[usable]
        if not len(self.users):
            raise UserError("every user in training has every item, so there is nothing to learn from; add items")

    def __len__(self):
        """Batches per epoch; the last one may be smaller."""
        return -(-len(self.users) // self.batch_size)

    def epoch(self):
        """Yield (users (B,), items (B,), negatives (N, B)) until every interaction was in one batch."""
        order = torch.randperm(len(self.users), device=self.users.device, generator=self.generator)
        users, items = self.users.index_select(0, order), self.items.index_select(0, order)
        whole = len(order) - len(order) % self.batch_size
        at_once = max(1, CHUNK // (self.batch_size * self.n_negatives))
        # (batches, B) in chunks, and what remains, (1, rest)
        chunks = [
            (*part[:whole].view(-1, self.batch_size).split(at_once), part[whole:][None]) for part in (users, items)
        ]
        for users, items in zip(*chunks, strict=True):
            if users.numel():
                yield from zip(users, items, self.negatives.draw(users, self.n_negatives, self.generator), strict=True)
