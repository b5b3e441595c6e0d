"""Recognise the format of a file by its content: path -> Layout, or a refusal with the readings.

Formats: separated tables with or without a header (MovieLens, RecBole, check-ins, Excel's CSV);
JSON lines; Parquet and Arrow; lines of a user and its items (LightGCN), or of a number of items and
these items (citeulike). Compressed files of these, see sources/files.py.
"""

import csv
import re
from dataclasses import replace
from itertools import compress

from cli.errors import UserError
from sources import records
from sources.columns import NAMES, NO_VALUE, ROLES, Wanted, is_value, kind_of, plain_name
from sources.files import HEAD, Content, head_of
from sources.integers import SAMPLED, Ambiguous, lines_of_integers
from sources.layout import WORDS, Layout
from sources.tables import check_no_nul, single_blanks

COLUMN_FLAGS = tuple(f"{role}_column" for role in ROLES)
# Flags that say nothing about files of a kind.
IDLE = {
    "json": ("separator",),
    "parquet": ("separator",),
    "arrow": ("separator",),
    "lightgcn": ("separator", *COLUMN_FLAGS),
    "counted": ("separator", *COLUMN_FLAGS),
}
SIGNS = ("::", "\t", ",", ";", "|", " ")  # separators that are recognised
LETTERS = ("\t", "::")  # separators of tables where quotation marks are letters
TITLES = 10  # lines at the beginning, of which the first may be titles


def recognise_all(paths, wanted):
    """[Layout] of files of one data set. What is ambiguous in one is read as the others are.

    paths: the files
    wanted (Wanted): what flags say
    """
    layouts, unclear = {}, {}
    for path in paths:
        try:
            layouts[path] = recognise(path, wanted)
        except Ambiguous as error:
            unclear[path] = error
    known = {layout.signature for layout in layouts.values()}
    if not known and len({error.readings[-1].names for error in unclear.values()}) > 1:
        # Tables of one data set have the same columns: as these differ, there are no such names.
        known = {error.readings[0].signature for error in unclear.values()}
    for path, error in unclear.items():
        fitting = [layout for layout in error.readings if layout.signature in known]
        if len(fitting) != 1:
            raise error
        layouts[path] = fitting[0]
    return [layouts[path] for path in paths]


def recognise(path, wanted):
    """The Layout of a file. Raises UserError, or Ambiguous if it can be read in two ways."""
    layout = _recognised(path, wanted)
    if idle := [flag for flag in wanted.flags() if flag in IDLE.get(layout.kind, ())]:
        raise UserError(
            f"--{idle[0]} does nothing for {path}: {layout.describe()}; leave the flag out"
        )
    return layout


def _recognised(path, wanted):
    """What `recognise` returns, whatever flags do nothing for it."""
    plain, text, is_whole = _beginning(path)
    if plain.kind != "table":
        return plain
    lines = _lines(text, plain.newline, is_whole)
    if not lines:
        raise UserError(f"{path} is empty")
    sampled = lines[:SAMPLED]
    objects = sum(re.match(r"\s*\{\s*(u?[\"']|\})", line) is not None for line in sampled)
    is_json = 2 * objects >= len(sampled) or sampled[0].strip() == "{"
    if wanted.format == "json" or (wanted.format is None and is_json):
        return records.json_layout(plain, text)
    if wanted.format is None and re.match(rb"\[\s*[\[{\]\"0-9-]|<[!?A-Za-z]", text):
        kind = "a JSON array" if text[:1] == b"[" else "markup"
        raise UserError(f"{path} is {kind}; write a JSON object a line, or a table")
    if wanted.format in ("lightgcn", "counted"):
        return replace(plain, kind=wanted.format)

    if wanted == Wanted():
        found = lines_of_integers(plain, lines)
        if found:
            return found
    return _table(plain, text, lines[: SAMPLED + 1], wanted)


def known_table(path, names, separator):
    """The Layout of a table of text without a header, whose columns are known.

    path: the file
    names: of its columns
    separator: between them

    Raises UserError if it is a file of another kind.
    """
    plain, _, _ = _beginning(path)
    if plain.kind != "table":
        expected = f"a table of {len(names)} columns, separator {WORDS[separator]}"
        raise UserError(f"{path} is {plain.describe()}; it should be {expected}")
    return replace(plain, names=tuple(names), separator=separator)


