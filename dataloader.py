"""Data sets: find the files, read them (or their cached copy), number users and items, split -> Interactions."""

import glob
import hashlib
import json
import logging
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array, csr_array

import demo
from download import REGISTRY, fetch
from errors import UserError
from readers import read_interactions
from utils import atomic_file, file_sha256

log = logging.getLogger("onebp")

CACHE_FORMAT = 2
PARTS = ("train", "valid", "test")
MOVIELENS = ("u.data*", "ratings*.dat*", "ratings.csv*")  # its names for one file of all interactions


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
        parts = (*PARTS, "tune") if self.tune is not None else PARTS
        return {"users": users, "items": items, **{part: getattr(self, part).nnz for part in parts}}

    def seen(self, part):
        """The parts whose items are left out of the ranking for `part`, "valid" or "test"."""
        parts = self.train, self.tune, self.valid if part == "test" else None
        return [matrix for matrix in parts if matrix is not None]

    def describe(self):
        """One line with the counts, what only the test part has, and the digest."""
        cold = [int(np.sum(np.diff(self.train.indptr) == 0)), self.shape[1] - len(np.unique(self.train.indices))]
        return description(self.name, self.counts(), cold, self.digest)

    def with_tuning_part(self, share, split_seed):
        """The same data with a `share` of the validation part, drawn at random, as `tune`. Raises UserError."""
        rest = csr_array(self.shape, dtype=self.valid.dtype)
        if share == 1:
            valid, tune = rest, self.valid
        else:
            tune, valid = split_at_random(self.valid, 1 - share, np.random.default_rng(split_seed))
            if not valid.nnz:
                raise UserError(f"data set {self.name}: {self.valid.nnz} validation interactions are too few to divide")
        parts = {"train": self.train, "valid": valid, "test": self.test, "tune": tune}
        return replace(self, **parts, digest=_digest(self.user_ids, self.item_ids, parts))

    def with_valid_in_train(self):
        """The same data with the validation part as part of the training part."""
        pairs = [(*part.coords, part.data) for part in (self.train.tocoo(), self.valid.tocoo())]
        train = pair_matrix(*(np.concatenate(column) for column in zip(*pairs, strict=True)), self.shape)
        parts = {"train": train, "valid": csr_array(self.shape, dtype=train.dtype), "test": self.test}
        return replace(self, **parts, digest=_digest(self.user_ids, self.item_ids, parts))


def description(name, counts, cold, digest):
    """The line about a data set; counts: by name; cold: how many users and items the training part has not."""
    sizes = ", ".join(f"{count:,} {what}" for what, count in counts.items())
    return f"{name}: {sizes} ({cold[0]} users and {cold[1]} items without training), digest {digest[:12]}"


def load_dataset(
    name,
    data_dir,
    ratings=False,
    fold=None,
    test_ratio=None,
    validate=False,
    valid_ratio=None,
    suggested_ratio=None,
    split_seed=0,
    download=True,
):
    """Load the data set `name`: from `<data_dir>/<name>/`, downloaded there first if need be, or generated (`demo`).

    ratings: whether the ratings are wanted; they are split at random, interactions without ratings within each user.
    fold: number of the split `u<fold>.base` and `u<fold>.test` to take, as in MovieLens 100K. test_ratio: share that is
    tested (None: 0.1 of the ratings, 0.2 of each user's interactions), where the data set comes as one file. validate:
    whether a validation part is wanted; where no valid.* file is, it is the share valid_ratio (None: suggested_ratio;
    None: 0.1) of the training part. split_seed: of both random splits. download: whether it may be fetched. Raises
    UserError for everything that is wrong with the name or the files, and for a valid_ratio beside a valid.* file.
    """
    if name == "demo":
        if fold:
            raise UserError("--fold does not apply: demo has no folds; leave the flag out")
        sources = {"interactions": "demo"}
        user_ids, item_ids, pairs = _number({"interactions": demo.demo_interactions()})
    else:
        folder = find_folder(name, Path(data_dir))
        name = folder.name
        sources = find_sources(name, folder, download, fold)
        user_ids, item_ids, pairs = _read_cached(folder, sources)
    shape = (len(user_ids), len(item_ids))
    parts = dict.fromkeys(PARTS, csr_array(shape, dtype=np.float32 if ratings else np.int8))
    for part, (users, items, values) in pairs.items():
        if ratings and values is None:
            raise UserError(f"{sources[part]} has no ratings; name its column of them rating, or take another --model")
        parts[part] = pair_matrix(users, items, values if ratings else None, shape)
        if ratings and (repeated := len(users) - parts[part].nnz):
            log.warning("warning: %s: %d ratings are replaced by later ones of their pairs", sources[part], repeated)
    random = np.random.default_rng(split_seed)
    split = split_at_random if ratings else split_per_user
    if "interactions" in sources:
        share = (0.1 if ratings else 0.2) if test_ratio is None else test_ratio
        parts["train"], parts["test"] = split(parts.pop("interactions"), share, random)
    elif test_ratio is not None:
        raise UserError(f"--test_ratio does not apply: {sources['test']} is the test part; leave the flag out")
    _check_disjoint(user_ids, item_ids, parts, sources)
    if name in REGISTRY:
        _check_published(name, shape, parts)
    if validate and "valid" not in sources:
        share = valid_ratio or suggested_ratio or 0.1  # none of them is 0
        parts["train"], parts["valid"] = split(parts["train"], share, random)
    elif valid_ratio is not None and "valid" in sources:
        raise UserError(f"--valid_ratio does not apply: {sources['valid']} is the validation part; leave the flag out")
    for part in ("train", "valid", "test") if validate else ("train", "test"):
        if not parts[part].nnz:
            raise UserError(f"data set {name}: no {part} interaction; there are too few, or {part}.* is empty")
    return Interactions(name, user_ids, item_ids, **parts, digest=_digest(user_ids, item_ids, parts))


