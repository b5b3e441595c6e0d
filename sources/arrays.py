"""Data sets that are too large to parse at each start: arrays on disk, of which a process maps its users' part.

A folder with about.json, {"users": U, "items": I}, and for each part `<part>.indptr.npy` (U + 1,) and
`<part>.indices.npy`: as in a csr_array, user u's items are indices[indptr[u] : indptr[u + 1]], in ascending order.
"""

import hashlib
import json
from itertools import combinations

import numpy as np
from scipy.sparse import csr_array

from cli.errors import UserError
from distributed import agreement, collectives
from engine.tables import item_counts
from sources.folders import find_folder
from sources.interactions import SPLITS, Interactions, description
from sources.share import Share, own_span, user_cuts

BLOCK = 1 << 22  # interactions that are looked at together
MIXER = np.uint64(0x9E3779B97F4A7C15)


def find_mapped(name, data_dir):
    """The folder of the data set `name`, where it is of this kind, else None. Raises UserError for an unknown name."""
    folder = None if name == "demo" else find_folder(name, data_dir)
    return folder if folder and (folder / "train.indptr.npy").is_file() else None


def load_mapped(folder, validate):
    """The Interactions in a folder, or this rank's Share of them; ids are numbers from 0.

    validate: whether a validation part is wanted. Raises UserError for everything that is wrong with the files.
    """
    name = folder.name
    with agreement.raise_on_all_ranks():
        users, items, ends, parts = read_parts(folder, validate)
    first, _ = own_span(ends)
    # The digest is of what all ranks have together, so it does not tell that these are parts of different copies.
    agreement.check_equal_on_ranks(
        {f"{name} of (users, items)": [users, items], f"{name} divided at users": ends}
    )
    digest = hashlib.sha256(
        json.dumps([users, items, [sum_of_pairs(parts[part], first) for part in SPLITS]]).encode()
    )
    about = {
        "name": name,
        **parts,
        "item_ids": [str(item) for item in range(items)],
        "digest": digest.hexdigest(),
    }
    if collectives.world_size() == 1:
        return Interactions(user_ids=[str(user) for user in range(users)], **about)
    counts = {
        "users": users,
        "items": items,
        **{part: collectives.all_reduce_int(parts[part].nnz) for part in SPLITS},
    }
    cold = (
        collectives.all_reduce_int(int(np.sum(np.diff(parts["train"].indptr) == 0))),
        int(np.sum(item_counts(parts["train"]) == 0)),
    )
    text = description(name, counts, cold, about["digest"])
    return Share(
        user_ids=[], first=first, users=users, whole_counts=counts, whole_description=text, **about
    )


def read_parts(folder, validate):
    """(U, I, where users are cut, {part: csr_array of this rank's}), `valid` empty unless wanted. Raises UserError."""
    users, items = read_sizes(folder / "about.json")
    arrays = {
        part: read_arrays(folder, part, users) for part in SPLITS if part != "valid" or validate
    }
    for part, (indptr, _) in arrays.items():
        if not indptr[-1]:
            raise UserError(f"data set {folder.name}: no {part} interaction")
    ends = user_cuts(folder.name, arrays["train"][0])
    first, last = own_span(ends)
    parts = {part: own_part(folder, part, *arrays[part], first, last, items) for part in arrays}
    parts.setdefault("valid", csr_array((last - first, items), dtype=np.int8))
    for one, other in combinations(parts, 2):
        if shared := parts[one].multiply(parts[other]).nnz:
            raise UserError(
                f"{folder}: {shared} pairs are in both {one} and {other}; keep each in one of them"
            )
    return users, items, ends, parts


def read_sizes(path):
    """(U, I) of about.json. Raises UserError."""
    try:
        about = json.loads(path.read_text())
        users, items = (int(about[name]) for name in ("users", "items"))
        if not 0 < min(users, items) <= max(users, items) < 2**31:
            raise ValueError(f"{users} users and {items} items are not from 1 to 2^31 - 1")
    except (OSError, ValueError, LookupError, TypeError, OverflowError) as error:
        raise UserError(
            f'cannot read {path} ({error}); it holds {{"users": number, "items": number}}'
        ) from None
    return users, items


def read_arrays(folder, part, users):
    """(indptr (U + 1,), indices) of a part, mapped. Raises UserError where they do not fit each other."""
    arrays = []
    for name in ("indptr", "indices"):
        path = folder / f"{part}.{name}.npy"
        try:
            arrays.append(np.load(path, mmap_mode="r", allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"cannot read {path} ({error}); write it with numpy.save") from None
        if arrays[-1].ndim != 1 or arrays[-1].dtype.kind != "i":
            raise UserError(
                f"{path} holds {arrays[-1].dtype} of {arrays[-1].ndim} axes, not whole numbers in a row"
            )
    indptr, indices = arrays
    if len(indptr) != users + 1 or indptr[0] != 0 or indptr[-1] != len(indices):
        raise UserError(
            f"{folder / part}.indptr.npy has {len(indptr)} numbers from {indptr[:1]} to {indptr[-1:]}; "
            f"{users + 1} from 0 to {len(indices)} belong there"
        )
    return indptr, indices


def own_part(folder, part, indptr, indices, first, last, items):
    """csr_array (n, I) of the users from `first` to before `last`. Raises UserError where items are not in order."""
    indptr = indptr[first : last + 1]
    begin, end = int(indptr[0]), int(indptr[-1])
    if (indptr[1:] < indptr[:-1]).any() or begin < 0 or end > len(indices):
        raise UserError(
            f"{folder / part}.indptr.npy: numbers from 0 to {len(indices)} that never fall belong there"
        )
    indptr, indices = indptr - begin, indices[begin:end]
    small = end - begin < 2**31 and items < 2**31
    kind = np.int32 if small else np.int64
    arrays = np.ones(end - begin, np.int8), indices.astype(kind, copy=False), indptr.astype(kind)
    matrix = csr_array(arrays, shape=(last - first, items))
    if not matrix.has_canonical_format:
        raise UserError(
            f"{folder / part}.indices.npy: a user's items are not in ascending order, each once; sort them"
        )
    if end > begin and not (indices.min() >= 0 and indices.max() < items):
        raise UserError(
            f"{folder / part}.indices.npy: items from 0 to {items - 1} belong there, by about.json"
        )
    return matrix


def sum_of_pairs(matrix, first):
    """A number that tells sets of pairs apart, the sum of all ranks', however the users are divided among them.

    matrix: this rank's pairs; first: its first user.
    """
    found = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for start in range(0, matrix.nnz, BLOCK):
            place = np.arange(start, min(start + BLOCK, matrix.nnz))
            users = np.searchsorted(matrix.indptr, place, side="right") - 1 + first
            pairs = users.astype(np.uint64) * np.uint64(matrix.shape[1]) + matrix.indices[
                place
            ].astype(np.uint64)
            mixed = (pairs + np.uint64(1)) * MIXER
            found += ((mixed ^ (mixed >> np.uint64(29))) * MIXER).sum(dtype=np.uint64)
    return collectives.all_reduce_int(int(found.view(np.int64)))
