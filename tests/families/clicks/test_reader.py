"""Blocks of a file of clicks: what is in them, numbers of broken lines, numbers as buckets."""

import gzip
import math

import numpy as np
import pytest

from cli.errors import UserError
from families.clicks import reader
from families.clicks.reader import ClickLog, discretise, first_line, hash_values


def table(path, text, skip=False, **settings):
    """The ClickLog of a table click,city,age (a number)."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return ClickLog(
        path,
        ",",
        ["click", "city", "age"],
        "click",
        ["city", "age"],
        {"age"},
        skip=skip,
        **settings,
    )


def rows_of(log):
    """(label, hash of each field) of every row."""
    rows = []
    for block in log.blocks():
        columns = [values[codes] for codes, values in zip(block.codes, block.values, strict=True)]
        rows += list(
            zip(block.labels.tolist(), *(column.tolist() for column in columns), strict=True)
        )
    return rows


def expected(rows):
    """What rows_of returns for (label, city, bucket of the age as text)."""
    hashed = [
        hash_values(np.array([row[place].encode() for row in rows], object)).tolist()
        for place in (1, 2)
    ]
    return [(row[0], *pair) for row, *pair in zip(rows, *hashed, strict=True)]


def test_rows_as_they_are(tmp_path):
    log = table(
        tmp_path / "a.csv",
        'click,city,age\n1,"Rome, Italy",3\n0,,\n\n1.0,Köln,-7.9\ntrue,NA,2\nFalse,"",0\n',
    )
    wanted = [(1, "Rome, Italy", "1"), (0, "", ""), (1, "Köln", "-7"), (1, "NA", "2"), (0, "", "0")]
    assert rows_of(log) == expected(wanted)
    assert log.skipped == []


@pytest.mark.parametrize("size", [60, 200, 1 << 20])
@pytest.mark.parametrize("packed", [False, True])
def test_size_of_blocks_does_not_matter(tmp_path, monkeypatch, size, packed):
    monkeypatch.setattr(reader, "BLOCK_BYTES", size)
    rows = [(number % 3 // 2, f"city {number % 7}", str(number % 3)) for number in range(100)]
    text = "click,city,age\n" + "".join(f"{label},{city},{age}\n" for label, city, age in rows)
    log = table(tmp_path / "a.csv", gzip.compress(text.encode()) if packed else text)
    assert rows_of(log) == expected(rows)


def test_users_are_equal_for_a_user_alone(tmp_path):
    log = table(tmp_path / "a.csv", "click,city,age\n1,x,1\n0,y,2\n1,x,3\n", user="city")
    (block,) = log.blocks()
    assert block.users.dtype == np.int64
    first, second, third = block.users.tolist()
    assert first == third != second


@pytest.mark.parametrize(
    ("word", "bucket"),
    [
        (b"-3", b"-3"),
        (b"-0.7", b"0"),
        (b"0", b"0"),
        (b"1", b"1"),
        (b"1.9", b"1"),
        (b"2", b"2"),
        (b"3", b"1"),
    ]
    + [(b"%d" % x, b"%d" % math.floor(math.log(x) ** 2)) for x in (7, 8, 100, 23255)]
    + [(b"2.5", b"0"), (b"", b"")],
)
def test_discretise(word, bucket):
    named, bad = discretise(np.array([word], object))
    assert (named.tolist(), bad.tolist()) == ([bucket], [False])


@pytest.mark.parametrize("word", [b"x", b"nan", b"inf", b"1,5", b"\xff", b"1 2"])
def test_what_is_no_number(word):
    assert discretise(np.array([b"1", word], object))[1].tolist() == [False, True]


HEAD = "click,city,age\n"


@pytest.mark.parametrize("size", [40, 1 << 20])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("lines", "number", "what"),
    [
        ("2,a,1\n" + "1,b,1\n" * 30, 2, "click is '2', neither 0 nor 1"),
        (",a,1\n", 2, "click is '', neither"),
        ("1,a,1\n" * 30 + "0,a,old\n", 32, "age is 'old', not a number"),
        ("1,a,1\n\n\n0,b,\n1,c\n", 6, "2 fields where there should be 3"),
        ("1,a,1\n" * 20 + "1,a,1,1\n" + "1,a,1\n" * 20, 22, "4 fields where there should be 3"),
        ("1,a,1\n\n0,b,x", 4, "age is 'x', not a number"),
    ],
)
def test_number_of_a_broken_line(tmp_path, monkeypatch, lines, number, what, packed, size):
    monkeypatch.setattr(reader, "BLOCK_BYTES", size)
    text = (HEAD + lines).encode()
    log = table(tmp_path / "a.csv", gzip.compress(text) if packed else text)
    with pytest.raises(UserError) as error:
        rows_of(log)
    assert str(error.value).startswith(f"{tmp_path / 'a.csv'}, line {number}: {what}")
    assert "--skip_bad_lines" in str(error.value)


@pytest.mark.parametrize("size", [40, 1 << 20])
def test_broken_lines_left_out(tmp_path, monkeypatch, size):
    monkeypatch.setattr(reader, "BLOCK_BYTES", size)
    lines = ["1,a,1", "0,b", "0,c,9", "", "2,d,1", "1,e,x", "1,f,1,1,1", "x,g,y", "0,h,"]
    log = table(tmp_path / "a.csv", HEAD + "\n".join(lines), skip=True)
    assert rows_of(log) == expected([(1, "a", "1"), (0, "c", "4"), (0, "h", "")])
    assert log.skipped == [3, 6, 7, 8, 9]


def test_first_line_may_be_broken_without_a_header(tmp_path):
    log = table(tmp_path / "a.csv", "3,a,1\n1,b,1\n", header=False)
    with pytest.raises(UserError, match="line 1: click is '3'"):
        rows_of(log)
    log = table(tmp_path / "a.csv", "1,a,1\n1,b\n", header=False)
    with pytest.raises(UserError, match="line 2: 2 fields"):
        rows_of(log)


@pytest.mark.parametrize(
    "content", [b"", gzip.compress(b"click,city,age\n" + b"1,a,1\n" * 9000)[:-20]]
)
def test_damaged_files(tmp_path, content):
    log = table(tmp_path / "a.csv", content)
    with pytest.raises(UserError, match=f"cannot read {tmp_path}.*cut off"):
        rows_of(log)


def test_first_line(tmp_path):
    path = tmp_path / "a.csv"
    for content in (b"\xef\xbb\xbfa,b\r\n1,2\n", gzip.compress(b"a,b\n1,2\n")):
        path.write_bytes(content)
        assert first_line(path) == "a,b"
    path.write_bytes(gzip.compress(b"a" * 99)[:12])
    with pytest.raises(UserError, match="cannot read"):
        first_line(path)
    path.write_bytes(b"\xff\xfe\x00\n")
    with pytest.raises(UserError, match="not text"):
        first_line(path)


def test_no_header_line_among_the_rows(tmp_path, monkeypatch):
    """A header that looks like a row is none; a row that looks like the header is one."""
    log = table(tmp_path / "a.csv", "1,a,1\n1,b,1\n")
    assert len(rows_of(log)) == 1
    monkeypatch.setattr(reader, "BLOCK_BYTES", 30)
    log = table(tmp_path / "a.csv", HEAD + "1,a,1\n" * 9)
    assert len(rows_of(log)) == 9
