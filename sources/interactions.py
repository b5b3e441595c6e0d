"""Interactions: users, items and the splits train, valid and test; how they are split.

Shapes: U users, I items.
"""

import hashlib
import json
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from scipy.sparse import coo_array, csr_array

from cli.errors import UserError
from sources.splits import random_overall

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Details:
    """What only --mode describe needs of the files.

    rows: in all files
    repeats: rows less their distinct pairs of user and item
    times: {split: (n,) int64, in the order of the split's matrix}, of splits whose file has some
    unit: of the times, see sources.values
    """

    rows: int
    repeats: int
    times: dict
    unit: str

    def divided(self, split, other, moved):
        """The same with some entries of a split in another, new one. moved: mask over them"""
        if split not in self.times:
            return self
        times = self.times[split]
        return replace(self, times=self.times | {split: times[~moved], other: times[moved]})


@dataclass(frozen=True)
class Update:
    """What an updated model learns. parent: name of the run that it goes on from.

    new: csr_array (U, I), the training interactions that the parent did not have
    """

    parent: str
    new: csr_array


@dataclass(frozen=True)
class Interactions:
    """A data set in splits that share no (user, item) pair.

    user_ids, item_ids: the ids of all splits' users and items as the files spell them, sorted; a
        user's or item's index is its position there
    train, valid, test: csr_array (U, I) with sorted indices, of ones or of ratings (float32). A
        rating may be 0, so an entry counts whatever its value. valid may be empty.
    digest: of the ids and splits
    protocol: {topic: line} on how the splits were made, for summary.json
    details: for --mode describe, else None
    tune: a fourth split for regularizers/lambdaopt.py, or None
    update: of --train_mode update, else None
    """

    name: str
    user_ids: list[str]
    item_ids: list[str]
    train: csr_array
    valid: csr_array
    test: csr_array
    digest: str
    tune: csr_array | None = None
    protocol: dict = field(default_factory=dict)
    details: Details | None = None
    update: Update | None = None

    @property
    def shape(self):
        """(users, items)"""
        return self.train.shape

    def counts(self):
        """Number of users, of items, and of interactions in each split, by name."""
        users, items = self.shape
        splits = (*SPLITS, "tune") if self.tune is not None else SPLITS
        sizes = {split: getattr(self, split).nnz for split in splits}
        return {"users": users, "items": items, **sizes}

    def seen(self, split):
        """The matrices whose items are left out of the ranking for `split`, "valid" or "test"."""
        matrices = self.train, self.tune, self.valid if split == "test" else None
        return [matrix for matrix in matrices if matrix is not None]

    def describe(self):
        """One line: the counts, the users and items that training lacks, and the digest."""
        cold = [
            int(np.sum(np.diff(self.train.indptr) == 0)),
            self.shape[1] - len(np.unique(self.train.indices)),
        ]
        return description(self.name, self.counts(), cold, self.digest)

    def with_tuning_split(self, ratio, split_seed):
        """The same data with a random share of the validation split as the split `tune`.

        ratio: the share that moves; 1 leaves no validation split
        split_seed: seed of the random choice

        Raises UserError if there are too few validation interactions to divide.
        """
        moved = np.ones(self.valid.nnz, bool)
        if ratio == 1:
            valid, tune = csr_array(self.shape, dtype=self.valid.dtype), self.valid
        else:
            random = np.random.default_rng(split_seed)
            moved = ~random_overall(self.valid.nnz, 1 - ratio, random)
            tune, valid = entries(self.valid, moved), entries(self.valid, ~moved)
            if not valid.nnz:
                raise UserError(
                    f"data set {self.name}: {self.valid.nnz} validation interactions are too few "
                    "to divide"
                )
        splits = {"train": self.train, "valid": valid, "test": self.test, "tune": tune}
        details = self.details and self.details.divided("valid", "tune", moved)
        digest = digest_of(self.user_ids, self.item_ids, splits)
        return replace(self, **splits, digest=digest, details=details)

    def with_valid_in_train(self):
        """The same data with the validation split moved into the training split."""
        matrices = self.train.tocoo(), self.valid.tocoo()
        pairs = [(*matrix.coords, matrix.data) for matrix in matrices]
        columns = (np.concatenate(column) for column in zip(*pairs, strict=True))
        train = pair_matrix(*columns, self.shape)
        empty = csr_array(self.shape, dtype=train.dtype)
        splits = {"train": train, "valid": empty, "test": self.test}
        return replace(self, **splits, digest=digest_of(self.user_ids, self.item_ids, splits))


def description(name, counts, cold, digest):
    """The line that describes a data set.

    counts: {"users": U, "items": I, split: interactions, ...}
    cold: (users, items) without training interactions
    digest: of the data set; the line shows its beginning
    """
    sizes = ", ".join(f"{count:,} {what}" for what, count in counts.items())
    missing = f"{cold[0]} users and {cold[1]} items without training"
    return f"{name}: {sizes} ({missing}), digest {digest[:12]}"


def pair_matrix(users, items, values, shape):
    """csr_array (U, I) of (user, item) pairs. The last value of a repeated pair counts.

    users, items (interactions,): indices
    values (interactions,): ratings, or None for ones
    shape: (U, I)
    """
    ones = np.ones(len(users), np.int8)
    matrix = coo_array((ones if values is None else values, (users, items)), shape).tocsr()
    matrix.sum_duplicates()
    if values is None:
        matrix.data[:] = 1
    elif matrix.nnz < len(users):  # values of repeated pairs were added up: start again
        last = ~pd.DataFrame({"user": users, "item": items}).duplicated(keep="last").to_numpy()
        return pair_matrix(users[last], items[last], values[last], shape)
    return matrix


def entries(matrix, chosen):
    """csr_array of some entries of a matrix. chosen: mask over them"""
    before = np.concatenate([[0], np.cumsum(chosen)]).astype(matrix.indptr.dtype)
    arrays = matrix.data[chosen], matrix.indices[chosen], before[matrix.indptr]
    return csr_array(arrays, shape=matrix.shape)


def digest_of(user_ids, item_ids, splits):
    """sha256 of ids and splits: equal for files of the same splits, whatever their format or order.

    splits: {name: csr_array (U, I)}; the ratings count if they are float32
    """
    digest = hashlib.sha256(json.dumps([user_ids, item_ids]).encode())
    for split in (*SPLITS, "tune") if "tune" in splits else SPLITS:
        digest.update(splits[split].indptr.astype("<i8").tobytes())
        digest.update(splits[split].indices.astype("<i8").tobytes())
        if splits["train"].dtype == np.float32:
            digest.update(splits[split].data.astype("<f4").tobytes())
    return digest.hexdigest()
