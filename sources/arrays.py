"""Data sets that are too large to parse at each start: arrays on disk, which processes map.

A folder holds about.json, {"users": U, "items": I}, and for each split `<split>.indptr.npy`
(U + 1,) and `<split>.indices.npy`. As in a csr_array, user u's items are
indices[indptr[u] : indptr[u + 1]], in ascending order. Each process reads its users only. Instead
of train and test it may hold `interactions`, with or without `interactions.times.npy`, which are
then split.

Shapes: U users, I items, n users of this process.
"""

import hashlib
import json
from itertools import combinations

import numpy as np
from scipy.sparse import csr_array

from cli.errors import RaisedByAllRanks, UserError
from distributed import agreement, collectives
from sources.files import map_array
from sources.filters import DEFAULTS
from sources.folders import find_folder
from sources.interactions import SPLITS, Interactions, description
from sources.share import Share, item_counts, own_span, user_cuts
from sources.split_arrays import OwnSplitter

WHOLE = "interactions"
BLOCK = 1 << 22  # interactions that `sum_of_pairs` processes together
MIXER = np.uint64(0x9E3779B97F4A7C15)


def find_arrays(name, data_dir):
    """The folder of the data set `name` if it holds arrays, else None.

    Raises UserError for an unknown name.
    """
    folder = None if name == "demo" else find_folder(name, data_dir)
    names = [folder / f"{split}.indptr.npy" for split in ("train", WHOLE)] if folder else []
    return folder if any(path.is_file() for path in names) else None


def load_arrays(folder, validate, choice=DEFAULTS, test_ratio=None, valid_ratio=None, split_seed=0):
    """Load the Interactions of a folder or, in several processes, this rank's Share of them.

    The ids are the numbers from 0. Raises UserError if a file is missing or wrong.

    validate: whether a validation split is wanted
    choice (Choice): uses split, test_last and test_from
    test_ratio, valid_ratio: shares of the splits that are made; None: 0.2 and 0.1
    split_seed: of random splits
    """
    name = folder.name
    with agreement.raise_on_all_ranks():
        users, items, cuts, splits, said = read_splits(
            folder, validate, OwnSplitter(folder, choice, test_ratio, valid_ratio, split_seed)
        )
    for split in ("train", "valid", "test") if validate else ("train", "test"):
        if not collectives.all_reduce_int(splits[split].nnz):
            raise RaisedByAllRanks(f"data set {name}: no {split} interaction ({said})")
    first, _ = own_span(cuts)
    # The digest below is of all ranks' data together: it does not show that the ranks read
    # different copies. The sizes and the cuts do.
    agreement.check_equal_on_ranks(
        {f"{name} of (users, items)": [users, items], f"{name} divided at users": cuts}
    )
    sums = [sum_of_pairs(splits[split], first) for split in SPLITS]
    digest = hashlib.sha256(json.dumps([users, items, sums]).encode()).hexdigest()
    item_ids = [str(item) for item in range(items)]
    protocol = {"split": said}
    about = {"name": name, **splits, "item_ids": item_ids, "digest": digest, "protocol": protocol}
    if collectives.world_size() == 1:
        return Interactions(user_ids=[str(user) for user in range(users)], **about)

    # Several ranks: count over all of them.
    totals = {split: collectives.all_reduce_int(splits[split].nnz) for split in SPLITS}
    counts = {"users": users, "items": items, **totals}
    cold_users = collectives.all_reduce_int(int(np.sum(np.diff(splits["train"].indptr) == 0)))
    cold_items = int(np.sum(item_counts(splits["train"]) == 0))
    text = description(name, counts, (cold_users, cold_items), digest)
    return Share(
        user_ids=[], first=first, users=users, whole_counts=counts, whole_description=text, **about
    )


