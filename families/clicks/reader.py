"""Read a file of clicks, one impression a row, as blocks of rows with hashed values.

The file is a table of text, plain or gzip, separated by tabs, commas or semicolons. Memory stays
bounded, however large the file is. A value is parsed and hashed once per block, not once per row.
Shapes: m rows of a block, n distinct values of a column in the block.
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

from cli.errors import UserError
from utils import progress_bar

BLOCK_BYTES = 1 << 24  # bytes of text read at a time
HASH_KEY = "16 bytes: clicks"
LABELS = {b"0": 0, b"1": 1, b"0.0": 0, b"1.0": 1, b"false": 0, b"true": 1, b"False": 0, b"True": 1}
NO_LABEL = 2  # stands for a text that is not in LABELS
ADVICE = "correct it, or leave such lines out with --skip_bad_lines"


class Block(NamedTuple):
    """Consecutive rows of click data."""

    labels: np.ndarray  # (m,) uint8, 0 or 1
    codes: list  # per field (m,) int32: index into `values` of each row's value
    values: list  # per field (n,) uint64: hashes of the distinct values
    users: np.ndarray | None  # (m,) int64, equal for rows of the same user


class ClickSource:
    """Click data that can be encoded: the names of its columns, and its rows by blocks.

    label: name of the label's column
    fields: names of the columns to predict from, in the order of a Block
    numeric: set of the fields that hold numbers, see `discretise`
    user: name of the column of users, or None
    skip: whether broken lines are left out
    skipped: numbers (from 1) of the lines left out, known after all blocks were read
    """

    label: str
    fields: list
    numeric: set
    user: str | None
    skip: bool
    skipped: list

    def blocks(self):
        """Yield all rows as Blocks."""
        raise NotImplementedError


@dataclass
class ClickLog(ClickSource):
    """The ClickSource of a file.

    path: the file
    separator: character between two columns
    columns: names of all columns of the file
    header: whether the first line holds the names of the columns

    A blank line is no row and is not broken.
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
        """Yield all rows as Blocks.

        Raises UserError for a broken line, with its number, and for a damaged file.
        """
        # ragged: numbers of the lines with too many or too few columns, which pyarrow leaves out.
        self.skipped, self.ragged, n_rows = [], [], 0
        size = self.path.stat().st_size
        with open(self.path, "rb") as raw, progress_bar("reading", size, "B") as bar:
            with self._explain_errors():
                batches = iter(self._open(raw))
            while True:
                with self._explain_errors():
                    batch = next(batches, None)
                if batch is None:
                    break
                yield from self._block(batch, n_rows)
                n_rows += len(batch)
                bar.update(raw.tell() - bar.n)
        self.skipped = sorted(self.skipped + self.ragged)

    def _open(self, raw):
        """Return pyarrow's reader of batches, whose columns are dictionaries of bytes.

        It uses one thread: pyarrow tells the numbers of lines only then.
        """
        names = list(dict.fromkeys([self.label, *self.fields, *[self.user] * bool(self.user)]))
        return pa.csv.open_csv(
            pa.PythonFile(decompressed(raw), mode="r"),
            read_options=pa.csv.ReadOptions(
                use_threads=False, block_size=BLOCK_BYTES, column_names=self.columns
            ),
            parse_options=pa.csv.ParseOptions(
                delimiter=self.separator,
                quote_char='"' if self.header else False,
                ignore_empty_lines=False,  # they count as lines
                invalid_row_handler=self._handle_ragged_line,
            ),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.dictionary(pa.int32(), pa.binary())),
                include_columns=names,
                strings_can_be_null=False,
            ),
        )

    def _handle_ragged_line(self, row):
        """Note a line with a wrong number of columns. Returns pyarrow's word for what to do."""
        self.ragged.append(row.number)
        if self.skip:
            return "skip"
        self.reason = f"{row.actual_columns} fields where there should be {row.expected_columns}"
        return "error"

    @contextmanager
    def _explain_errors(self):
        """Raise a UserError instead of an error of pyarrow or gzip in the block."""
        try:
            yield
        except (pa.ArrowInvalid, EOFError, OSError, zlib.error) as error:
            if self.ragged and not self.skip:
                line = self.ragged[-1]
                raise UserError(f"{self.path}, line {line}: {self.reason}; {ADVICE}") from None
            reason = str(error).splitlines()[0]
            raise UserError(
                f"cannot read {self.path} ({reason}); it may be cut off, or not a table"
            ) from None

    def _block(self, batch, rows_before):
        """Yield the Block of a batch, or nothing if no row of it is kept.

        rows_before: number of rows in the earlier batches
        """
        columns = {name: dictionary(batch.column(name)) for name in batch.schema.names}
        codes, texts = columns[self.label]
        labels = np.array([LABELS.get(text, NO_LABEL) for text in texts], np.uint8)[codes]

        # Leave out the header, and blank lines: rows whose columns are all empty.
        kept = np.ones(len(batch), bool)
        for row in np.flatnonzero((texts == b"")[codes]):
            kept[row] = any(
                column_texts[column_codes[row]] for column_codes, column_texts in columns.values()
            )
        if self.header and not rows_before:
            kept[0] = False

        # Replace numbers by their buckets; find texts that are not a label or not a number.
        broken = {self.label: (labels == NO_LABEL, "neither 0 nor 1")}
        for name in self.numeric:
            codes, texts = columns[name]
            buckets, is_bad = discretise(texts)
            columns[name] = codes, buckets
            broken[name] = is_bad[codes], "not a number"

        # Report the first broken row, or leave all broken rows out.
        for name, (is_broken, reason) in broken.items():
            rows = np.flatnonzero(is_broken & kept)
            if len(rows) and not self.skip:
                codes, texts = dictionary(batch.column(name))
                text = texts[codes[rows[0]]].decode(errors="replace")[:40]
                line = self._line(rows_before + rows[0])
                raise UserError(f"{self.path}, line {line}: {name} is {text!r}, {reason}; {ADVICE}")
            self.skipped.extend(self._line(rows_before + row) for row in rows)
            kept[rows] = False
        if not kept.any():
            return

        # Hash each distinct value once. The user's hash also identifies the user.
        names = {*self.fields, self.user} - {None}
        hashes = {name: hash_values(columns[name][1]) for name in names}
        users = None
        if self.user:
            users = hashes[self.user].view(np.int64)[columns[self.user][0][kept]]
        yield Block(
            labels[kept],
            [columns[name][0][kept] for name in self.fields],
            [hashes[name] for name in self.fields],
            users,
        )

    def _line(self, row):
        """1-based line number of a 0-based row, counting the lines that pyarrow left out."""
        line = int(row) + 1
        for ragged_line in self.ragged:
            line += ragged_line <= line
        return line


