"""Interactions: users, items and the splits train, valid and test; how a split is made."""

import hashlib
import json
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.sparse import coo_array, csr_array

from cli.errors import UserError

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Interactions:
    """A data set, split. U users and I items are those of all parts together, sorted by id.

    train, valid, test: csr_array (U, I) of ones or, where they were asked for, of the ratings (float32; a rating may be
    0, so what counts is which entries there are); indices sorted. The parts share no pair. valid is empty where there
    is no validation part. tune: a part of its own for what tunes itself (see lambdaopt.py), or None. user_ids,
    item_ids: the ids as the files spell them, by index. digest: of ids and parts.
    """

    name: str
    user_ids: list[str]
    item_ids: list[str]
    train: csr_array
    valid: csr_array
    test: csr_array
    digest: str
    tune: csr_array | None = None

    @property
    def shape(self):
        """(users, items)"""
        return self.train.shape

    def counts(self):
        """Users, items and interactions of each part, by name."""
        users, items = self.shape
        parts = (*SPLITS, "tune") if self.tune is not None else SPLITS
        return {"users": users, "items": items, **{part: getattr(self, part).nnz for part in parts}}

    def seen(self, part):
        """The parts whose items are left out of the ranking for `part`, "valid" or "test"."""
        parts = self.train, self.tune, self.valid if part == "test" else None
        return [matrix for matrix in parts if matrix is not None]

    def describe(self):
        """One line with the counts, what only the test part has, and the digest."""
        cold = [
            int(np.sum(np.diff(self.train.indptr) == 0)),
            self.shape[1] - len(np.unique(self.train.indices)),
        ]
        return description(self.name, self.counts(), cold, self.digest)

    def with_tuning_part(self, share, split_seed):
        """The same data with a `share` of the validation part, drawn at random, as `tune`. Raises UserError."""
        rest = csr_array(self.shape, dtype=self.valid.dtype)
        if share == 1:
            valid, tune = rest, self.valid
        else:
            tune, valid = split_at_random(self.valid, 1 - share, np.random.default_rng(split_seed))
            if not valid.nnz:
                raise UserError(
                    f"data set {self.name}: {self.valid.nnz} validation interactions are too few to divide"
                )
        parts = {"train": self.train, "valid": valid, "test": self.test, "tune": tune}
        return replace(self, **parts, digest=digest_of(self.user_ids, self.item_ids, parts))

    def with_valid_in_train(self):
        """The same data with the validation part as part of the training part."""
        pairs = [(*part.coords, part.data) for part in (self.train.tocoo(), self.valid.tocoo())]
        train = pair_matrix(
            *(np.concatenate(column) for column in zip(*pairs, strict=True)), self.shape
        )
        parts = {
            "train": train,
            "valid": csr_array(self.shape, dtype=train.dtype),
            "test": self.test,
        }
        return replace(self, **parts, digest=digest_of(self.user_ids, self.item_ids, parts))


def description(name, counts, cold, digest):
    """The line about a data set; counts: by name; cold: how many users and items the training part has not."""
    sizes = ", ".join(f"{count:,} {what}" for what, count in counts.items())
    return f"{name}: {sizes} ({cold[0]} users and {cold[1]} items without training), digest {digest[:12]}"


def pair_matrix(users, items, values, shape):
    """Pairs -> csr_array (U, I) of their values, or of ones for None; of a pair that is there twice the last counts."""
    ones = np.ones(len(users), np.int8)
    matrix = coo_array((ones if values is None else values, (users, items)), shape).tocsr()
    matrix.sum_duplicates()
    if values is None:
        matrix.data[:] = 1
    elif matrix.nnz < len(users):  # repeated pairs were added up
        last = ~pd.DataFrame({"user": users, "item": items}).duplicated(keep="last").to_numpy()
        return pair_matrix(users[last], items[last], values[last], shape)
    return matrix


def split_per_user(matrix, ratio, random):
    """Split every user's interactions at random: (the rest, a share `ratio` of them).

    The share is rounded to the nearest whole number, and at least one interaction stays in the rest.
    """
    users = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((random.random(matrix.nnz), users))  # by user, then at random
    rank = np.arange(matrix.nnz) - matrix.indptr[users]  # position within the user, in that order
    degree = np.diff(matrix.indptr)[users]
    held_out = rank < np.minimum(np.floor(degree * ratio + 0.5), degree - 1)
    return tuple(_entries(matrix, chosen) for chosen in (order[~held_out], order[held_out]))


def split_at_random(matrix, ratio, random):
    """Split the entries at random: (the rest, a share `ratio` of them), the rest not empty."""
    order = random.permutation(matrix.nnz)
    held_out = min(round(matrix.nnz * ratio), matrix.nnz - 1)
    return tuple(_entries(matrix, chosen) for chosen in (order[held_out:], order[:held_out]))


def _entries(matrix, chosen):
    """The csr_array of the entries at places `chosen`."""
    users, items = matrix.tocoo().coords
    return pair_matrix(users[chosen], items[chosen], matrix.data[chosen], matrix.shape)


def digest_of(user_ids, item_ids, parts):
    """sha256 over ids and parts: equal when two files hold the same split, however they spell or order it."""
    digest = hashlib.sha256(json.dumps([user_ids, item_ids]).encode())
    for part in (*SPLITS, "tune") if "tune" in parts else SPLITS:
        digest.update(parts[part].indptr.astype("<i8").tobytes())
        digest.update(parts[part].indices.astype("<i8").tobytes())
        if parts["train"].dtype == np.float32:
            digest.update(parts[part].data.astype("<f4").tobytes())
    return digest.hexdigest()