def find_folder(name, data_dir, known=REGISTRY):
    """The folder of data set `name`, there or of the `known` ones; case does not matter, an exact match goes first."""
    if Path(name).name != name or name in ("", ".."):
        raise UserError(f"--dataset {name!r} is no plain name; give the folder's name, and by --data_dir where it lies")
    present = sorted(path.name for path in data_dir.iterdir() if path.is_dir()) if data_dir.is_dir() else []
    spelled = {other.lower(): other for other in (*present, *known)}
    if name not in present and name.lower() not in spelled:
        choices = ", ".join(["demo", *known, *(other for other in present if other not in known)])
        raise UserError(
            f"no data set {name!r}: {data_dir / name} is absent; put files there, or choose one of {choices}"
        )
    return data_dir / (name if name in present else spelled[name.lower()])


def find_sources(name, folder, download, fold=None):
    """The source file of each part: {"train": ..., "test": ...[, "valid": ...]} or {"interactions": ...}."""
    if fold:
        forms = [{"train": f"u{fold}.base*", "test": f"u{fold}.test*"}]
    else:
        own = {part: f"{part}.*" for part in (*PARTS, "interactions")}
        forms = [own, *({"interactions": pattern} for pattern in MOVIELENS)]
    for remote in REGISTRY[name].files if name in REGISTRY else ():
        if fold and f"u{fold}.base" not in remote.members:
            continue  # there is no such fold to fetch
        if remote.members:
            enough = all if fold else any
            here = any(enough(any(folder.glob(pattern)) for pattern in form.values()) for form in forms)
        else:
            here = any(folder.glob(remote.pattern))
        if not here:
            fetch(remote, folder, allowed=download)
    sources = next(filter(None, (_matching(folder, form) for form in forms)), {})
    if fold and len(sources) < 2:
        raise UserError(f"{folder} has no fold {fold}: it needs u{fold}.base and u{fold}.test; leave --fold out")
    if not (sources.keys() == {"interactions"} or {"train", "test"} <= sources.keys() <= {*PARTS}):
        found = ", ".join(path.name for path in sources.values()) or "none of them"
        raise UserError(
            f"{folder} needs train.* and test.* (valid.* may join them), or one of interactions.*, u.data and "
            f"ratings.*; it has {found}"
        )
    return sources


def _matching(folder, form):
    """{part: the file that matches} of {part: pattern}. Raises UserError where several do."""
    sources = {}
    for part, pattern in form.items():
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if len(found) > 1:
            raise UserError(f"{folder} holds {' and '.join(path.name for path in found)}; keep one of them")
        if found:
            sources[part] = found[0]
    return sources


