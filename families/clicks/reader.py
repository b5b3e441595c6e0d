"""Read files of clicks, one impression a row, as blocks of rows with hashed values.

Memory stays bounded, however large the files are. A value is parsed and hashed once per block, not
once per row. Shapes: m rows of a block, n distinct values of a column in the block.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cli.errors import UserError
from families.clicks.encoding import Encodings
from families.clicks.histories import split_histories
from families.clicks.order import TimeOrder
from sources.layout import Broken
from sources.records import as_text, read_binary, read_json
from sources.tables import TEXT, read_table

HASH_KEY = "16 bytes: clicks"
LABELS = {b"0": 0, b"1": 1, b"0.0": 0, b"1.0": 1, b"false": 0, b"true": 1, b"no": 0, b"yes": 1}
NO_LABEL = 2  # stands for a text that is not in LABELS
# The texts that are missing values, as the empty text is.
SPELLED = ("NULL", "Null", "null", "NA", "NaN", "Nan", "nan", "NAN", r"\N")
MISSING = pa.array([text.encode() for text in SPELLED])
NO_USER = -4_008_389_996_932_618_193  # user of a row whose user is missing: hash of the empty text
ADVICE = "leave such lines out with --skip_bad_lines"


class Block(NamedTuple):
    """Consecutive rows of click data."""

    split: str  # "train", "valid" or "test"; "interactions" if the rows are still to be split
    labels: np.ndarray  # (m,) uint8, 0 or 1
    codes: list  # per field (m,) int32: index into `values` of each row's value; per history
    # (m, LENGTH), see histories.split_histories
    values: list  # per field and history (n,) uint64: hashes of the values, some perhaps twice
    users: np.ndarray | None  # (m,) int64, equal for rows of the same user; or NO_USER


class ClickSource:
    """Click data that can be encoded: the names of its columns, and its rows by blocks.

    splits: the names of the splits that the blocks have, in their order
    label: name of the label's column
    fields: names of the columns to predict from, in the order of a Block
    numeric: list of the fields that hold numbers, see `discretise`
    histories: {name of a column of histories: the field whose values it holds}, see histories.py;
        a Block has them after the fields
    user: name of the column of users, or None
    above: a number; labels are numbers, and greater ones are clicks. None: labels are LABELS
    skip: whether broken lines are left out
    skipped: {name of a file: [number of lines left out, number of the first, from 1]}, known after
        all blocks were read
    unordered: {name of a file: order.TimeOrder.found}, of files not in the order of time, likewise
    latin: encoding.Encodings.latin, likewise
    """

    splits: tuple
    label: str
    fields: list
    numeric: list
    histories: dict
    user: str | None
    above: float | None
    skip: bool
    skipped: dict
    unordered: dict
    latin: dict

    def blocks(self):
        """Yield all rows as Blocks."""
        raise NotImplementedError


@dataclass
class ClickLog(ClickSource):
    """The ClickSource of files.

    layouts: {split, or "interactions": the file's Layout}, in the order of the rows

    A row that is empty in all columns is no row and is not broken.
    """

    layouts: dict
    label: str
    fields: list
    numeric: list
    user: str | None = None
    above: float | None = None
    skip: bool = False
    histories: dict = field(default_factory=dict)
    skipped: dict = field(default_factory=dict)
    unordered: dict = field(default_factory=dict)
    latin: dict = field(default_factory=dict)

    @property
    def splits(self):
        return tuple(self.layouts)

    def blocks(self):
        """Yield all rows as Blocks. Raises UserError for a broken line, with its number."""
        self.skipped, self.unordered = {}, {}
        encodings = Encodings()
        for split, layout in self.layouts.items():
            yield from self._blocks_of(split, layout, encodings)
        self.latin = encodings.latin

    def _blocks_of(self, split, layout, encodings):
        """Yield the rows of a file as Blocks, and count the lines that are left out."""
        names = [self.label, *self.fields, *self.histories, *[self.user] * bool(self.user)]
        places = {name: layout.names.index(name) for name in dict.fromkeys(names)}
        # ragged: lines that could not be divided into columns.
        ragged, n_broken, first = Broken(), 0, None
        order = TimeOrder(layout)
        read = {*places.values(), order.place} - {None}
        for block in read_blocks(layout, sorted(read), ragged):
            self._refuse(ragged)
            order.add(block)
            for name, place in places.items():
                if block.columns[place].type == TEXT:
                    encodings.add(layout, block, name, block.columns[place])
            rows, broken = self._read(split, layout, places, block)
            if first is None and (ragged.count or len(broken)):
                first = min(
                    [number for number, _ in ragged.first]
                    + [int(block.line(int(row)).split()[-1]) for row in broken[:1]]
                )
            n_broken += len(broken)
            if len(rows.labels):
                yield rows
        self._refuse(ragged)
        if ragged.count or n_broken:
            first = first or ragged.first[0][0]
            self.skipped[layout.path.name] = [ragged.count + n_broken, first]
        if order.found:
            self.unordered[layout.path.name] = order.found

    def _refuse(self, ragged):
        """Raise UserError for the first broken line, unless such lines are left out."""
        if ragged.count and not self.skip:
            raise UserError(f"{ragged.first[0][1]}, or {ADVICE}")

    def _read(self, split, layout, places, block):
        """The Block of a block of a file, and its broken rows, sorted.

        split: of the file
        places: {name: position of the column}
        block: sources.layout.Block
        """
        columns = {name: distinct(layout, block, place) for name, place in places.items()}
        codes, texts = columns[self.label]
        labels = labels_of(texts, self.above)[codes]
        kept = ~blank_rows(layout, [block.columns[place] for place in places.values()])

        # Replace numbers by their buckets; find texts that are not a label or not a number.
        is_broken = {self.label: labels == NO_LABEL}
        for name in self.numeric:
            codes, texts = columns[name]
            buckets, is_bad = discretise(texts)
            columns[name] = codes, buckets
            is_broken[name] = is_bad[codes]
        for name in self.histories:
            codes, texts = columns[name]
            of_text, values = split_histories(texts)
            columns[name] = of_text[codes], values

        # Report the first broken row, or leave all broken rows out.
        whole = kept.copy()
        for name, broken in is_broken.items():
            rows = np.flatnonzero(broken & kept)
            if len(rows) and not self.skip:
                row = int(rows[0])
                value = block.columns[places[name]][row].as_py()
                text = value if isinstance(value, bytes) else str(value).encode()
                what = self._what_is_wrong(name, text, columns[name][1])
                raise UserError(f"{layout.path}, {block.line(row)}: {name} is {what}")
            kept[rows] = False

        # Hash each distinct value once. The user's hash also identifies the user.
        inputs = [*self.fields, *self.histories]
        names = {*inputs, self.user} - {None}
        hashes = {name: hash_values(columns[name][1]) for name in names}
        users = None
        if self.user:
            users = hashes[self.user].view(np.int64)[columns[self.user][0][kept]]
        read = Block(
            split,
            labels[kept],
            [columns[name][0][kept] for name in inputs],
            [hashes[name] for name in inputs],
            users,
        )
        return read, np.flatnonzero(whole & ~kept)

    def _what_is_wrong(self, name, text, texts):
        """In words: "'x', not a number; correct it, or ...".

        name: of a column of numbers, or of the label's
        text: the broken value
        texts: the distinct values around it
        """
        spelled = repr(text.decode(errors="replace")[:40])
        if name in self.numeric or self.above is not None:
            return f"{spelled}, not a number; correct it, or {ADVICE}"
        if np.isnan(numbers_of([text])[0]):
            return f"{spelled}, neither 0 nor 1, true nor false; correct it, or {ADVICE}"
        # Numbers may be labels: -1 and 1, or ratings.
        above = "0" if set(numbers_of(texts)) <= {-1, 1} else "X"
        return (
            f"{spelled}, neither 0 nor 1; if numbers above {above} are clicks, say "
            f"--label_above {above}; else correct it, or {ADVICE}"
        )


def read_blocks(layout, positions, broken):
    """Yield the rows of a file as blocks, see sources.layout.Block.

    layout (Layout)
    positions: of the columns to read
    broken (sources.layout.Broken): takes the lines that are left out
    """
    if layout.kind == "table":
        return read_table(layout, dict.fromkeys(positions, TEXT), broken)
    if layout.kind == "json":
        return read_json(layout, positions, broken, short_floats=True)
    return read_binary(layout, positions)


def distinct(layout, block, place):
    """The codes (m,) int32 of a column, each an index into texts, and the texts (n,).

    layout (Layout)
    block: sources.layout.Block
    place: the column's position

    The texts are an object array of bytes; a missing value is the empty text. A number that is not
    text is spelled as short as it can be: 1 for 1.0.
    """
    column = block.columns[place]
    if column.type != TEXT:
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        try:
            column = as_text(layout, place, column.cast(pa.string()))
        except pa.ArrowNotImplementedError:
            raise UserError(
                f"{layout.path}: column {layout.names[place]!r} holds {column.type}, not a value "
                "a row; name the columns to take by --categorical and --numeric"
            ) from None
    texts = column.dictionary.to_numpy(zero_copy_only=False).astype(object)
    texts[pc.is_in(column.dictionary, MISSING).to_numpy(zero_copy_only=False)] = b""
    return column.indices.to_numpy(), texts


def blank_rows(layout, columns):
    """Whether a row of a table (m,) is empty in all columns, as `,,,` below a table from Excel."""
    blank = np.full(len(columns[0]), layout.kind == "table")
    for column in columns:
        if not blank.any():
            break
        empty = pc.index(column.dictionary, b"").as_py()  # -1 if no row is empty here
        blank &= column.indices.to_numpy() == empty
    return blank


def labels_of(texts, above=None):
    """The labels (n,) uint8 of texts (n,): 0, 1 or NO_LABEL. above: see ClickSource"""
    if above is None:
        return np.array([LABELS.get(text.lower(), NO_LABEL) for text in texts], np.uint8)
    numbers = numbers_of(texts)
    return np.where(np.isnan(numbers), NO_LABEL, numbers > above).astype(np.uint8)


def numbers_of(texts):
    """The finite numbers (n,) float64 that texts (n,) of bytes spell, else nan."""
    try:  # whole numbers, as most are: five times as fast
        whole = pa.array(texts, pa.binary()).cast(pa.string())
        if not pc.any(pc.match_substring(whole, "x", ignore_case=True)).as_py():  # hexadecimal
            return whole.cast(pa.int64()).to_numpy().astype(np.float64)
    except pa.ArrowInvalid:
        pass
    spelled = pd.Series([text.decode(errors="replace") for text in texts], dtype=object)
    numbers = pd.to_numeric(spelled, errors="coerce")
    numbers = numbers.to_numpy(np.float64, copy=True)
    numbers[np.isinf(numbers)] = np.nan
    return numbers


def discretise(texts):
    """Put numbers, given as text, into buckets: x > 2 into floor(log(x)^2), others into trunc(x).

    texts (n,): object array of bytes; an empty text is a missing value and stays empty.
    Returns the buckets as text (n,), and whether a text is not a finite number (n,).
    Source: the winners of Criteo's Kaggle challenge, 3 Idiots, 2014.
    """
    is_missing = texts == b""
    x = numbers_of(np.where(is_missing, b"0", texts))
    is_bad = np.isnan(x)
    x[is_bad] = 0
    buckets = np.where(x > 2, np.floor(np.log(np.maximum(x, 1)) ** 2), np.trunc(x))
    different, position = np.unique(buckets, return_inverse=True)
    buckets = np.array([b"%d" % bucket for bucket in different], dtype=object)[position]
    buckets[is_missing] = b""
    return buckets, is_bad


def hash_values(values):
    """Hash an object array (n,) of text or bytes: (n,) uint64, the same on every machine."""
    return pd.util.hash_array(values, hash_key=HASH_KEY, categorize=False)
