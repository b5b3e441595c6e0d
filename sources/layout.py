"""Layout: how a file of data is laid out. Block: some rows of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from cli.registry import SEPARATORS

# The words for separators.
WORDS = {sign: word for word, sign in SEPARATORS.items()}
KINDS = {
    "table": "table",
    "json": "JSON lines",
    "parquet": "Parquet",
    "arrow": "Arrow",
    "lightgcn": "lines of a user and its items (LightGCN)",
    "counted": "lines of a number of items and these items, a user each",
}


@dataclass(frozen=True)
class Layout:
    """How a file is laid out.

    path: the file
    kind: a key of KINDS
    compression: see sources.files.Content
    names: of the columns; "1", "2", ... if the file has no header
    header: whether the first line holds the names
    separator: between two fields, a key of WORDS; runs of blanks are one separator
    quoted: whether a field may be enclosed in quotation marks
    multiline: whether it may then be several lines that could as well be rows
    newline: end of a line
    skip_bytes, skip_lines: what comes before the first row, the header say
    samples: the first rows, lists of fields
    lists: names of fields of JSON that hold lists, and so are no columns
    """

    path: Path
    kind: str
    compression: str = ""
    names: tuple = ()
    header: bool = False
    separator: str = ""
    quoted: bool = False
    multiline: bool = False
    newline: bytes = b"\n"
    skip_bytes: int = 0
    skip_lines: int = 0
    samples: tuple = ()
    lists: tuple = ()

    def describe(self):
        """In words: "gzip: table with a header, separated by commas"."""
        packed = f"{self.compression}: " if self.compression else ""
        if self.kind != "table":
            return packed + KINDS[self.kind]
        header = "a header" if self.header else "no header"
        marks = "quotation marks enclose fields" if self.quoted else "quotation marks are letters"
        if self.header and any(":" in name for name in self.names) and self.separator == "\t":
            return f"{packed}RecBole's table, {marks}"
        return f"{packed}table with {header}, separator {WORDS[self.separator]}, {marks}"

    @property
    def signature(self):
        """What files of one data set have in common, as a rule."""
        return self.kind, self.header, self.separator


@dataclass
class Broken:
    """Lines that are left out: how many, and the first of them.

    first: [(number from 1, what is wrong)], or []
    """

    count: int = 0
    first: list = field(default_factory=list)

    def add(self, lines):
        """Count lines, in their order. lines: list of (number, what is wrong)"""
        self.count += len(lines)
        self.first = (self.first + lines)[:1]


class Block(NamedTuple):
    """Consecutive rows of a file.

    columns: {position of a column: its values, a pyarrow array (m,)}
    line: function(row of the block, from 0) -> where it stands in the file, as "line 7"
    """

    columns: dict
    line: Callable
