"""The parsed copy of a data set's files: numbered and sorted, in arrays to map into memory."""

import glob
import hashlib
import json
import logging
import shutil
import zlib
from dataclasses import dataclass

import numpy as np

from sources.files import checksum_of_file, digest_of_file
from sources.numbering import number_ids
from sources.pairs import Pairs
from sources.readers import WANTED, read_files
from sources.values import in_microseconds
from utils import atomic_folder

log = logging.getLogger("onebp")

COPY_FORMAT = 5
ABOUT = "about.json"
# The arrays of a split, and their types
ARRAYS = {
    "indptr": ("int64",),
    "items": ("int32",),
    "places": ("int32", "int64"),
    "ratings": ("float32",),
    "times": ("int64",),
}


@dataclass(frozen=True)
class Parsed:
    """The files of a data set as they were read.

    user_ids, item_ids: all ids, sorted; see sources.numbering
    pairs: {split, or "interactions": Pairs}
    unit: of the times, see sources.values.times_of
    about: {split: what was recognised in its file}
    gaps: {split: {"rating", "time" or "unit": what is wrong}}, see sources.readers.Rows
    """

    user_ids: list
    item_ids: list
    pairs: dict
    unit: str
    about: dict
    gaps: dict


def read_cached(folder, sources, wanted):
    """Load the parsed copy of the sources, or parse them and keep a copy in <folder>/.cache.

    folder (Path): of the data set
    sources: {split: path}
    wanted (Wanted): how flags want the files to be read

    Returns Parsed; the log says what was recognised. Raises UserError for what cannot be read.
    """
    # The copy's name contains a digest of the sources: it is never that of other content.
    names = "+".join(path.name for path in sources.values())  # a folder may hold several folds
    content = _short_digest([COPY_FORMAT, *map(digest_of_file, sources.values())])
    how = f".{_short_digest(vars(wanted))}" if wanted != WANTED else ""
    copy = folder / ".cache" / f"{names}.{content}{how}"
    parsed = None
    if copy.is_dir():
        try:
            parsed = _load(copy)
        except Exception as error:  # damage can raise anything; the sources are there
            what = str(error) or type(error).__name__
            text = "warning: the parsed copy %s is damaged (%s); reading the files again"
            log.warning(text, copy, what)
            shutil.rmtree(copy, ignore_errors=True)
    if parsed is None:
        rows = read_files(list(sources.values()), wanted)
        parsed = parse(dict(zip(sources, rows, strict=True)), wanted)
        _keep(copy, names, content, parsed)
    for split, text in parsed.about.items():
        log.info("%s: %s", sources[split], text)
        if "unit" in parsed.gaps[split]:
            log.warning("warning: %s%s", sources[split], parsed.gaps[split]["unit"])
    return parsed


def _short_digest(content):
    """The beginning of the sha256 of what JSON can hold."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def parse(tables, wanted):
    """Number and sort interactions. tables: {split: Rows}; wanted (Wanted). Returns Parsed."""
    rows = list(tables.values())
    as_spelled = wanted.format is not None
    files = [table.source for table in rows]
    user_ids, users = number_ids([table.users for table in rows], "user", files, as_spelled)
    item_ids, items = number_ids([table.items for table in rows], "item", files, as_spelled)
    unit = _common_unit(rows)
    shape = (len(user_ids), len(item_ids))
    pairs = {
        split: Pairs.of(*numbers, shape, table.ratings, table.times)
        for (split, table), *numbers in zip(tables.items(), users, items, strict=True)
    }
    about = {split: f"{table.about}; {len(table):,} rows" for split, table in tables.items()}
    gaps = {split: table.gaps for split, table in tables.items()}
    return Parsed(user_ids, item_ids, pairs, unit, about, gaps)


def _common_unit(rows):
    """The unit of the times of all files; whole numbers become microseconds beside dates."""
    units = {table.unit for table in rows} - {""}
    if len(units) < 2:
        return max(units, default="")
    for table in rows:
        table.times = in_microseconds(table.times, table.unit)
    return "us"


def _load(copy):
    """What `_keep` wrote. Raises any error if it is damaged."""
    content = json.loads((copy / ABOUT).read_text())
    about, sums = content["about"], content["checksums"]
    found = {path.name: checksum_of_file(path) for path in copy.iterdir() if path.name != ABOUT}
    for name in found.keys() | sums.keys():
        if found.get(name) != sums.get(name):
            raise ValueError(f"{name} has changed")
    if content["checksum"] != zlib.crc32(json.dumps([about, sums]).encode()):
        raise ValueError(f"{ABOUT} has changed")
    ids = [json.loads((copy / f"{kind}_ids.json").read_bytes()) for kind in ("user", "item")]
    pairs = {}
    for split in about["about"]:
        # Mapped with copy on write: whoever writes gets a page of its own.
        arrays = {
            name: np.asarray(
                np.load(copy / f"{split}.{name}.npy", mmap_mode="c", allow_pickle=False)
            )
            for name in ARRAYS
            if f"{split}.{name}.npy" in sums
        }
        _check(split, arrays, *map(len, ids))
        pairs[split] = Pairs(**arrays, n_items=len(ids[1]))
    return Parsed(*ids, pairs, **about)


def _check(split, arrays, users, items):
    """Raise ValueError if the arrays of Pairs do not fit each other, or are out of range."""
    indptr, rows = arrays["indptr"], len(arrays["items"])
    right = {name: array.dtype.name in ARRAYS[name] for name, array in arrays.items()}
    right |= {name: right[name] and len(arrays[name]) == rows for name in right.keys() - {"indptr"}}
    right["indptr"] = (
        right["indptr"]
        and len(indptr) == users + 1
        and (indptr[0], indptr[-1]) == (0, rows)
        and (indptr[1:] >= indptr[:-1]).all()
    )
    for name, limit in (("items", items), ("places", rows)):
        array = arrays[name]
        right[name] = right[name] and (not rows or (array.min() >= 0 and array.max() < limit))
    if wrong := [name for name, is_right in right.items() if not is_right]:
        raise ValueError(f"{split}.{wrong[0]}.npy does not fit the others")


def _keep(copy, names, content, parsed):
    """Write a copy, and remove those of other content of the same files."""
    try:
        for stale in copy.parent.glob(f"{glob.escape(names)}.*"):
            if stale.name.startswith(f"{names}.{content}"):
                continue
            # Another process may remove it at the same time.
            if stale.is_dir():
                shutil.rmtree(stale, ignore_errors=True)
            else:
                stale.unlink(missing_ok=True)
        with atomic_folder(copy) as folder:
            for kind, ids in (("user", parsed.user_ids), ("item", parsed.item_ids)):
                (folder / f"{kind}_ids.json").write_text(json.dumps(ids))
            for split, pairs in parsed.pairs.items():
                for name in ARRAYS:
                    if (array := getattr(pairs, name)) is not None:
                        np.save(folder / f"{split}.{name}.npy", array, allow_pickle=False)
            about = {"unit": parsed.unit, "about": parsed.about, "gaps": parsed.gaps}
            sums = {path.name: checksum_of_file(path) for path in sorted(folder.iterdir())}
            whole = zlib.crc32(json.dumps([about, sums]).encode())
            content = {"about": about, "checksums": sums, "checksum": whole}
            (folder / ABOUT).write_text(json.dumps(content))
    except OSError as error:  # a read-only folder is no reason not to train
        log.warning(
            "no parsed copy kept in %s (%s): the next start parses again",
            copy.parent,
            error.strerror,
        )
