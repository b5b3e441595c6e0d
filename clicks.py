"""Click data: find the files, number the values of every field, split by time -> Clicks, an encoded copy on disk.

Shapes: n rows, F fields, m rows of a block.
"""

import atexit
import hashlib
import json
import logging
import os
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from clicklog import ClickLog
from clicksources import find_clicks
from errors import UserError
from utils import on_terminal

log = logging.getLogger("onebp")

ENCODED_FORMAT = 1
READ_ROWS = 1 << 14  # at a time
TYPES = {"codes": np.dtype("<i4"), "labels": np.dtype("u1"), "users": np.dtype("<i8")}  # of the files of a copy


@dataclass(frozen=True)
class Clicks:
    """A click data set, in the order of time: of every row the label, and of every field an id.

    fields: their names. sizes: how many ids each has; the ids are numbered through over all fields, and the first of a
    field is for whatever is out of its vocabulary. parts: {"train", "valid", "test": (first row, row after the last)},
    which follow each other; valid may be empty. folder: where the copy is. has_users: whether each row's user is known.
    digest: of ids, labels, users and parts. clicks: the share of the training rows that are clicks. skipped: how many
    broken lines were left out.
    """

    name: str
    fields: list[str]
    sizes: list[int]
    parts: dict
    folder: Path
    has_users: bool
    digest: str
    clicks: float
    skipped: int

    @property
    def offsets(self):
        """(F,) the first id of each field."""
        return np.cumsum([0, *self.sizes[:-1]])

    def counts(self):
        """Rows, fields, values, and rows of each part, by name."""
        rows = {part: stop - start for part, (start, stop) in self.parts.items()}
        return {"rows": sum(rows.values()), "fields": len(self.fields), "values": sum(self.sizes), **rows}

    def describe(self):
        """One line with the counts, the share of clicks, and the digest."""
        counts = ", ".join(f"{count:,} {name}" for name, count in self.counts().items())
        left_out = f", {self.skipped:,} broken lines left out" if self.skipped else ""
        return f"{self.name}: {counts} (clicks: {self.clicks:.1%}{left_out}), digest {self.digest[:12]}"

    def rows(self, start, stop):
        """Ids (m, F) int32 and labels (m,) uint8 of the rows from `start` to before `stop`: copies in memory."""
        return self._read("codes", start, stop, len(self.fields)), self._read("labels", start, stop, 1)[:, 0]

    def users(self, start, stop):
        """(m,) int64, equal for rows of the same user."""
        return self._read("users", start, stop, 1)[:, 0]

    def with_valid_in_train(self):
        """The same data with the validation part as part of the training part."""
        (start, _), (_, stop) = self.parts["train"], self.parts["valid"]
        parts = {**self.parts, "train": (start, stop), "valid": (stop, stop)}
        return replace(self, parts=parts, digest=hashlib.sha256(f"{self.digest} {parts}".encode()).hexdigest())

    def _read(self, name, start, stop, width):
        return np.array(_mapped(self.folder, name, start, stop, width))


