"""Number the users and items of a data set, and keep a parsed copy of its files."""

import glob
import hashlib
import json
import logging

import numpy as np
import pandas as pd

from sources.readers import read_interactions
from utils import atomic_file, file_sha256

log = logging.getLogger("onebp")


CACHE_FORMAT = 2


def read_cached(folder, sources):
    """Load the parsed copy of the sources, or parse them and keep a copy in <folder>/.cache.

    folder (Path): of the data set
    sources: {split: path}

    Returns what `number_ids` returns.
    """
    # The copy's name contains a digest of the sources: it is never that of other content.
    digests = {split: file_sha256(path) for split, path in sources.items()}
    key = hashlib.sha256(json.dumps([CACHE_FORMAT, digests]).encode()).hexdigest()
    names = "+".join(path.name for path in sources.values())  # a folder may hold several folds
    copy = folder / ".cache" / f"{names}.{key[:16]}.npz"
    if copy.is_file():
        try:
            return _load(copy, sources)
        except Exception:  # damage can raise anything; the sources are there to read again
            log.warning("the parsed copy %s is damaged; reading the files again", copy)

    tables = {split: read_interactions(path) for split, path in sources.items()}
    user_ids, item_ids, pairs = number_ids(tables)
    try:
        for stale in copy.parent.glob(f"{glob.escape(names)}.*.npz"):
            stale.unlink(missing_ok=True)
        _save(copy, user_ids, item_ids, pairs)
    except OSError as error:  # a read-only folder is no reason not to train
        log.warning(
            "no parsed copy kept in %s (%s): the next start parses again",
            copy.parent,
            error.strerror,
        )
    return user_ids, item_ids, pairs


def _load(copy, splits):
    """What `_save` wrote: (user_ids, item_ids, pairs)."""
    with np.load(copy, allow_pickle=False) as arrays:
        ids = [json.loads(arrays[name].tobytes()) for name in ("user_ids", "item_ids")]
        ratings = {split: arrays.get(f"{split}_ratings") for split in splits}
        return *ids, {split: (*arrays[split], ratings[split]) for split in splits}


def _save(copy, user_ids, item_ids, pairs):
    """Write the result of `number_ids` into an .npz file, without pickle: the ids are JSON."""
    ids = {
        name: np.frombuffer(json.dumps(values).encode(), np.uint8)
        for name, values in (("user_ids", user_ids), ("item_ids", item_ids))
    }
    with atomic_file(copy) as file:
        ratings = {
            f"{split}_ratings": values
            for split, (_, _, values) in pairs.items()
            if values is not None
        }
        indices = {split: np.stack(columns[:2]) for split, columns in pairs.items()}
        np.savez(file, **ids, **ratings, **indices)


def number_ids(tables):
    """Number users and items from 0, in the order of their ids.

    tables: {split: (users, items, ratings)}, arrays (interactions,) of strings; ratings or None

    Returns (user_ids, item_ids, tables with users and items as int32 indices into these lists).
    """
    numbered, ids = [], []
    for column in (0, 1):
        values = np.concatenate([table[column] for table in tables.values()])
        codes, uniques = pd.factorize(values)  # by first appearance
        names = uniques.tolist()
        order = sorted(range(len(names)), key=_id_order(names))
        position = np.empty(len(names), np.int32)
        position[order] = np.arange(len(names), dtype=np.int32)
        numbered.append(position[codes])
        ids.append([names[index] for index in order])
    # Divide the columns among the splits again.
    ends = np.cumsum([len(table[0]) for table in tables.values()])[:-1]
    users, items = (np.split(codes, ends) for codes in numbered)
    return *ids, {
        split: (*pair, tables[split][2]) for split, *pair in zip(tables, users, items, strict=True)
    }


def _id_order(names):
    """Sort key for indices into `names`: as numbers if every name is digits only, else as text.

    Numbers may have any length: the key compares the number of digits, then the digits.
    """
    if all(name.isascii() and name.isdigit() for name in names):
        digits = [name.lstrip("0") for name in names]
        return lambda index: (len(digits[index]), digits[index], names[index])
    return names.__getitem__
