"""The parsed copy of a data set's files, and the numbering of its users and items."""

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
    user_ids, item_ids, pairs = number_ids(
        {part: read_interactions(path) for part, path in sources.items()}
    )
    ids = {
        name: np.frombuffer(json.dumps(values).encode(), np.uint8)
        for name, values in (("user_ids", user_ids), ("item_ids", item_ids))
    }
    try:
        for stale in cache.parent.glob(f"{glob.escape(names)}.*.npz"):
            stale.unlink(missing_ok=True)
        with atomic_file(cache) as file:
            rated = {
                f"{part}_ratings": values
                for part, (_, _, values) in pairs.items()
                if values is not None
            }
            np.savez(
                file,
                **ids,
                **rated,
                **{part: np.stack(columns[:2]) for part, columns in pairs.items()},
            )
    except OSError as error:  # a read-only folder is no reason not to train
        log.warning(
            "no parsed copy kept in %s (%s): the next start parses again",
            cache.parent,
            error.strerror,
        )
    return user_ids, item_ids, pairs


def number_ids(tables):
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
    return *ids, {
        part: (*pair, tables[part][2]) for part, *pair in zip(tables, users, items, strict=True)
    }


def _id_order(names):
    """Sort key by index: as numbers where every id is one, however long, else as text."""
    if all(name.isascii() and name.isdigit() for name in names):
        digits = [name.lstrip("0") for name in names]
        return lambda index: (len(digits[index]), digits[index], names[index])
    return names.__getitem__