class Rows:
    """Rows of a data set that follow each other, read by blocks onto a device."""

    def __init__(self, data, start, stop, device):
        """data: Clicks; from row `start` to before row `stop`."""
        self.data, self.start, self.stop, self.device = data, start, stop, device

    def __len__(self):
        return self.stop - self.start

    def blocks(self):
        """Yield (ids (m, F) int64, labels (m,) float32)."""
        for start in range(self.start, self.stop, READ_ROWS):
            ids, labels = self.data.rows(start, min(start + READ_ROWS, self.stop))
            yield torch.from_numpy(ids).to(self.device).long(), torch.from_numpy(labels).to(self.device).float()

    def labels(self):
        """(n,) float32."""
        return torch.cat([labels for _, labels in self.blocks()])

    def users(self):
        """(n,) int64, or None where they are not known."""
        users = self.data.users(self.start, self.stop) if self.data.has_users else None
        return None if users is None else torch.from_numpy(users).to(self.device)

    def parts(self, count):
        """`count` Rows that follow each other, of sizes that differ by one at most."""
        edges = [self.start + len(self) * number // count for number in range(count + 1)]
        return [Rows(self.data, *edge, self.device) for edge in pairwise(edges)]


def _mapped(folder, name, start, stop, width, mode="r"):
    """Rows of a file of the copy, mapped into memory for as long as they are used."""
    if start == stop:
        return np.empty((0, width), TYPES[name])
    offset = start * width * TYPES[name].itemsize
    return np.memmap(folder / f"{name}.bin", TYPES[name], mode, offset, (stop - start, width))


def load_clicks(
    name,
    data_dir,
    threshold=1,
    label=None,
    categorical=None,
    numeric=None,
    validate=True,
    valid_ratio=None,
    test_ratio=None,
    skip_bad_lines=False,
    download=True,
):
    """Load the click data set `name`: its encoded copy, made first where there is none.

    threshold: values that the training part has fewer times share an id with those that it has not. label, categorical,
    numeric: columns of a table with a header (None: see clicksources). validate: whether a validation part is wanted.
    valid_ratio, test_ratio: shares of all rows, the latest of which are tested (None: 0.1). skip_bad_lines: whether
    broken lines are left out. download: whether a data set may be fetched. Raises UserError for everything that is
    wrong with the name or the files.

    A copy is of the files (by name, size and time of change) and of these settings; it lies in `.cache` beside them.
    """
    name, folder, files, source = find_clicks(name, Path(data_dir), label, categorical, numeric, download)
    if isinstance(source, ClickLog):
        source.skip = skip_bad_lines
    shares = {"valid": (valid_ratio or 0.1) if validate else 0, "test": test_ratio or 0.1}
    copy = None
    if folder:
        stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        columns = [source.fields, *(str(getattr(source, column, "")) for column in ("label", "user"))]
        columns.append(sorted(getattr(source, "numeric", ())))
        settings = [ENCODED_FORMAT, name, stats, threshold, shares, skip_bad_lines, columns]
        key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
        copy = folder / ".cache" / f"{name}.{key[:16]}"
    if copy is None or not _writable(copy):
        copy = Path(tempfile.mkdtemp(prefix="clicks-")) / name
        atexit.register(shutil.rmtree, copy.parent, ignore_errors=True)
    about = _about(copy) or _encode(source, copy, name, threshold, shares)
    if about["skipped"]:
        log.warning("warning: %s: %d broken lines are left out, line %d first", files[0], *about["skipped"])
    parts = {part: tuple(span) for part, span in about.pop("parts").items()}
    return Clicks(name=name, folder=copy, parts=parts, **{**about, "skipped": (about["skipped"] or [0])[0]})


def _writable(copy):
    """Whether an encoded copy is there or can be made; else a line says what happens instead."""
    if _about(copy):
        return True
    try:
        copy.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=copy.parent):
            return True
    except OSError as error:
        reason = f"no encoded copy kept in {copy.parent} ({error.strerror})"
        log.warning("warning: %s: the next start makes one again", reason)
        return False


