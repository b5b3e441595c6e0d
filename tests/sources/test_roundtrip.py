"""What is written in any format is read back: the same pairs in order, ratings and times."""

from functools import partial
from unittest.mock import patch

import pytest
from data_tools import (
    COMPRESSIONS,
    arrow,
    json_lines,
    pairs_of,
    parquet,
    plain_table,
    ratings_in,
    table,
    times_in,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cli.errors import UserError
from sources.columns import Wanted
from sources.readers import read_files

EXAMPLES = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
NAMES = ["user_id", "item_id", "rating", "timestamp", "review"]

# Ids. Usual ones are read without a flag; any text is, with flags that say what the file is.
INTEGERS = st.integers(0, 2**64 - 1).map(str) | st.integers(0, 30).map(str)
USUAL = st.from_regex(r"[A-Za-z0-9_\-]{1,12}", fullmatch=True) | INTEGERS
# fmt: off
SPECIAL = st.sampled_from([
    "NA", "nan", "null", "-1", "007", "7", "1e5", "0x1", "1.5", "18446744073709551616", "true",
    "2020-01-01", "é", "日本", "\U0001f600", "'", '"', '""', 'a"b', '"a"', "#1", "%", "\\", "\\N",
    " a", "a ", "a  b", ",", ";", "a,b", "a|b", "a::b", ":", "x" * 300, "sep=;", "user", "{", "[",
])
# fmt: on
LETTERS = st.characters(exclude_categories=("Cs", "Cc"))


def texts(without=""):
    """Ids of any letters but some."""
    signs = LETTERS.filter(lambda sign: sign not in without)
    some = st.text(signs, min_size=1, max_size=8) | SPECIAL | INTEGERS | USUAL
    return some.filter(lambda text: not set(text) & set(without) and text.strip() != "")


RATINGS = st.integers(-8, 40).map(lambda number: number / 4)
TIMES = st.integers(800_000_000, 2_000_000_000)
TEXTS = st.text(LETTERS, max_size=12) | st.sampled_from(["", 'say "no"', "a,b;c", "tab\there"])
LINES = TEXTS | st.sampled_from(["two\nlines", 'a\n"b"\r\nc', "\n"])


def rows_of(ids, texts_of=TEXTS, users=None):
    """Lists of rows: user, item, rating, time, review."""
    return st.lists(st.tuples(users or ids, ids, RATINGS, TIMES, texts_of), min_size=1, max_size=9)


def check(path, content, rows, columns=4, piece=1 << 23, **wanted):
    """Write a file, read it, and compare. columns: how many of a row's are in the file"""
    path.write_bytes(content)
    with patch("sources.tables.PIECE", piece), patch("sources.tables.LONGEST_FIELD", 1 << 20):
        (found,) = read_files([path], Wanted(**wanted))
    assert pairs_of(found) == [row[:2] for row in rows]
    assert ratings_in(found) == ([row[2] for row in rows] if columns > 2 else None)
    assert times_in(found) == ([row[3] for row in rows] if columns > 3 else None)
    assert found.about


PIECES = st.sampled_from([1 << 23, 64, 17])
COMPRESS = st.sampled_from(list(COMPRESSIONS.values()))
SEPARATED = {",": "comma", ";": "semicolon", "|": "bar", "\t": "tab", "::": "colons", " ": "blank"}


@pytest.mark.parametrize("separator", SEPARATED)
@pytest.mark.parametrize("header", [True, False], ids=["header", "bare"])
def test_usual_tables_need_no_flag(tmp_path, separator, header):
    @EXAMPLES
    @given(
        rows_of(USUAL),
        st.sampled_from(["\n", "\r\n"]),
        st.booleans(),
        st.integers(2, 4),
        COMPRESS,
        PIECES,
    )
    def holds(rows, newline, mark, columns, compress, piece):
        if not header:
            # The first row has to look like one of interactions: here by its numbers.
            columns = max(columns, 3)
        cut = [row[:columns] for row in rows]
        content = plain_table(NAMES[:columns] if header else None, cut, separator, newline)
        content = compress((b"\xef\xbb\xbf" if mark else b"") + content)
        check(tmp_path / "file", content, rows, columns, piece)

    holds()


QUOTED = {sign: texts() for sign in (",", ";", "|")}


@pytest.mark.parametrize("separator", QUOTED)
@pytest.mark.parametrize("header", [True, False], ids=["header", "bare"])
def test_any_text_in_quoted_tables(tmp_path, separator, header):
    @EXAMPLES
    @given(rows_of(texts(), LINES), st.sampled_from(["\n", "\r\n"]), st.integers(0, 1), PIECES)
    def holds(rows, newline, quoting, piece):
        content = table(NAMES if header else None, rows, separator, newline, quoting)
        flags = {"format": "csv", "separator": separator}
        if not header:
            flags |= {"user": "1", "item": "2", "rating": "3", "time": "4"}
        check(tmp_path / "file", content, rows, piece=piece, **flags)
        # Without flags: read right, or refused with the flag.
        right_or_refused(partial(check, tmp_path / "file", content, rows))

    holds()


def right_or_refused(reading):
    """Check that a reading succeeds or ends in one line that names a flag."""
    try:
        reading()
    except UserError as error:
        message = str(error)
        assert "\n" not in message
        assert "--" in message, message


@pytest.mark.parametrize("separator", ["\t", "::", " "])
@pytest.mark.parametrize("header", [True, False], ids=["header", "bare"])
def test_any_text_in_plain_tables(tmp_path, separator, header):
    @EXAMPLES
    @given(rows_of(texts(separator[0])), st.sampled_from(["\n", "\r\n"]), PIECES)
    def holds(rows, newline, piece):
        rows = [(*row[:4], "review") for row in rows]
        content = plain_table(NAMES if header else None, rows, separator, newline)
        flags = {"format": "table", "separator": separator}
        if not header:
            flags |= {"user": "1", "item": "2", "rating": "3", "time": "4"}
        check(tmp_path / "file", content, rows, piece=piece, **flags)
        if separator != " " or b'"' not in content:  # between blanks, they may enclose fields
            right_or_refused(partial(check, tmp_path / "file", content, rows))

    holds()


def test_recbole(tmp_path):
    @EXAMPLES
    @given(rows_of(texts("\t")), COMPRESS, PIECES)
    def holds(rows, compress, piece):
        names = ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
        content = plain_table(names, [row[:4] for row in rows])
        check(tmp_path / "file.inter", compress(content), rows, piece=piece)

    holds()


def test_excel(tmp_path):
    @EXAMPLES
    @given(rows_of(texts(), LINES), st.sampled_from([",", ";", "|", "\t"]), st.booleans())
    def holds(rows, separator, mark):
        content = f"sep={separator}\r\n".encode() + table(NAMES, rows, separator, "\r\n")
        content = (b"\xef\xbb\xbf" if mark else b"") + content
        check(tmp_path / "file", content, rows, format="csv")

    holds()


NESTED = ["user.id", "item.id", "rating", "timestamp", "review.text"]


@pytest.mark.parametrize("names", [NAMES, NESTED], ids=["plain", "nested"])
def test_json_lines(tmp_path, names):
    @EXAMPLES
    @given(rows_of(texts(), LINES), COMPRESS, PIECES)
    def holds(rows, compress, piece):
        content = compress(json_lines(names, rows))
        check(tmp_path / "file", content, rows, piece=piece, format="json")
        check(tmp_path / "file", content, rows, piece=piece)

    holds()


def as_numbers(rows):
    """The rows with whole numbers for ids."""
    return [(int(user), int(item), *rest) for user, item, *rest in rows]


SIGNED = st.integers(-(2**63), 2**63 - 1).map(str)


@pytest.mark.parametrize(
    "write",
    [json_lines, parquet, arrow, partial(arrow, stream=True)],
    ids=["json", "parquet", "arrow", "stream"],
)
def test_ids_that_are_numbers(tmp_path, write):
    @EXAMPLES
    @given(rows_of(SIGNED))
    def holds(rows):
        check(tmp_path / "file", write(NAMES, as_numbers(rows)), rows)

    holds()


@pytest.mark.parametrize("names", [NAMES, NESTED], ids=["plain", "nested"])
@pytest.mark.parametrize(
    "write", [parquet, arrow, partial(arrow, stream=True)], ids=["parquet", "arrow", "stream"]
)
def test_binary_tables(tmp_path, write, names):
    @EXAMPLES
    @given(rows_of(texts(), LINES), COMPRESS)
    def holds(rows, compress):
        made = rows
        check(tmp_path / "file", compress(write(names, made)), rows, format="table")

    holds()


DEGREES = st.dictionaries(INTEGERS, st.lists(INTEGERS, max_size=6), min_size=1, max_size=6)


def test_lightgcn(tmp_path):
    @EXAMPLES
    @given(DEGREES, st.sampled_from(["\n", "\r\n", " \n"]), COMPRESS, PIECES)
    def holds(items, newline, compress, piece):
        lines = "".join(" ".join([user, *own]) + newline for user, own in items.items())
        rows = [(user, item) for user, own in items.items() for item in own]
        content = compress(lines.encode())
        check(tmp_path / "file", content, rows, 2, piece, format="lightgcn")
        right_or_refused(partial(check, tmp_path / "file", content, rows, 2, piece))

    holds()


def test_counted(tmp_path):
    @EXAMPLES
    @given(st.lists(st.lists(INTEGERS, max_size=6), min_size=1, max_size=6), COMPRESS, PIECES)
    def holds(items, compress, piece):
        lines = "".join(" ".join([str(len(own)), *own]) + "\n" for own in items)
        rows = [(str(user), item) for user, own in enumerate(items) for item in own]
        content = compress(lines.encode())
        check(tmp_path / "file", content, rows, 2, piece, format="counted")
        right_or_refused(partial(check, tmp_path / "file", content, rows, 2, piece))

    holds()