def _read_cached(folder, sources):
    """Parse the sources, or load the parsed copy of the same bytes. Returns what `_number` returns."""
    digests = {part: file_sha256(path) for part, path in sources.items()}
    key = hashlib.sha256(json.dumps([CACHE_FORMAT, digests]).encode()).hexdigest()
    names = "+".join(path.name for path in sources.values())  # a data set may have several splits
    cache = folder / ".cache" / f"{names}.{key[:16]}.npz"
    if cache.is_file():
        try:
            with np.load(cache, allow_pickle=False) as arrays:
                ids = [json.loads(arrays[name].tobytes()) for name in ("user_ids", "item_ids")]
                rated = {part: arrays.get(f"{part}_ratings") for part in sources}
                return *ids, {part: (*arrays[part], rated[part]) for part in sources}
        except Exception:  # whatever damage can provoke; the files are there to read again
            log.warning("the parsed copy %s is damaged; reading the files again", cache)
    user_ids, item_ids, pairs = _number({part: read_interactions(path) for part, path in sources.items()})
    ids = {
        name: np.frombuffer(json.dumps(values).encode(), np.uint8)
        for name, values in (("user_ids", user_ids), ("item_ids", item_ids))
    }
    try:
        for stale in cache.parent.glob(f"{glob.escape(names)}.*.npz"):
            stale.unlink(missing_ok=True)
        with atomic_file(cache) as file:
            rated = {f"{part}_ratings": values for part, (_, _, values) in pairs.items() if values is not None}
            np.savez(file, **ids, **rated, **{part: np.stack(columns[:2]) for part, columns in pairs.items()})
    except OSError as error:  # a read-only folder is no reason not to train
        log.warning("no parsed copy kept in %s (%s): the next start parses again", cache.parent, error.strerror)
    return user_ids, item_ids, pairs


def _number(tables):
    """{part: (users, items, ratings)} -> (user_ids, item_ids, the same with users and items as int32 indices)."""
    numbered, ids = [], []
    for column in (0, 1):
        values = np.concatenate([table[column] for table in tables.values()])
        codes, uniques = pd.factorize(values)
        names = uniques.tolist()
        order = sorted(range(len(names)), key=_id_order(names))
        position = np.empty(len(names), np.int32)
        position[order] = np.arange(len(names), dtype=np.int32)
        numbered.append(position[codes])
        ids.append([names[index] for index in order])
    ends = np.cumsum([len(table[0]) for table in tables.values()])[:-1]
    users, items = (np.split(codes, ends) for codes in numbered)
    return *ids, {part: (*pair, tables[part][2]) for part, *pair in zip(tables, users, items, strict=True)}


def _id_order(names):
    """Sort key by index: as numbers where every id is one, however long, else as text."""
    if all(name.isascii() and name.isdigit() for name in names):
        digits = [name.lstrip("0") for name in names]
        return lambda index: (len(digits[index]), digits[index], names[index])
    return names.__getitem__


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


def _check_disjoint(user_ids, item_ids, parts, sources):
    """Raise UserError, with the first pair, where two parts share one: it would be tested after it was trained."""
    for first, second in combinations(PARTS, 2):
        shared = _ones(parts[first]).multiply(_ones(parts[second])).tocoo()
        if shared.nnz:
            user, item = user_ids[shared.coords[0][0]], item_ids[shared.coords[1][0]]
            more = f" (and {shared.nnz - 1} more)" if shared.nnz > 1 else ""
            files = f"{sources[first]} and {sources[second]}"
            raise UserError(f"user {user!r} with item {item!r}{more} is in both {files}; keep each pair in one of them")


def _ones(matrix):
    """The same entries, all of them 1."""
    return csr_array((np.ones(matrix.nnz, np.int8), matrix.indices, matrix.indptr), matrix.shape)


def _check_published(name, shape, parts):
    """Warn where a named data set is not the published one: results would be compared with other data's."""
    sizes = {part: matrix.nnz for part, matrix in parts.items()}
    found = dict(zip(("users", "items"), shape, strict=True)) | sizes | {"interactions": sum(sizes.values())}
    published = REGISTRY[name].counts
    found = {what: found[what] for what in published}
    if found != published:
        as_text = [", ".join(f"{number} {what}" for what, number in counts.items()) for counts in (found, published)]
        log.warning("warning: %s has %s; published: %s. Remove its files to download it", name, *as_text)


def _digest(user_ids, item_ids, parts):
    """sha256 over ids and parts: equal when two files hold the same split, however they spell or order it."""
    digest = hashlib.sha256(json.dumps([user_ids, item_ids]).encode())
    for part in (*PARTS, "tune") if "tune" in parts else PARTS:
        digest.update(parts[part].indptr.astype("<i8").tobytes())
        digest.update(parts[part].indices.astype("<i8").tobytes())
        if parts["train"].dtype == np.float32:
            digest.update(parts[part].data.astype("<f4").tobytes())
    return digest.hexdigest()