def read_splits(folder, validate, splitter):
    """Read this rank's users of each split, or split them.

    validate: whether a validation split is wanted; without files it is made of train
    splitter (OwnSplitter)

    Returns (U, I, the ranks' first users and U, {split: csr_array (n, I)}, how the splits were
    made). Raises UserError.
    """
    users, items = read_sizes(folder / "about.json")
    present = [split for split in (*SPLITS, WHOLE) if (folder / f"{split}.indptr.npy").is_file()]
    wanted = [WHOLE] if WHOLE in present else ["train", "test"]
    if validate and WHOLE not in present and "valid" in present:
        wanted.append("valid")
    arrays = {split: read_arrays(folder, split, users) for split in wanted}
    for split, (indptr, _) in arrays.items():
        if not indptr[-1]:
            raise UserError(f"data set {folder.name}: no {split} interaction")

    # Keep this rank's users of each split.
    cuts = user_cuts(folder.name, arrays[wanted[0]][0])
    first, last = own_span(cuts)
    splits = {
        split: user_rows(folder, split, *arrays[split], first, last, items) for split in arrays
    }
    missing = ["train", "test"] if WHOLE in arrays else ["train"]
    missing += ["valid"] if validate and "valid" not in arrays else []
    if missing != ["train"]:
        name = wanted[0]
        made = splitter.split(name, splits.pop(name), arrays[name][0], (first, last), missing)
        splits |= made
    empty = csr_array((last - first, items), dtype=np.int8)
    splits = {split: splits.get(split, empty) for split in SPLITS}

    for one, other in combinations(splits, 2):
        if shared := splits[one].multiply(splits[other]).nnz:
            raise UserError(
                f"{folder}: {shared} pairs are in both {one} and {other}; keep each in one of them"
            )
    return users, items, cuts, splits, splitter.said


def read_sizes(path):
    """(U, I) from about.json. Raises UserError."""
    try:
        about = json.loads(path.read_text())
        users, items = (about[name] for name in ("users", "items"))
        if not type(users) is type(items) is int:
            raise ValueError(f"{users!r} users and {items!r} items are no whole numbers")
        if not 0 < min(users, items) <= max(users, items) < 2**31:
            raise ValueError(f"{users} users and {items} items are not from 1 to 2^31 - 1")
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError(
            f'cannot read {path} ({error}); write {{"users": number, "items": number}} into it'
        ) from None
    return users, items


def read_arrays(folder, split, users):
    """Map (indptr (U + 1,), indices (interactions,)) of a split.

    Raises UserError if the arrays do not fit each other.
    """
    indptr, indices = (
        map_array(folder / f"{split}.{name}.npy", "write it with numpy.save")
        for name in ("indptr", "indices")
    )
    if len(indptr) != users + 1 or indptr[0] != 0 or indptr[-1] != len(indices):
        raise UserError(
            f"{folder / split}.indptr.npy has {len(indptr)} numbers from {indptr[:1]} to "
            f"{indptr[-1:]}; it needs {users + 1} numbers from 0 to {len(indices)}"
        )
    return indptr, indices


def user_rows(folder, split, indptr, indices, first, last, items):
    """csr_array (n, I) of the users from `first` to before `last`.

    folder, split: for messages
    indptr (U + 1,), indices: arrays of the whole split
    items: I

    Raises UserError if indptr falls, or a user's items are out of order or out of range.
    """
    indptr = indptr[first : last + 1]
    begin, end = int(indptr[0]), int(indptr[-1])
    if (indptr[1:] < indptr[:-1]).any() or begin < 0 or end > len(indices):
        raise UserError(
            f"{folder / split}.indptr.npy must hold non-decreasing numbers from 0 to {len(indices)}"
        )
    indptr, indices = indptr - begin, indices[begin:end]
    small = end - begin < 2**31 and items < 2**31
    kind = np.int32 if small else np.int64
    arrays = np.ones(end - begin, np.int8), indices.astype(kind, copy=False), indptr.astype(kind)
    matrix = csr_array(arrays, shape=(last - first, items))
    if not matrix.has_canonical_format:
        raise UserError(
            f"{folder / split}.indices.npy: a user's items are not in ascending order, each once; "
            "sort them"
        )
    if end > begin and not (indices.min() >= 0 and indices.max() < items):
        raise UserError(
            f"{folder / split}.indices.npy: items from 0 to {items - 1} belong there, by about.json"
        )
    return matrix


def sum_of_pairs(matrix, first):
    """A checksum of a split's (user, item) pairs, equal however the users are divided among ranks.

    It is the sum, over all ranks' pairs, of a hash of each pair.

    matrix: csr_array (n, I) of this rank's users
    first: its first user
    """
    total = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):  # sums and products are modulo 2^64
        for start in range(0, matrix.nnz, BLOCK):
            place = np.arange(start, min(start + BLOCK, matrix.nnz))
            users = np.searchsorted(matrix.indptr, place, side="right") - 1 + first
            items = matrix.indices[place].astype(np.uint64)
            pairs = users.astype(np.uint64) * np.uint64(matrix.shape[1]) + items
            mixed = (pairs + np.uint64(1)) * MIXER
            total += ((mixed ^ (mixed >> np.uint64(29))) * MIXER).sum(dtype=np.uint64)
    return collectives.all_reduce_int(int(total.view(np.int64)))
