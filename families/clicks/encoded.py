"""Rows of an encoded copy on disk, compared with their checksums before they are first used.

An encoded copy is a folder of <name>.bin for the names of TYPES, and about.json. A disk may damage
it, and a wrong id would train a wrong model without a word. The checksums are CRC-32: they find
damage, not forgery.

Shapes: n rows, W ids of a row, m rows of a block.
"""

import json
import logging
import shutil
import zlib
from contextlib import suppress

import numpy as np

from cli.errors import UserError
from families.clicks.histories import columns_of

log = logging.getLogger("onebp")

# Files of an encoded copy, <name>.bin
TYPES = {"codes": np.dtype("<i4"), "labels": np.dtype("u1"), "users": np.dtype("<i8")}
ABOUT = "about.json"
BLOCK = 1 << 14  # rows that have a checksum together; those of a piece of batches.PIECE
SMALL = 1 << 26  # bytes of a copy that is checked as a whole when it is opened: under 0.1 s


class Damaged(Exception):
    """What is wrong with an encoded copy."""


def map_rows(folder, name, start, stop, width, mode="r"):
    """Map rows of a file of an encoded copy into memory.

    folder: the encoded copy
    name: of the file, a key of TYPES
    start, stop: the first row, and the row after the last
    width: numbers per row
    mode: "r" to read, "r+" to write too

    Returns an array (stop - start, width).
    """
    if start == stop:
        return np.empty((0, width), TYPES[name])
    offset = start * width * TYPES[name].itemsize
    return np.memmap(folder / f"{name}.bin", TYPES[name], mode, offset, (stop - start, width))


def write_metadata(folder, metadata):
    """Write about.json: the metadata of cache.encode, with checksums of them and of all blocks."""
    sums = {}
    for name, width in widths(metadata).items():
        blocks = spans(metadata["parts"]["test"][1])
        sums[name] = [zlib.crc32(map_rows(folder, name, *span, width)) for span in blocks]
    about = {"metadata": metadata, "checksums": sums}
    with open(folder / ABOUT, "w") as file:
        json.dump({"checksum": checksum_of(about), **about}, file)


def widths(metadata):
    """{file: numbers per row}"""
    columns = columns_of(metadata["fields"], metadata.get("histories", ()))
    width = {"codes": columns[-1].stop, "labels": 1, "users": 1}
    return {name: width[name] for name in TYPES if name != "users" or metadata["has_users"]}


def id_ranges(metadata):
    """The lowest and the highest id of each column of codes.bin (W,), see cache._replace_codes."""
    fields, histories = metadata["fields"], metadata.get("histories", {})
    owners = [*fields, *histories.values()]
    columns = columns_of(fields, histories)
    field = np.repeat(
        [fields.index(owner) for owner in owners], [own.stop - own.start for own in columns]
    )
    ends = np.cumsum(metadata["sizes"])
    highs = (ends - 1)[field]
    highs[len(fields) :] = ends[-1]
    return (ends - metadata["sizes"])[field], highs


def spans(rows):
    """[(first row, row after the last)] of the blocks of so many rows."""
    return [(start, min(start + BLOCK, rows)) for start in range(0, rows, BLOCK)]


def checksum_of(about):
    """The CRC-32 of what JSON can hold."""
    return zlib.crc32(json.dumps(about).encode())


class EncodedRows:
    """The rows of an encoded copy. Each block is checked when its first row is read.

    folder: the encoded copy
    metadata: see cache.encode
    """

    def __init__(self, folder):
        """Read about.json and look at the sizes of the files. Raises Damaged."""
        self.folder = folder
        try:
            content = json.loads((folder / ABOUT).read_text())
            about = {name: content[name] for name in ("metadata", "checksums")}
            if content["checksum"] != checksum_of(about):
                raise Damaged(f"{ABOUT} has changed")
            self.metadata, self.checksums = about["metadata"], about["checksums"]
            self.widths, self.rows = widths(self.metadata), self.metadata["parts"]["test"][1]
            lows, highs = id_ranges(self.metadata)
            self.spans, self.size = spans(self.rows), 0
            if any(len(self.checksums[name]) != len(self.spans) for name in self.widths):
                raise Damaged(f"{ABOUT} lacks checksums")
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise Damaged(f"{ABOUT}: {getattr(error, 'strerror', None) or error}") from None
        self.limits = {"codes": (lows, highs), "labels": (0, 1)}
        for name, width in self.widths.items():
            path = folder / f"{name}.bin"
            wanted = self.rows * width * TYPES[name].itemsize
            found = path.stat().st_size if path.is_file() else 0
            if found != wanted:
                raise Damaged(f"{path.name} has {found:,} bytes, not {wanted:,}")
            self.size += found
        self.unchecked = {name: set(range(len(self.spans))) for name in self.widths}

    def read(self, name, start, stop):
        """Copy rows of a file into memory: an array (stop - start, width).

        Raises UserError if a block of them is damaged.
        """
        self._check(name, range(start // BLOCK, -(-stop // BLOCK)))
        return np.array(map_rows(self.folder, name, start, stop, self.widths[name]))

    def take(self, name, numbers):
        """Copy single rows of a file into memory: an array (m, width).

        numbers (m,): in ascending order, to read the disk in order

        Raises UserError if a block of them is damaged.
        """
        self._check(name, np.unique(numbers // BLOCK).tolist())
        end = int(numbers[-1]) + 1 if len(numbers) else 0
        return map_rows(self.folder, name, 0, end, self.widths[name])[numbers]

    def _check(self, name, blocks):
        """See `check`. Raises UserError, and gives the copy up."""
        try:
            self.check(name, blocks)
        except Damaged as error:
            with suppress(OSError):  # without it, the next start makes the copy anew
                (self.folder / ABOUT).unlink()
            raise UserError(
                f"the encoded copy {self.folder} is damaged ({error}); run again, by --train_mode "
                "continue if there is a checkpoint: the copy is made anew"
            ) from None

    def check_all(self):
        """Check all blocks that were not read yet. Raises Damaged."""
        for name in self.widths:
            self.check(name, range(len(self.spans)))

    def check(self, name, blocks):
        """Compare blocks of a file with their checksums, unless that was done. Raises Damaged.

        blocks: their numbers
        """
        for number in self.unchecked[name].intersection(blocks):
            start, stop = self.spans[number]
            block = map_rows(self.folder, name, start, stop, self.widths[name])
            is_whole = zlib.crc32(block) == self.checksums[name][number]
            low, high = self.limits.get(name, (-np.inf, np.inf))
            if not (is_whole and (block.min(0) >= low).all() and (block.max(0) <= high).all()):
                raise Damaged(f"{name}.bin, rows {start:,} to {stop - 1:,}")
            self.unchecked[name].remove(number)


def open_copy(folder, verify):
    """The EncodedRows of a folder; None if there is no copy. A damaged one is removed, with a line.

    verify: whether to check all blocks at once, however large the copy is
    """
    if not folder.is_dir():
        return None
    try:
        copy = EncodedRows(folder)
        if verify or copy.size <= SMALL:
            copy.check_all()
    except Damaged as error:
        log.warning("warning: the encoded copy %s is damaged (%s); making it anew", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
        return None
    return copy
