"""Read a separated table of text by blocks of rows: quotation marks, broken lines, line numbers.

A quotation mark is a letter; or it encloses a field (RFC 4180), where `Layout.quoted` says so. It
never joins rows that are rows by themselves. Shapes: m rows of a block.
"""

import csv
import io
import re
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.csv

from cli.errors import UserError
from sources.files import NUL, PIECE, pieces
from sources.layout import WORDS, Block, Layout

TEXT = pa.dictionary(pa.int32(), pa.binary())  # type of a column: few of its values are distinct
THREADS = 2
STAND_INS = (9, *range(28, 32), *range(1, 9))  # one is put for :: where a text has it not
LONGEST_FIELD = 8 * PIECE  # bytes that are searched for the end of a quoted field
csv.field_size_limit(2**31 - 1)  # the largest that every platform takes


def read_table(layout, types, broken=None):
    """Yield the rows of a table of text as Blocks.

    layout (Layout)
    types: {position of a column to read: TEXT, or pa.binary() if most of its values are distinct}
    broken (sources.layout.Broken): takes the broken lines, which are left out; None: raise

    Raises UserError for a line with too few or too many fields, for a quotation mark that is open
    or encloses several rows, and for a NUL character.
    """
    threads = ThreadPoolExecutor(THREADS)
    try:
        parsed = (threads.submit(_parse, layout, types, *text) for text in row_texts(layout))
        # Keep as many blocks under way as there are threads, and one to hand out.
        under_way = list(islice(parsed, THREADS + 1))
        while under_way:
            block, lines = under_way.pop(0).result()
            if lines and broken is None:
                raise UserError(lines[0][1])
            if lines:
                broken.add(lines)
            if len(next(iter(block.columns.values()))):
                yield block
            under_way.extend(islice(parsed, 1))
    finally:
        # Do not wait: whoever drops this generator may be a thread that starts, with a lock that
        # threads need to end.
        threads.shutdown(wait=False, cancel_futures=True)


def row_texts(layout):
    """Yield (text of whole rows, number of its first line from 1) of all that is below a header."""
    line = 1 + layout.skip_lines
    for text in _whole_rows(layout):
        yield text, line
        line += text.count(layout.newline)


def _whole_rows(layout):
    """Yield the content below the header by pieces that end where a row ends."""
    rest, skip = b"", layout.skip_bytes
    for piece in pieces(layout.path, PIECE):
        text = rest + piece[skip:]
        skip = max(0, skip - len(piece))
        end = text.rfind(layout.newline) + 1
        if layout.quoted and text.count(b'"', 0, end) % 2 and len(text) < LONGEST_FIELD:
            end = _last_row_end(text, layout.newline)
        if end:
            yield text[:end]
        rest = text[end:]
    if rest:
        yield rest


def _last_row_end(text, newline):
    """Where the last row ends that is surely whole.

    Within a quoted field a line may end, but no row: there the number of marks before is odd.
    """
    signs = np.frombuffer(text, np.uint8)
    marks, ends = np.flatnonzero(signs == ord('"')), np.flatnonzero(signs == ord(newline))
    outside = ends[np.searchsorted(marks, ends) % 2 == 0]
    return int(outside[-1]) + 1 if len(outside) else 0


def _parse(layout, types, text, first_line):
    """Parse whole rows. Returns (Block, [(number of a broken line, what is wrong with it)])."""
    check_no_nul(layout, text, first_line)
    quoted = layout.quoted and b'"' in text
    if quoted:
        _check_quotes(layout, text, first_line)
    plain, delimiter = _with_one_sign(text, layout)

    lines = []
    try:
        table = _arrow_table(layout, types, plain, delimiter, quoted)
    except pa.ArrowInvalid:  # some rows have too few or too many fields, or blanks only
        lines, whole = _broken_lines(layout, text, first_line)
        table = _arrow_table(layout, types, whole, ",", True)
    columns = {}
    for position, kind in types.items():
        chunks = table.column(str(position)).chunks
        columns[position] = chunks[0] if chunks else pa.array([], kind)

    def line_of(row):
        rows = (line for line, fields in _records(layout, text) if len(fields) == len(layout.names))
        return f"line {first_line + next(islice(rows, row, None))}"

    return Block(columns, line_of), lines


def check_no_nul(layout, text, first_line):
    """Raise UserError if there is a NUL character in text (bytes)."""
    if b"\0" in text:
        line = first_line + text.count(layout.newline, 0, text.index(b"\0"))
        raise UserError(f"{layout.path}, line {line}: {NUL}")


def _arrow_table(layout, types, text, delimiter, quoted):
    """The pyarrow Table of rows of text (bytes). Raises pa.ArrowInvalid if a row is broken."""
    return pa.csv.read_csv(
        pa.BufferReader(text),
        read_options=pa.csv.ReadOptions(
            use_threads=False,
            block_size=len(text) + 1,
            column_names=[str(number) for number in range(len(layout.names))],
        ),
        parse_options=pa.csv.ParseOptions(
            delimiter=delimiter,
            quote_char='"' if quoted else False,
            newlines_in_values=quoted,
        ),
        convert_options=pa.csv.ConvertOptions(
            column_types={str(position): kind for position, kind in types.items()},
            include_columns=[str(position) for position in types],
            strings_can_be_null=False,
        ),
    )


