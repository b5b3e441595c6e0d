"""Read files of interactions: path -> users, items, ratings and times, in the order of the file.

What was recognised is said for every file. Shapes: n interactions of a file.
"""

import logging
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from cli.errors import UserError
from engine.memory import free_memory, in_words
from sources.columns import NAMES, Unclear, Wanted, choose_columns, list_names, say_columns
from sources.files import PIECE
from sources.formats import recognise_all
from sources.lines import ITEM, USER, read_lines
from sources.records import read_binary, read_json
from sources.tables import TEXT, read_table
from sources.values import MISSING, in_microseconds, ratings_of, times_of, units_of

log = logging.getLogger("onebp")

WANTED = Wanted()
BYTES_OF_ROW = 16  # that reading keeps at least: 30 to 60
# Names of columns as files spell them, in lower case.
SPELLINGS = {
    role: pa.array(
        {
            (re.sub("(?<=.)id$", f"{between}id", name) + kind).encode()
            for name in (*NAMES[role][0], *NAMES[role][1])
            for between in ("", "_", "-", " ")
            for kind in ("", ":token")
        },
        pa.binary(),
    )
    for role in ("user", "item")
}


@dataclass
class Rows:
    """The interactions of a file, in its order.

    users, items: lists of pyarrow arrays of type TEXT, whose lengths add up to n
    ratings (n,): float32, NaN where the file has no number; None: the file has no such column
    times (n,): int64, MISSING where the file has none; None: no such column
    unit: of the times, see sources.values.times_of
    source: the file, for messages
    about: what was recognised
    gaps: {"rating" or "time": why the column is absent, or where its first value is missing; or
        "unit": where times of two units are}; to be put after the file's name
    """

    users: list = field(default_factory=list)
    items: list = field(default_factory=list)
    ratings: np.ndarray | None = None
    times: np.ndarray | None = None
    unit: str = ""
    source: str = ""
    about: str = ""
    gaps: dict = field(default_factory=dict)

    def __len__(self):
        return sum(map(len, self.users))


def read_files(paths, wanted=WANTED):
    """[Rows] of files of one data set. Raises UserError, with the line, for what cannot be read.

    wanted (Wanted): how flags want the files to be read
    """
    return [_read_file(layout, wanted) for layout in recognise_all(paths, wanted)]


def read_more(path, wanted):
    """The Rows of a file that goes with a trained model, read by the flags of its data set.

    Raises UserError as `read_files` does.
    """
    try:
        return read_files([Path(path)], wanted)[0]
    except UserError as error:
        if any(flag in str(error) for flag in ("_column", "--separator", "--format")):
            how = "it is read by the flags of the training: write it in the form of that file"
            raise UserError(f"{error} ({how})") from None
        raise


def _read_file(layout, wanted):
    """The Rows of a file."""
    if layout.kind in ("lightgcn", "counted"):
        columns, places = {}, {"user": USER, "item": ITEM}
        blocks = read_lines(layout)
    else:
        columns = choose_columns(layout, wanted)
        places = {role: place for role, place in columns.items() if isinstance(place, int)}
        blocks = _blocks(layout, places)
    rows = Rows(source=str(layout.path))
    ratings, times, first_gap, first_of_unit = [], [], {}, {}
    for block in blocks:
        if not rows.users:
            check_room(layout, block)
        users, items = (_ids(layout, block, places[role], role) for role in ("user", "item"))
        _check_no_header(layout, block, places)
        rows.users.append(users)
        rows.items.append(items)
        if "rating" in places:
            column = block.columns[places["rating"]]
            ratings.append(ratings_of(column, decimal_comma=layout.separator != ","))
            _note_gap(first_gap, "rating", np.isnan(ratings[-1]), column, block)
        if "time" in places:
            column = block.columns[places["time"]]
            times.append(times_of(column))
            _note_gap(first_gap, "time", times[-1][0] == MISSING, column, block)
            for unit, row in (units_of(times[-1][0]) if times[-1][1] == "number" else {}).items():
                first_of_unit.setdefault(unit, f"{times[-1][0][row]} ({block.line(row)})")
    if "rating" in places:
        rows.ratings = np.concatenate([*ratings, np.empty(0, np.float32)])
    if "time" in places:
        rows.times, rows.unit = _one_unit(times)
    _say_gaps(rows, layout, columns, first_gap)
    if len(first_of_unit) > 1:
        rows.gaps["unit"] = (
            f" has times in {' and '.join(first_of_unit)}: {' and '.join(first_of_unit.values())}; "
            "write all in one unit"
        )
    said = say_columns(layout, columns)
    rows.about = f"{layout.describe()}{': ' if said else ''}{said}"
    return rows