def decompressed(raw):
    """Return the binary file `raw`, or a reader that decompresses it if it is gzip."""
    is_gzip = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    return gzip.GzipFile(fileobj=raw) if is_gzip else raw


def first_line(path):
    """Return the first line of a file, plain or gzip. Raises UserError if it is not text."""
    try:
        with open(path, "rb") as raw:
            return decompressed(raw).readline(BLOCK_BYTES).decode("utf-8-sig").rstrip()
    except (EOFError, OSError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} ({error}); it may be cut off, or not text") from None


def dictionary(column):
    """Split a dictionary column of pyarrow into codes and texts.

    Returns codes (m,) int32, each an index into texts, and texts (n,), an object array of bytes.
    """
    texts = column.dictionary.to_numpy(zero_copy_only=False).astype(object)
    return column.indices.to_numpy(), texts


def discretise(texts):
    """Put numbers, given as text, into buckets: x > 2 into floor(log(x)^2), others into trunc(x).

    texts (n,): object array of bytes; an empty text is a missing value and stays empty.
    Returns the buckets as text (n,), and whether a text is not a finite number (n,).
    Source: the winners of Criteo's Kaggle challenge, 3 Idiots, 2014.
    """
    is_missing = texts == b""
    decoded = pd.Series([text.decode(errors="replace") for text in texts], dtype=object)
    numbers = pd.to_numeric(decoded.mask(is_missing, "0"), errors="coerce")
    x = numbers.to_numpy(np.float64, copy=True)
    is_bad = ~np.isfinite(x)
    x[is_bad] = 0
    buckets = np.where(x > 2, np.floor(np.log(np.maximum(x, 1)) ** 2), np.trunc(x))
    buckets = np.array([b"%d" % bucket for bucket in buckets], dtype=object)
    buckets[is_missing] = b""
    return buckets, is_bad


def hash_values(values):
    """Hash an object array (n,) of text or bytes: (n,) uint64, the same on every machine."""
    return pd.util.hash_array(values, hash_key=HASH_KEY, categorize=False)