def _with_one_sign(text, layout):
    """(text, separator of one character), as pyarrow needs it."""
    if layout.separator == " ":
        return single_blanks(text, layout.quoted), " "
    if layout.separator == "::":
        sign = next((sign for sign in map(chr, STAND_INS) if sign.encode() not in text), None)
        if sign is None:
            raise UserError(f"{layout.path} is no text: it has all control characters")
        return text.replace(b"::", sign.encode()), sign
    return text, layout.separator


def single_blanks(text, quoted):
    """The text (bytes) with runs of blanks as one, without those at either end of a line.

    quoted: whether quotation marks may enclose fields, whose blanks stay
    """
    text = text.replace(b"\r\n", b"\n") if b" \r" in text else text
    if quoted and b'"' in text:
        fields = rb'(?:^|(?<=[ \n]))"(?:[^"]|"")*"(?=[ \r\n]|$)'
        blanks = re.compile(rb"(" + fields + rb")|^ +| +$| +(?= )", re.MULTILINE)
        return blanks.sub(lambda found: found[1] or b"", text)
    text = re.sub(rb" {2,}", b" ", text) if b"  " in text else text
    if b" \n" in text or b"\n " in text or text[:1] == b" " or text[-1:] == b" ":
        text = re.sub(rb"(?m)^ | $", b"", text)
    return text


def _records(layout, text):
    """Yield (lines before it, fields) of each row that is not blank: slow."""
    plain, delimiter = _with_one_sign(text, layout)
    lines = io.StringIO(plain.decode("latin-1"), newline="")
    quoting = csv.QUOTE_MINIMAL if layout.quoted else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting)
    before = 0
    for fields in reader:
        if len(fields) > 1 or "".join(fields).strip():
            yield before, fields
        before = reader.line_num


def _broken_lines(layout, text, first_line):
    """([(line, message)] of the rows with too few or too many fields, the others as CSV)"""
    lines, whole = [], io.StringIO(newline="")
    writer = csv.writer(whole, quoting=csv.QUOTE_ALL)
    width = len(layout.names)
    for before, fields in _records(layout, text):
        if len(fields) == width:
            writer.writerow(fields)
        else:
            line = first_line + before
            message = (
                f"{layout.path}, line {line}: {len(fields)} fields instead of {width} "
                f"(separator {WORDS[layout.separator]}); correct or remove it"
            )
            if '"' in "".join(fields) and not layout.quoted:
                message += ", or say --format csv if quotation marks enclose fields"
            elif any(field.lstrip().startswith("[") for field in fields):
                message += "; a list is no field: write a row for each of its items"
            lines.append((line, message))
    return lines, whole.getvalue().encode("latin-1") or b"\n"


def check_csv(path, text):
    """Raise UserError if a quotation mark of a CSV table is open or encloses several rows.

    path: of the file, for messages
    text: all of it, with a header
    """
    names = next(csv.reader([text.split("\n", 1)[0]]), [])
    layout = Layout(path, "table", names=tuple(names), separator=",", quoted=True)
    _check_quotes(layout, text.encode(), 1)


def _check_quotes(layout, text, first_line):
    """Raise UserError unless each field that begins with a mark ends with one, in its own row."""
    # The mark comes first in the patterns: so they are found fast. Then: what is not before it.
    sign = layout.separator[:1].encode()
    begin = re.compile(rb'"(?<![^' + sign + rb'\r\n]")')
    whole = re.compile(begin.pattern + rb'[^"]*(?:""[^"]*)*"(?![^' + sign + rb"\r\n])")
    rest = whole.sub(b"", text)
    in_a_line = layout.multiline or rest.count(layout.newline) == text.count(layout.newline)
    if in_a_line and not begin.search(rest):
        return

    # A mark at the beginning of a field that is not such a field is open, or goes on after its end.
    place = 0
    for match in whole.finditer(text):
        _check_open(layout, text, place, match.start(), first_line, begin)
        if b"\n" in match.group() and not layout.multiline:
            _check_not_rows(layout, text, match, first_line)
        place = match.end()
    _check_open(layout, text, place, len(text), first_line, begin)


def _check_open(layout, text, start, stop, first_line, begin):
    """Raise UserError if a field in text[start:stop] begins with a mark."""
    if text.find(b'"', start, stop) < 0:
        return
    found = begin.search(text, start, stop)
    if found:
        line = first_line + text.count(layout.newline, 0, found.start())
        raise UserError(
            f"{layout.path}, line {line}: a quotation mark begins a field and does not end it; "
            "correct it, or say --format table if quotation marks are letters"
        )


def _check_not_rows(layout, text, match, first_line):
    """Raise UserError if a quoted field of several lines could as well be several rows."""
    start = text.rfind(layout.newline, 0, match.start()) + 1
    stop = text.find(layout.newline, match.end())
    lines = text[start : stop if stop >= 0 else len(text)].split(layout.newline)
    sign = layout.separator.encode()
    like_rows = [line.count(sign) == len(layout.names) - 1 for line in lines]
    within = like_rows[1:-1]  # lines that are all in the field
    if 2 * sum(within) >= len(within) if within else all(like_rows):
        first = first_line + text.count(layout.newline, 0, start)
        raise UserError(
            f"{layout.path}, line {first}: a quotation mark opens here and closes in line "
            f"{first + len(lines) - 1}: one field of {len(lines)} lines (say --format csv), or "
            f"{len(lines)} rows (say --format table)"
        )