def check_room(layout, first):
    """Raise UserError if the rows of a file of text are more than the memory can hold.

    Its first block tells how many there are, about.

    layout (Layout), first (Block)
    """
    size, rows = layout.path.stat().st_size, len(next(iter(first.columns.values())))
    if layout.kind in ("parquet", "arrow") or size <= PIECE:
        return
    rows = rows * size // PIECE
    free, words = free_memory(torch.device("cpu"))
    if rows * BYTES_OF_ROW > free:
        raise UserError(
            f"{layout.path}: its {rows:,} rows, about, need at least "
            f"{in_words(rows * BYTES_OF_ROW)}, and {words}; leave rows out, or write arrays, "
            "which stay on disk (datasets/README.md)"
        )


def _blocks(layout, places):
    """The Blocks of a file with columns. places: {role: position of its column}"""
    positions = sorted(set(places.values()))
    if layout.kind == "table":
        types = dict.fromkeys(positions, TEXT)
        if "time" in places:  # most times occur once
            types[places["time"]] = pa.binary()
        return read_table(layout, types)
    return (read_json if layout.kind == "json" else read_binary)(layout, positions)


def _ids(layout, block, place, role):
    """The column of users or items. Raises UserError if an id is missing, or no text."""
    column = block.columns[place]
    if column.type != TEXT:
        raise UserError(
            f"{layout.path}: column {layout.names[place]!r} of the {role}s holds {column.type}; "
            "ids are whole numbers or text; convert it"
        )
    missing = pc.index(column.dictionary, b"").as_py()
    if missing >= 0:
        row = int(np.argmax(column.indices.to_numpy() == missing))
        what = f"lacks the {role}; correct or remove it"
        if not any(column[row].as_py() for column in block.columns.values()):
            what = "is empty, or has separators only; remove such lines"
        raise UserError(f"{layout.path}, {block.line(row)}: {what}")
    return column


def _check_no_header(layout, block, places):
    """Raise UserError for a row that is a header, as in files that were joined or sorted."""
    if layout.kind != "table":
        return
    named = []
    for role in ("user", "item"):
        column = block.columns[places[role]]
        names = SPELLINGS[role]
        if layout.header:
            names = pa.array([layout.names[places[role]].encode()])
        else:
            column = pa.DictionaryArray.from_arrays(column.indices, _lower(column.dictionary))
        is_name = pc.is_in(column.dictionary, value_set=names)
        if not pc.any(is_name).as_py():
            return
        named.append(is_name.take(column.indices).to_numpy(zero_copy_only=False))
    both = named[0] & named[1]
    if both.any():
        row = int(np.argmax(both))
        raise UserError(f"{layout.path}, {block.line(row)}: is a header, not a row; remove it")


def _lower(values):
    """Texts of bytes (d,) in lower case."""
    anything = pc.CastOptions(pa.string(), allow_invalid_utf8=True)
    return pc.ascii_lower(values.cast(options=anything)).cast(pa.binary())


def _note_gap(first_gap, role, is_missing, column, block):
    """Count missing values, and keep the place and the text of the first."""
    if is_missing.any():
        row = int(np.argmax(is_missing))
        count, *first = first_gap.get(role, (0, block.line(row), column[row].as_py()))
        first_gap[role] = (count + int(is_missing.sum()), *first)


def _say_gaps(rows, layout, columns, first_gap):
    """Note in rows.gaps why there is no rating or time."""
    forms = {
        "time": "write a number, or 2011-11-21, or 2011-11-21 18:30:00",
        "rating": "correct it",
    }
    for role in ("rating", "time"):
        if isinstance(columns.get(role), Unclear):
            rows.gaps[role] = columns[role].message
        elif columns.get(role) is None:
            listed = list_names(layout.names)
            advice = f" among its columns {listed}; name one by --{role}_column" if columns else ""
            rows.gaps[role] = f" has no {role}s{advice}"
        elif role in first_gap:
            count, place, value = first_gap[role]
            text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            more = f" (and {count - 1:,} more)" if count > 1 else ""
            rows.gaps[role] = f", {place}{more}: {text!r} is no {role}; {forms[role]}"


def _one_unit(times):
    """(times (n,), unit) of the times of all blocks. times: what times_of returned of each"""
    units = {unit for _, unit in times} - {""}
    if len(units) > 1:  # seconds in some blocks, dates or fractions in others
        times = [(in_microseconds(*part), "us") for part in times]
        units = {"us"}
    return np.concatenate([np.empty(0, np.int64), *(part for part, _ in times)]), max(
        units, default=""
    )
