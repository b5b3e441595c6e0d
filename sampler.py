"""An epoch's batches: the training interactions in a new order, each with negatives, all drawn on the device."""

import logging

import numpy as np
import torch

from errors import UserError

log = logging.getLogger("onebp")

CHUNK = 1 << 20  # negatives drawn at a time, but at least those of one batch


class UniformNegatives:
    """Items that a user never interacted with in training, all equally likely; exact, without rejection.

    The r-th unseen item of user u is r + (how many of u's items are to be skipped). With u's items sorted,
    i_0 < i_1 < ..., the j-th one lies below it just when i_j - j <= r. As i_j - j never falls with j and stays below I,
    the keys u*I + (i_j - j) are sorted over all users, and one binary search for u*I + r counts the skips, together
    with all interactions of the users before u.
    """

    def __init__(self, train, device):
        """train: csr_array (U, I) with sorted indices."""
        users, self.items = train.shape
        start, degree = train.indptr[:-1].astype(np.int64), np.diff(train.indptr).astype(np.int64)
        owner = np.repeat(np.arange(users), degree)
        keys = owner * self.items + train.indices - (np.arange(train.nnz) - start[owner])
        self.start = torch.as_tensor(start, device=device)  # (U,)
        self.unseen = torch.as_tensor(self.items - degree, device=device)  # (U,)
        self.keys = torch.as_tensor(keys, device=device)  # (interactions,)

    def draw(self, users, count, generator):
        """users (B,), each with at least one unseen item -> items (B, count), drawn with replacement."""
        uniform = torch.rand(len(users), count, dtype=torch.float64, device=users.device, generator=generator)
        unseen = self.unseen[users, None]  # (B, 1)
        rank = (uniform * unseen).long().clamp_(max=unseen - 1)  # (B, count), in [0, unseen)
        skipped = (
            torch.searchsorted(self.keys, users[:, None] * self.items + rank, right=True) - self.start[users, None]
        )
        return rank + skipped


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
        """Yield (users (B,), items (B,), negatives (B, N)) until every interaction was in one batch."""
        order = torch.randperm(len(self.users), device=self.users.device, generator=self.generator)
        batches_at_once = max(1, CHUNK // (self.batch_size * self.n_negatives))
        for chunk in order.split(batches_at_once * self.batch_size):
            users, items = self.users[chunk], self.items[chunk]
            negatives = self.negatives.draw(users, self.n_negatives, self.generator)
            yield from zip(*(part.split(self.batch_size) for part in (users, items, negatives)), strict=True)
