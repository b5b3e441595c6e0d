"""Pairs: the interactions of a file or split, sorted by user and item, with ratings and times.

Shapes: U users, I items, n interactions.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array


@dataclass(frozen=True)
class Pairs:
    """Interactions, sorted by user, then by item, then by their place in the file.

    indptr (U + 1,) int64: user u's are those from indptr[u] to before indptr[u + 1]
    items (n,) int32
    n_items: I
    places (n,) int32 or int64 or None: the place of each in its file, from 0
    ratings (n,) float32 or None; NaN where the file has none
    times (n,) int64 or None; see sources.values
    """

    indptr: np.ndarray
    items: np.ndarray
    n_items: int
    places: np.ndarray
    ratings: np.ndarray | None = None
    times: np.ndarray | None = None

    @classmethod
    def of(cls, users, items, shape, ratings=None, times=None):
        """Sort interactions (n,). shape: (U, I)"""
        order = _sorted_order(users, items, shape)
        counts = np.bincount(users, minlength=shape[0])
        indptr = np.concatenate([[0], np.cumsum(counts)])
        places = np.arange(len(users), dtype=np.int32 if len(users) < 2**31 else np.int64)
        if order is None:
            return cls(indptr, items, shape[1], places, ratings, times)
        columns = (None if column is None else column[order] for column in (ratings, times))
        return cls(indptr, items[order], shape[1], places[order], *columns)

    def __len__(self):
        return len(self.items)

    @property
    def shape(self):
        """(U, I)"""
        return len(self.indptr) - 1, self.n_items

    @property
    def users(self):
        """The users (n,) int32."""
        return np.repeat(np.arange(self.shape[0], dtype=np.int32), np.diff(self.indptr))

    def present(self):
        """Masks (U,) and (I,): the users and the items that have interactions."""
        items = np.zeros(self.n_items, bool)
        items[self.items] = True
        return np.diff(self.indptr) > 0, items

    def only(self, ratings, times):
        """The same interactions, without ratings, or without times and places. Arguments: bool"""
        return replace(
            self,
            ratings=self.ratings if ratings else None,
            times=self.times if times else None,
            places=self.places if times else None,
        )

    def take(self, kept):
        """The interactions of a mask (n,)."""
        columns = {
            name: None if (column := getattr(self, name)) is None else column[kept]
            for name in ("items", "places", "ratings", "times")
        }
        # Count each user's; reduceat returns an entry, not 0, for a user without any.
        some = np.flatnonzero(np.diff(self.indptr))
        counts = np.zeros(len(self.indptr), np.int64)
        if len(some):
            counts[some + 1] = np.add.reduceat(kept, self.indptr[some], dtype=np.int64)
        return replace(self, indptr=np.cumsum(counts), **columns)

    def renumbered(self, users, items):
        """The same interactions with new numbers for users and items.

        users (U,), items (I,): masks of those that stay; all others have no interactions here
        """
        indptr = self.indptr[np.concatenate([[True], users])]
        numbers = np.cumsum(items, dtype=np.int32) - 1
        return replace(self, indptr=indptr, items=numbers[self.items], n_items=int(items.sum()))

    def is_last(self):
        """Mask (n,): whether no later interaction in the file is of the same user and item."""
        last = np.ones(len(self), bool)
        last[:-1] = self.items[1:] != self.items[:-1]
        last[self.indptr[1:-1][np.diff(self.indptr)[:-1] > 0] - 1] = True
        return last

    def once(self):
        """The interactions, of a pair that occurs more than once only the last in the file."""
        last = self.is_last()
        return self if last.all() else self.take(last)

    def matrix(self, ratings=False):
        """csr_array (U, I) of ones, or of ratings; of a pair that occurs twice the last counts."""
        pairs = self.once()
        values = pairs.ratings if ratings else np.ones(len(pairs), np.int8)
        small = len(pairs) < 2**31
        indptr = pairs.indptr.astype(np.int32) if small else pairs.indptr
        indices = pairs.items if small else pairs.items.astype(np.int64)
        return csr_array((values, indices, indptr), shape=self.shape)


def _sorted_order(users, items, shape):
    """Indices (n,) that sort by user, item and place; None if they are in order."""
    step = np.diff(users)
    if ((step > 0) | ((step == 0) & (np.diff(items) >= 0))).all():
        return None
    bits = [int(size).bit_length() for size in (*shape, len(users))]
    if sum(bits) > 64:
        return np.lexsort((items, users))
    # Sorting one number for each interaction is several times faster than lexsort.
    keys = users.astype(np.uint64) << np.uint64(bits[1] + bits[2])
    keys |= items.astype(np.uint64) << np.uint64(bits[2])
    keys |= np.arange(len(users), dtype=np.uint64)
    keys.sort()
    keys &= np.uint64((1 << bits[2]) - 1)
    return keys.view(np.int64)