def _about(copy):
    """What `_encode` returned for a copy, or None where there is none, or one with files of a wrong size."""
    try:
        about = json.loads((copy / "about.json").read_text())
        rows = about["parts"]["test"][1]
        sizes = {"codes": rows * len(about["fields"]) * TYPES["codes"].itemsize, "labels": rows}
        if about["has_users"]:
            sizes["users"] = rows * TYPES["users"].itemsize
        whole = all((copy / f"{name}.bin").stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return about if whole else None


def _encode(source, copy, name, threshold, shares):
    """Write the folder `copy`, whole or not at all. Returns its about.json.

    First the rows are written down as they are read, with the place of each value among the distinct values of its
    block, and the hashes of these beside. Then the values in the training part are counted, and the places replaced
    by ids: a field's first for all that occur fewer than `threshold` times, then by falling count. So the text is
    read once, and memory holds the distinct values, but never the rows.
    """
    _remove_stale(copy.parent)
    folder = copy.with_name(f".{copy.name}.{os.getpid()}.tmp")
    folder.mkdir()
    try:
        blocks = _write_blocks(source, folder)
        rows = sum(count for count, _ in blocks)
        parts = _split(name, rows, shares)
        sorted_hashes, ids, sizes = _number(folder, blocks, parts["train"][1], threshold)
        _replace_codes(folder, blocks, sorted_hashes, ids, sizes)
        (folder / "values.bin").unlink()
        clicks = _check_labels(name, folder, parts)
        has_users = source.user is not None
        about = {"fields": source.fields, "sizes": sizes, "parts": parts, "has_users": has_users, "clicks": clicks}
        about |= {"skipped": [len(source.skipped), source.skipped[0]] if source.skipped else []}
        about["digest"] = _digest(folder, about)
        with open(folder / "about.json", "w") as file:
            json.dump(about, file)
        if _about(copy) is None:  # else another process was quicker, with the same
            shutil.rmtree(copy, ignore_errors=True)
            folder.rename(copy)
    except OSError as error:
        raise UserError(f"cannot write {copy} ({error.strerror}); make room there") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return about


def _remove_stale(folder):
    """Remove what kills left of unfinished copies."""
    for stale in folder.glob(".*.tmp"):
        process = stale.name.split(".")[-2]
        try:
            os.kill(int(process), 0)
        except (ValueError, ProcessLookupError):
            shutil.rmtree(stale, ignore_errors=True)
        except PermissionError:
            pass  # it lives


def _write_blocks(source, folder):
    """Write codes, labels, users and values.bin, the hashes. Returns of each block (rows, distinct values by field)."""
    blocks = []
    with ExitStack() as stack:
        files = {name: stack.enter_context(open(folder / f"{name}.bin", "wb")) for name in (*TYPES, "values")}
        for block in source.blocks():
            np.stack(block.codes, axis=1).astype(TYPES["codes"]).tofile(files["codes"])  # F of (m,) -> (m, F)
            block.labels.tofile(files["labels"])
            np.concatenate(block.values).astype("<u8").tofile(files["values"])
            if block.users is not None:
                block.users.astype(TYPES["users"]).tofile(files["users"])
            blocks.append((len(block.labels), [len(values) for values in block.values]))
    return blocks


def _split(name, rows, shares):
    """The parts of `rows` rows, the latest for the test. Raises UserError where one would be empty."""
    sizes = {part: round(rows * share) for part, share in shares.items()}
    train = rows - sum(sizes.values())
    for part, size in {"train": train, **sizes}.items():
        if size < 1 and shares.get(part) != 0:
            raise UserError(f"data set {name}: {rows} rows are too few; none is left for the {part} part")
    return {"train": (0, train), "valid": (train, train + sizes["valid"]), "test": (train + sizes["valid"], rows)}


def _each_block(folder, blocks, what, mode="r"):
    """Yield (first row, codes (m, F), hashes by field) of each block, with a progress bar."""
    row = value = 0
    for rows, distinct in tqdm(blocks, desc=what, unit="block", leave=False, disable=not on_terminal()):
        codes = _mapped(folder, "codes", row, row + rows, len(distinct), mode)
        hashes = np.fromfile(folder / "values.bin", "<u8", sum(distinct), offset=8 * value)
        yield row, codes, np.split(hashes, np.cumsum(distinct)[:-1])
        row, value = row + rows, value + sum(distinct)


def _number(folder, blocks, train_rows, threshold):
    """Number what occurs in the first `train_rows` rows `threshold` times or more.

    Returns of each field the hashes, sorted, and their ids, which begin with 1; and how many ids it has, with 0.
    """
    counts = [Counts() for _ in blocks[0][1]]
    for row, codes, hashes in _each_block(folder, blocks, "counting"):
        codes = codes[: max(0, train_rows - row)]
        for count, column, values in zip(counts, codes.T, hashes, strict=True):
            count.add(values, np.bincount(column, minlength=len(values)))
    sorted_hashes, ids = [], []
    for count in counts:
        hashes, number = count.total()
        hashes, number = hashes[number >= threshold], number[number >= threshold]
        order = np.argsort(-number, kind="stable")  # equal counts: by hash
        own = np.empty(len(hashes), TYPES["codes"])
        own[order] = np.arange(1, len(hashes) + 1)
        sorted_hashes.append(hashes)
        ids.append(own)
    return sorted_hashes, ids, [len(own) + 1 for own in ids]


class Counts:
    """How often each hash occurs, added up block by block in sorted arrays; memory as for the distinct hashes."""

    def __init__(self):
        self.hashes, self.numbers = np.empty(0, np.uint64), np.empty(0, np.int64)
        self.pending, self.waiting = [], 0

    def add(self, hashes, numbers):
        """Add numbers (n,) of hashes (n,)."""
        self.pending.append((hashes[numbers > 0], numbers[numbers > 0]))
        self.waiting += len(hashes)
        if self.waiting > max(len(self.hashes), 1 << 18):  # so that merging costs no more than a few sorts in all
            self.total()

    def total(self):
        """(distinct hashes, sorted; their numbers)"""
        hashes, numbers = zip((self.hashes, self.numbers), *self.pending, strict=True)
        self.hashes, place = np.unique(np.concatenate(hashes), return_inverse=True)
        self.numbers = np.bincount(place, np.concatenate(numbers), len(self.hashes)).astype(np.int64)
        self.pending, self.waiting = [], 0
        return self.hashes, self.numbers


def _replace_codes(folder, blocks, sorted_hashes, ids, sizes):
    """Replace the codes by ids, numbered through over the fields; 0 is a field's id of what has none."""
    offsets = np.cumsum([0, *sizes[:-1]])
    for _, codes, hashes in _each_block(folder, blocks, "encoding", "r+"):
        for field, (known, own, values) in enumerate(zip(sorted_hashes, ids, hashes, strict=True)):
            place = np.searchsorted(known, values).clip(max=max(len(known) - 1, 0))
            found = known[place] == values if len(known) else np.zeros(len(values), bool)
            table = np.zeros(len(values), TYPES["codes"])
            table[found] = own[place[found]]
            codes[:, field] = table[codes[:, field]] + offsets[field]


def _check_labels(name, folder, parts):
    """The share of clicks in the training part. Raises UserError for a part whose rows are all or none clicks."""
    shares = {}
    for part, (start, stop) in parts.items():
        if start < stop:
            shares[part] = float(_mapped(folder, "labels", start, stop, 1).mean())
            if shares[part] in (0, 1):
                raise UserError(
                    f"data set {name}: all labels of its {part} part are {shares[part]:.0f}; AUC needs both"
                )
    return shares["train"]


def _digest(folder, about):
    """sha256 over the files and what they mean."""
    digest = hashlib.sha256(json.dumps(about).encode())
    for name in TYPES:
        with open(folder / f"{name}.bin", "rb") as file:
            while piece := file.read(1 << 24):
                digest.update(piece)
    return digest.hexdigest()
