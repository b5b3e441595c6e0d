"""The encoded copy of click data: the values of every field numbered, as integers that can be mapped into memory.

Shapes: n rows, F fields, m rows of a block.
"""

import hashlib
import json
import os
import shutil
from contextlib import ExitStack

import numpy as np
from tqdm import tqdm

from cli.errors import UserError
from utils import on_terminal

TYPES = {
    "codes": np.dtype("<i4"),
    "labels": np.dtype("u1"),
    "users": np.dtype("<i8"),
}  # of the files of a copy


def map_rows(folder, name, start, stop, width, mode="r"):
    """Rows of a file of the copy, mapped into memory for as long as they are used."""
    if start == stop:
        return np.empty((0, width), TYPES[name])
    offset = start * width * TYPES[name].itemsize
    return np.memmap(folder / f"{name}.bin", TYPES[name], mode, offset, (stop - start, width))


def read_metadata(copy):
    """What `encode` returned for a copy, or None where there is none, or one with files of a wrong size."""
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


def encode(source, copy, name, threshold, shares):
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
        about = {
            "fields": source.fields,
            "sizes": sizes,
            "parts": parts,
            "has_users": has_users,
            "clicks": clicks,
        }
        about |= {"skipped": [len(source.skipped), source.skipped[0]] if source.skipped else []}
        about["digest"] = _digest(folder, about)
        with open(folder / "about.json", "w") as file:
            json.dump(about, file)
        if read_metadata(copy) is None:  # else another process was quicker, with the same
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
        files = {
            name: stack.enter_context(open(folder / f"{name}.bin", "wb"))
            for name in (*TYPES, "values")
        }
        for block in source.blocks():
            np.stack(block.codes, axis=1).astype(TYPES["codes"]).tofile(
                files["codes"]
            )  # F of (m,) -> (m, F)
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
            raise UserError(
                f"data set {name}: {rows} rows are too few; none is left for the {part} part"
            )
    return {
        "train": (0, train),
        "valid": (train, train + sizes["valid"]),
        "test": (train + sizes["valid"], rows),
    }


def _each_block(folder, blocks, what, mode="r"):
    """Yield (first row, codes (m, F), hashes by field) of each block, with a progress bar."""
    row = value = 0
    for rows, distinct in tqdm(
        blocks, desc=what, unit="block", leave=False, disable=not on_terminal()
    ):
        codes = map_rows(folder, "codes", row, row + rows, len(distinct), mode)
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
        if self.waiting > max(
            len(self.hashes), 1 << 18
        ):  # so that merging costs no more than a few sorts in all
            self.total()

    def total(self):
        """(distinct hashes, sorted; their numbers)"""
        hashes, numbers = zip((self.hashes, self.numbers), *self.pending, strict=True)
        self.hashes, place = np.unique(np.concatenate(hashes), return_inverse=True)
        self.numbers = np.bincount(place, np.concatenate(numbers), len(self.hashes)).astype(
            np.int64
        )
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
            shares[part] = float(map_rows(folder, "labels", start, stop, 1).mean())
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