def _beginning(path):
    """How a file begins. Raises UserError if it is empty, or of a kind that holds no table.

    Returns (the Layout of a Parquet or Arrow file, or of any other as far as it is plain; a text's
    beginning without blank lines; whether this is all of it).
    """
    head = head_of(path)
    with Content(path) as content:
        compression = content.compression
    if head.startswith((b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")):
        return records.binary_layout(path, head, compression), b"", False

    # Text: skip the byte order mark and blank lines.
    text = head.removeprefix(b"\xef\xbb\xbf")
    newline = b"\r" if b"\r" in text and b"\n" not in text else b"\n"
    blank = re.match(rb"(?:[ \t]*[\r\n])*", text).end()
    skipped = len(head) - len(text) + blank
    text = text[blank:]
    plain = Layout(
        path,
        "table",
        compression,
        newline=newline,
        skip_bytes=skipped,
        skip_lines=head.count(newline, 0, skipped),
    )
    check_no_nul(plain, text, plain.skip_lines + 1)
    return plain, text, len(head) < HEAD


def _lines(text, newline, whole):
    """The lines of the beginning of a file that are not blank. whole: whether it is all of it"""
    if not whole:
        text = text[: text.rfind(newline) + 1] or text
    try:
        decoded = text.decode()
    except UnicodeDecodeError:
        decoded = text.decode("latin-1")
    lines = decoded.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [line for line in lines if line.strip()]


def _table(plain, text, lines, wanted):
    """The Layout of a separated table."""
    # Excel writes the separator into a line of its own.
    if hint := re.fullmatch(r'"?sep=([,;|\t])"?', lines[0]):
        plain, text = _below_first_line(plain, text)
        lines = lines[1:]
        wanted = replace(wanted, separator=wanted.separator or hint[1])
    if not lines:
        raise UserError(f"{plain.path} is empty")
    if all(re.fullmatch(r'[\s,;|:"]+', line) for line in lines):
        raise UserError(f"{plain.path} is empty: its rows hold separators only")
    _check_no_title(plain, lines[:TITLES], wanted)
    layout = _with_separator(plain, lines, wanted)
    first, *rows = _rows(layout, lines)
    rows = [row for row in rows if len(row) == len(first)]

    # The two readings of the first row.
    names = tuple(map(str, range(1, len(first) + 1)))
    bare = replace(layout, names=names, samples=(first, *rows))
    below, _ = _below_first_line(layout, text)
    names = tuple(name.strip() for name in first)
    headed = replace(below, names=names, header=True, samples=tuple(rows))
    is_header = _is_header(first, rows, wanted)
    if is_header is None:
        user, item = f"{first[0]!r}", f"{first[1]!r}" if len(first) > 1 else "?"
        remedy = f"name the columns of a header, as --user_column {user} --item_column {item}"
        if first[0].isdigit() or first[0][:1] in "#%":
            remedy = "remove a header or comment"
        if {"user", "item"} <= wanted.columns().keys():
            remedy += ", or put a header above an interaction"
        else:
            remedy += ", or number those of an interaction, as --user_column 1 --item_column 2"
        raise Ambiguous(
            f"{layout.path}: the first row {layout.separator.join(first)[:60]!r} may be a header "
            f"or an interaction: {remedy}",
            [bare, headed],
        )
    if is_header and layout.quoted and lines[0].count('"') % 2:
        raise UserError(
            f"{layout.path}, line {layout.skip_lines + 1}: a quotation mark in the header is open; "
            "correct it"
        )
    return headed if is_header else bare


def _check_no_title(plain, lines, wanted):
    """Raise UserError if the first line is a title: one text above a line of several names."""
    divided = {
        sign: _rows(replace(plain, separator=sign, quoted=sign not in LETTERS), lines)
        for sign in SIGNS
    }
    by_blanks = divided.pop(" ")
    if len(by_blanks[0]) > 1 and _is_even(by_blanks):
        return
    several = {
        sign: [len(list(filter(str.strip, row))) > 1 for row in rows]
        for sign, rows in divided.items()
    }
    if any(is_row[0] for is_row in several.values()):
        return
    for sign in [wanted.separator] if wanted.separator in divided else divided:
        below = list(compress(divided[sign], several[sign]))
        if len(below) < 2 or len({len(row) for row in below}) > 1:
            continue
        if not any(is_value(name.strip()) or not name.strip() for name in below[0]):
            raise UserError(
                f"{plain.path}, line {plain.skip_lines + 1}: {lines[0][:60]!r} is above the header "
                f"{sign.join(below[0])[:60]!r}; remove what is above it"
            )


def _below_first_line(layout, text):
    """(the Layout without its first line, the rest of its text)"""
    size = text.find(layout.newline) + 1 or len(text)
    if layout.newline == b"\n" and b"\r" in text[: max(size - 2, 0)]:
        raise UserError(
            f"{layout.path}, line {layout.skip_lines + 1}: holds a carriage return; end all lines "
            "alike"
        )
    below = replace(layout, skip_bytes=layout.skip_bytes + size, skip_lines=layout.skip_lines + 1)
    return below, text[size:]


def _with_separator(plain, lines, wanted):
    """The Layout with its separator, and whether quotation marks enclose fields."""

    def with_sign(sign):
        quoted = {"csv": True, "table": False}.get(wanted.format, sign not in LETTERS)
        return replace(plain, separator=sign, quoted=quoted, multiline=wanted.format == "csv")

    if wanted.separator is not None:
        return with_sign(wanted.separator)
    candidates = [with_sign(sign) for sign in SIGNS if sign in lines[0]]
    candidates = [layout for layout in candidates if len(_rows(layout, lines[:1])[0]) > 1]
    if not candidates and all(line.isdigit() for line in lines):
        raise UserError(
            f"{plain.path}: each line holds one number only: lines of a user and its items "
            "(--format lightgcn) have no item, and a table has two columns or more"
        )
    if not candidates:
        raise UserError(
            f"{plain.path}: line {plain.skip_lines + 1} ({lines[0][:60]!r}) has one column only; "
            "a table has two or more; name its --separator"
        )
    # A header that names a user and an item is sure.
    for layout in candidates:
        names = {plain_name(name) for name in _rows(layout, lines[:1])[0]}
        if all(names & {*NAMES[role][0], *NAMES[role][1]} for role in ("user", "item")):
            return layout
    # Else a separator divides every row alike. A blank counts only if nothing else does.
    even = [layout for layout in candidates if _is_even(_rows(layout, lines))]
    signs = [layout for layout in even if layout.separator != " "] or even or candidates
    widths = [len(_rows(layout, lines)[0]) for layout in signs]
    if signs[0].separator in LETTERS and widths[0] == max(widths):  # a text seldom has one of them
        signs = signs[:1]
    if len(signs) > 1 and even:
        counts = " or ".join(
            f"{WORDS[layout.separator]} ({width} columns)"
            for layout, width in zip(signs, widths, strict=True)
        )
        raise UserError(
            f"{plain.path}: the separator may be {counts}; name it by --separator, as "
            f"--separator {WORDS[signs[0].separator]}"
        )
    return signs[0]


def _is_even(rows):
    """Whether all rows but a tenth have as many fields as the first."""
    return sum(len(row) == len(rows[0]) for row in rows) >= 0.9 * len(rows)


def _rows(layout, lines):
    """Fields of lines. Fields that go on in the next line are cut: this is for a look only."""
    if layout.separator == " ":
        lines = [single_blanks(line.encode(), layout.quoted).decode() for line in lines]
    if layout.separator == "::":
        return [line.split("::") for line in lines]
    quoting = csv.QUOTE_MINIMAL if layout.quoted else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=layout.separator, quoting=quoting)
    return [row for row in reader if row]


def _is_header(first, rows, wanted):
    """Whether the first row holds the names of the columns; None if that is not sure.

    first: its fields
    rows: fields of other rows, as many
    wanted (Wanted)
    """
    if wanted.header:
        return True
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(first)
    spelled = {name.split(":")[0].strip() for name in first} | {name.strip() for name in first}
    named = wanted.columns().values()
    if any(name in spelled and not name.isdigit() for name in named):
        return True
    known = [
        {plain_name(name) for name in first} & {*NAMES[role][0], *NAMES[role][1]}
        for role in ("user", "item")
    ]
    if all(known):
        return True
    numbered = bool(named) and all(name.isdigit() for name in named)
    fields = [(name, kind_of(column), column) for name, column in zip(first, columns, strict=True)]
    fields = [field for field in fields if field[0].strip().lower() not in NO_VALUE]
    # pandas writes numbers for columns without names; but they may be an interaction, too.
    if first == [str(number) for number in range(len(first))] and (
        len(first) > 2 or all(kind == "text" for _, kind, _ in fields)
    ):
        return False if numbered else None
    # A number among numbers, or a value that occurs again in its column, is no name.
    again = any(name in column for name, _, column in fields)
    if again and first not in rows:
        return False
    if any(is_value(name) and (kind != "text" or not rows) for name, kind, _ in fields):
        return False
    # A text above numbers or times is one. So is a known name, if no flag says which columns are.
    if any(kind != "text" and not is_value(name) for name, kind, _ in fields):
        return True
    if any(known):
        return None if {"user", "item"} <= wanted.columns().keys() else True
    return False if again or numbered or all(is_value(name) for name, _, _ in fields) else None
