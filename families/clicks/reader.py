"""Files of clicks, a row per impression -> blocks of rows whose values are hashed, in bounded memory.

Text separated by tabs or commas, plain or gzip, as large as it may be. What is done to a value is done once per
distinct value of a block. Shapes: m rows of a block, n distinct values of a column in it.
"""

import gzip
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
from tqdm import tqdm

from cli.errors import UserError
from utils import on_terminal

BLOCK_BYTES = 1 << 24  # of text, read at a time
HASH_KEY = "16 bytes: clicks"
LABELS = {b"0": 0, b"1": 1, b"0.0": 0, b"1.0": 1, b"false": 0, b"true": 1, b"False": 0, b"True": 1}
ADVICE = "mend it, or leave such lines out with --skip_bad_lines"


class Block(NamedTuple):
    """Rows that follow each other."""

    labels: np.ndarray  # (m,) uint8, 0 or 1
    codes: list  # of each field (m,) int32, where a row's value is in `values`
    values: list  # of each field (n,) uint64, hashes of distinct values
    users: np.ndarray | None  # (m,) int64, equal for rows of the same user


@dataclass
class ClickLog:
    """A file of clicks and what to take of it: names of columns for the label, the fields and perhaps the user.

    numeric: which fields are numbers, see `discretise`. header: whether the first line holds the names. skip: whether
    broken lines are left out; their numbers, from 1, are then in `skipped`. A blank line is nothing at all.
    """

    path: Path
    separator: str
    columns: list
    label: str
    fields: list
    numeric: set
    user: str | None = None
    header: bool = True
    skip: bool = False
    skipped: list = field(default_factory=list)

    def blocks(self):
        """Yield the Blocks. Raises UserError for a broken line, with its number, and for a damaged file."""
        self.skipped, self.ragged, rows = [], [], 0
        with open(self.path, "rb") as raw, progress_bar(self.path.stat().st_size) as bar:
            with self._explained():
                batches = iter(self._open(raw))
            while True:
                with self._explained():
                    batch = next(batches, None)
                if batch is None:
                    break
                yield from self._block(batch, rows)
                rows += len(batch)
                bar.update(raw.tell() - bar.n)
        self.skipped = sorted(self.skipped + self.ragged)

    def _open(self, raw):
        """pyarrow's reader of batches, as bytes. One thread: only then it knows the numbers of lines."""
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        taken = list(dict.fromkeys([self.label, *self.fields, *[self.user] * bool(self.user)]))
        return pa.csv.open_csv(
            pa.PythonFile(gzip.GzipFile(fileobj=raw) if packed else raw, mode="r"),
            read_options=pa.csv.ReadOptions(
                use_threads=False, block_size=BLOCK_BYTES, column_names=self.columns
            ),
            parse_options=pa.csv.ParseOptions(
                delimiter=self.separator,
                quote_char='"' if self.header else False,
                ignore_empty_lines=False,  # they count
                invalid_row_handler=self._ragged,
            ),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(taken, pa.dictionary(pa.int32(), pa.binary())),
                include_columns=taken,
                strings_can_be_null=False,
            ),
        )

    def _ragged(self, row):
        """What pyarrow shall do with a line of another number of fields."""
        self.ragged.append(row.number)
        if self.skip:
            return "skip"
        self.reason = f"{row.actual_columns} fields where there should be {row.expected_columns}"
        return "error"

    @contextmanager
    def _explained(self):
        try:
            yield
        except (pa.ArrowInvalid, EOFError, OSError, zlib.error) as error:
            if self.ragged and not self.skip:
                raise UserError(
                    f"{self.path}, line {self.ragged[-1]}: {self.reason}; {ADVICE}"
                ) from None
            reason = str(error).splitlines()[0]
            raise UserError(
                f"cannot read {self.path} ({reason}); is it cut off, or no table?"
            ) from None

    def _block(self, batch, before):
        """Yield the Block of a batch, if any row is left; before: rows of earlier batches."""
        columns = {name: dictionary(batch.column(name)) for name in batch.schema.names}
        marks, words = columns[self.label]
        labels = np.array([LABELS.get(word, 2) for word in words], np.uint8)[marks]
        kept = np.ones(len(batch), bool)
        for row in np.flatnonzero((words == b"")[marks]):
            kept[row] = any(
                others[codes[row]] for codes, others in columns.values()
            )  # else the line is blank
        if self.header and not before:
            kept[0] = False
        wrong = {self.label: (labels == 2, "neither 0 nor 1")}
        for name in self.numeric:
            codes, words = columns[name]
            bucket, bad = discretise(words)
            columns[name] = codes, bucket
            wrong[name] = bad[codes], "no number"
        for name, (rows, what) in wrong.items():
            rows = np.flatnonzero(rows & kept)
            if len(rows) and not self.skip:
                codes, words = dictionary(batch.column(name))
                word = words[codes[rows[0]]].decode(errors="replace")
                line = self._line(before + rows[0])
                raise UserError(
                    f"{self.path}, line {line}: {name} is {word[:40]!r}, {what}; {ADVICE}"
                )
            self.skipped.extend(self._line(before + row) for row in rows)
            kept[rows] = False
        if not kept.any():
            return
        hashes = {
            name: hash_values(columns[name][1]) for name in {*self.fields, self.user} - {None}
        }
        yield Block(
            labels[kept],
            [columns[name][0][kept] for name in self.fields],
            [hashes[name] for name in self.fields],
            hashes[self.user].view(np.int64)[columns[self.user][0][kept]] if self.user else None,
        )

    def _line(self, row):
        """Number of the line, from 1, of a row, from 0; those that pyarrow left out are lines, and no rows."""
        line = int(row) + 1
        for other in self.ragged:
            line += other <= line
        return line


def first_line(path):
    """The first line of a file, plain or gzip. Raises UserError where it is none of text."""
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            return (
                (gzip.GzipFile(fileobj=raw) if packed else raw)
                .readline(BLOCK_BYTES)
                .decode("utf-8-sig")
                .rstrip()
            )
    except (EOFError, OSError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} ({error}); is it cut off, or no text?") from None


def dictionary(column):
    """(codes (m,) int32, words (n,) object array of bytes) of a pyarrow column."""
    return column.indices.to_numpy(), column.dictionary.to_numpy(zero_copy_only=False).astype(
        object
    )


def discretise(words):
    """Numbers, as text -> (buckets, as text; whether it is no finite number), (n,) each. Missing ones stay missing.

    x > 2 becomes floor(log(x)^2), any other trunc(x). Source: the winners of Criteo's Kaggle challenge, 3 Idiots, 2014.
    """
    missing = words == b""
    text = pd.Series([word.decode(errors="replace") for word in words], dtype=object)
    x = pd.to_numeric(text.mask(missing, "0"), errors="coerce").to_numpy(np.float64, copy=True)
    bad = ~np.isfinite(x)
    x[bad] = 0
    bucket = np.where(x > 2, np.floor(np.log(np.maximum(x, 1)) ** 2), np.trunc(x))
    named = np.array([b"%d" % value for value in bucket], dtype=object)
    named[missing] = b""
    return named, bad


def hash_values(words):
    """(n,) uint64 of an object array of text or bytes; the same on every machine."""
    return pd.util.hash_array(words, hash_key=HASH_KEY, categorize=False)


def progress_bar(size):
    """Of the bytes of a file, on a terminal."""
    return tqdm(
        total=size,
        unit="B",
        unit_scale=True,
        desc="reading",
        leave=False,
        disable=not on_terminal(),
    )
