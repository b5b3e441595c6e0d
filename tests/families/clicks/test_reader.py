"""Blocks of a file of clicks: what is in them, numbers of broken lines, labels, missing values."""

import bz2
import gzip
import io
import json
import lzma
import math
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from cli.errors import UserError
from families.clicks.reader import NO_USER, ClickLog, discretise, hash_values, labels_of
from sources.columns import Wanted
from sources.formats import known_table, recognise

HEAD = "click,city,age\n"


def zipped(content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.csv", content)
    return file.getvalue()


PACKED = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zip": zipped,
}


def log_of(path, content=None, format=None, **settings):
    """The ClickLog of a table click,city,age (a number). content: to write into the file"""
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    layout = recognise(path, Wanted(format=format, header=True))
    return ClickLog({"interactions": layout}, "click", ["city", "age"], ["age"], **settings)


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
    log = log_of(
        tmp_path / "a.csv",
        'click,city,age\n1,"Rome, Italy",3\n0,,\n\n1.0,Köln,-7.9\ntrue,N/A,2\nFalse,"",0\n,,\n',
    )
    wanted = [(1, "Rome, Italy", "1"), (0, "", ""), (1, "Köln", "-7")]
    wanted += [(1, "N/A", "2"), (0, "", "0")]
    assert rows_of(log) == expected(wanted)
    assert log.skipped == {}


@pytest.mark.parametrize("size", [60, 200, 1 << 20])
@pytest.mark.parametrize("packed", PACKED)
def test_size_of_blocks_and_compression_do_not_matter(tmp_path, monkeypatch, size, packed):
    monkeypatch.setattr("sources.tables.PIECE", size)
    rows = [(number % 3 // 2, f"city {number % 7}", str(number % 3)) for number in range(100)]
    text = HEAD + "".join(f"{label},{city},{age}\n" for label, city, age in rows)
    assert rows_of(log_of(tmp_path / "data", PACKED[packed](text.encode()))) == expected(rows)


def test_users_are_equal_for_a_user_alone(tmp_path):
    text = HEAD + "1,x,1\n0,y,2\n1,x,3\n0,,4\n0,NULL,5\n"
    (block,) = log_of(tmp_path / "a.csv", text, user="city").blocks()
    assert block.users.dtype == np.int64
    first, second, third, *unknown = block.users.tolist()
    assert first == third != second
    assert unknown == [NO_USER, NO_USER]
    assert hash_values(np.array([b""], object)).view(np.int64).tolist() == [NO_USER]


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
    for others in ([], [b"1"], [b"0.5"]):  # whole numbers alone are read another way
        named, bad = discretise(np.array([word, *others], object))
        assert (named[0], bad[0]) == (bucket, False)


@pytest.mark.parametrize("word", [b"x", b"nan", b"inf", b"1,5", b"\xff", b"1 2", b"0x10"])
def test_what_is_no_number(word):
    assert discretise(np.array([b"1", word], object))[1].tolist() == [False, True]


@pytest.mark.parametrize("size", [40, 1 << 20])
@pytest.mark.parametrize("packed", ["plain", "gzip"])
@pytest.mark.parametrize(
    ("lines", "number", "what"),
    [
        ("2,a,1\n" + "1,b,1\n" * 30, 2, "click is '2', neither 0 nor 1"),
        (",a,1\n", 2, "click is '', neither"),
        ("NULL,a,1\n", 2, "click is 'NULL', neither"),
        ("1,a,1\n" * 30 + "0,a,old\n", 32, "age is 'old', not a number"),
        ("1,a,1\n\n\n0,b,\n1,c\n", 6, "2 fields instead of 3"),
        ("1,a,1\n" * 20 + "1,a,1,1\n" + "1,a,1\n" * 20, 22, "4 fields instead of 3"),
        ("1,a,1\n\n0,b,x", 4, "age is 'x', not a number"),
    ],
)
def test_number_of_a_broken_line(tmp_path, monkeypatch, lines, number, what, packed, size):
    monkeypatch.setattr("sources.tables.PIECE", size)
    log = log_of(tmp_path / "a.csv", PACKED[packed]((HEAD + lines).encode()))
    with pytest.raises(UserError) as error:
        rows_of(log)
    assert str(error.value).startswith(f"{tmp_path / 'a.csv'}, line {number}: {what}")
    assert "--skip_bad_lines" in str(error.value)


@pytest.mark.parametrize("size", [40, 1 << 20])
def test_broken_lines_left_out(tmp_path, monkeypatch, size):
    monkeypatch.setattr("sources.tables.PIECE", size)
    lines = ["1,a,1", "0,b", "0,c,9", "", "2,d,1", "1,e,x", "1,f,1,1,1", "x,g,y", "0,h,"]
    log = log_of(tmp_path / "a.csv", HEAD + "\n".join(lines), skip=True)
    assert rows_of(log) == expected([(1, "a", "1"), (0, "c", "4"), (0, "h", "")])
    assert log.skipped == {"a.csv": [5, 3]}
    log = log_of(tmp_path / "b.csv", HEAD + "1,a,1\n5,b,1\n1,c\n", skip=True)
    assert (len(rows_of(log)), log.skipped) == (1, {"b.csv": [2, 3]})


def test_the_first_broken_column_is_named(tmp_path):
    """Not one that the seed of Python's hashes chooses."""
    path = tmp_path / "a.csv"
    names = [f"n{number}" for number in range(30)]
    path.write_text("\n".join([",".join(["click", *names]), ",".join(["1", *["x"] * 30])]) + "\n")
    layout = recognise(path, Wanted(header=True))
    with pytest.raises(UserError, match="line 2: n0 is 'x'"):
        rows_of(ClickLog({"interactions": layout}, "click", names, names))


def test_first_line_may_be_broken_without_a_header(tmp_path):
    def log(text):
        path = tmp_path / "a.tsv"
        path.write_text(text)
        layout = known_table(path, ["click", "city", "age"], "\t")
        return ClickLog({"interactions": layout}, "click", ["city", "age"], ["age"])

    with pytest.raises(UserError, match="line 1: click is '3'"):
        rows_of(log("3\ta\t1\n1\tb\t1\n"))
    with pytest.raises(UserError, match="line 2: 2 fields"):
        rows_of(log("1\ta\t1\n1\tb\n"))
    (tmp_path / "b").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="damaged Parquet"):
        known_table(tmp_path / "b", ["click"], "\t")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (gzip.compress(HEAD.encode() + b"1,a,1\n" * 9000)[:-20], "damaged gzip file"),
        (HEAD.encode() + b"1,a\0b,1\n", "line 2: a NUL character"),
        (HEAD.encode("utf-16"), "UTF-16"),
        (b'click,city,age\n1,"a,1\n0,b,2\n1,c",3\n', "line 2: a quotation mark opens here"),
        (b'click,city,age\n1,"a\n0,b,2\n1c",3\n', "line 2: a quotation mark opens here"),
        (b'click,city,age\n1,"a,1\n0,b,2\n', "line 2: a quotation mark begins a field"),
    ],
)
def test_damaged_files(tmp_path, content, message):
    with pytest.raises(UserError, match=f"{tmp_path}.*{message}") as error:
        rows_of(log_of(tmp_path / "a.csv", content))
    assert "\n" not in str(error.value)


def test_a_field_of_several_lines(tmp_path):
    text = 'click,city,age\n1,"a, b\nc,\n",3\n0,"a\nb",2\n'
    wanted = [(1, "a, b\nc,\n", "1"), (0, "a\nb", "2")]
    assert rows_of(log_of(tmp_path / "a.csv", text)) == expected(wanted)
    text = 'click,city,age\n1,"a\n0,b,2\nc",3\n'
    wanted = [(1, "a\n0,b,2\nc", "1")]
    assert rows_of(log_of(tmp_path / "a.csv", text, format="csv")) == expected(wanted)


def test_a_damaged_arrow_file_does_not_end_the_process(tmp_path):
    table = pa.table({"click": [1, 0, 1], "city": ["Rome", "Oslo", "Bonn"], "age": [1, 2, 3]})
    path = tmp_path / "a.feather"
    pa.feather.write_feather(table, path, compression="uncompressed")
    content = path.read_bytes()
    ends, wrong = (np.array(ends, "<i4").tobytes() for ends in ([4, 8, 12], [4, 2**30, 12]))
    assert content.count(ends) == 1
    with pytest.raises(UserError, match="damaged Arrow file"):
        rows_of(log_of(path, content.replace(ends, wrong)))


def test_a_mark_among_tabs_is_a_letter(tmp_path):
    text = 'click\tcity\tage\n1\t"a\t1\n0\tb"\t2\n'
    assert rows_of(log_of(tmp_path / "a.tsv", text)) == expected([(1, '"a', "1"), (0, 'b"', "2")])


def test_no_header_line_among_the_rows(tmp_path, monkeypatch):
    """A header that looks like a row is none; a row that looks like the header is one."""
    monkeypatch.setattr("sources.tables.PIECE", 30)
    assert len(rows_of(log_of(tmp_path / "a.csv", HEAD + "1,a,1\n" * 9))) == 9
    with pytest.raises(UserError, match="line 3: click is 'click'"):
        rows_of(log_of(tmp_path / "a.csv", HEAD + "1,a,1\n" + HEAD))


def test_labels():
    words = ["0", "1", "0.0", "1.0", "false", "true", "False", "TRUE", "no", "yes", "NO", "Yes"]
    assert labels_of([word.encode() for word in words]).tolist() == [0, 1] * 6
    assert labels_of([b"", b"2", b"-1", b"y", b"1.00"]).tolist() == [2] * 5
    numbers = [b"3", b"3.5", b"-4", b"1e3", b"", b"high"]
    assert labels_of(numbers, above=3).tolist() == [0, 1, 0, 1, 2, 2]
    assert labels_of([b"-1", b"1"], above=0).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("-1 1 1", "line 2: click is '-1', neither 0 nor 1; .*numbers above 0.*--label_above 0;"),
        ("1 5 2", "line 3: click is '5', neither 0 nor 1; .*numbers above X.*--label_above X;"),
        ("1 high 2", "line 3: click is 'high', neither 0 nor 1, true nor false; correct it"),
    ],
)
def test_labels_that_are_other_numbers_are_refused(tmp_path, words, message):
    text = HEAD + "".join(f"{word},a,1\n" for word in words.split())
    with pytest.raises(UserError, match=message):
        rows_of(log_of(tmp_path / "a.csv", text))


def test_numbers_as_labels(tmp_path):
    text = HEAD + "5,a,1\n3,a,1\n3.5,a,1\n"
    rows = rows_of(log_of(tmp_path / "a.csv", text, above=3))
    assert [label for label, *_ in rows] == [1, 0, 1]
    with pytest.raises(UserError, match="line 3: click is 'NA', not a number"):
        rows_of(log_of(tmp_path / "a.csv", HEAD + "5,a,1\nNA,a,1\n", above=3))


def test_missing_values_are_one(tmp_path):
    spelled = ["", "NULL", "Null", "null", "NA", "NaN", "Nan", "nan", "NAN", r"\N"]
    text = HEAD + "".join(f"1,{word},{word}\n" for word in spelled)
    assert rows_of(log_of(tmp_path / "a.csv", text)) == expected([(1, "", "")] * 10)
    with pytest.raises(UserError, match="age is 'none', not a number"):
        rows_of(log_of(tmp_path / "a.csv", HEAD + "1,a,none\n"))
    assert rows_of(log_of(tmp_path / "a.csv", HEAD + "1,none,1\n")) == expected([(1, "none", "1")])


ROWS = [(1, "Rome", 3.0), (0, None, None), (1, "Köln", -7.9), (0, "7", 0.0)] * 50
TEXTS = [(1, "Rome", "1"), (0, "", ""), (1, "Köln", "-7"), (0, "7", "0")] * 50


@pytest.mark.parametrize("label", [int, float, bool, str])
@pytest.mark.parametrize("kind", ["parquet", "feather", "stream", "gzip"])
def test_parquet_and_arrow(tmp_path, monkeypatch, kind, label):
    monkeypatch.setattr("sources.records.ROWS", 64)
    path = tmp_path / "data"
    clicks, cities, ages = zip(*ROWS, strict=True)
    table = pa.table({"age": ages, "click": list(map(label, clicks)), "city": cities})
    if kind == "feather":
        pa.feather.write_feather(table, path)
    elif kind == "stream":
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
    else:
        pa.parquet.write_table(table, path)
        if kind == "gzip":
            path.write_bytes(gzip.compress(path.read_bytes()))
    assert rows_of(log_of(path)) == expected(TEXTS)


def test_parquet_has_a_value_for_a_row(tmp_path):
    path = tmp_path / "a.parquet"
    table = {"click": [1, 0, 3], "city": ["a", "b", "c"], "age": [1, 2, 3]}
    pa.parquet.write_table(pa.table(table), path)
    with pytest.raises(UserError, match="row 3: click is '3', neither"):
        rows_of(log_of(path))
    pa.parquet.write_table(pa.table(table | {"age": [[1], [], [2]]}), path)
    with pytest.raises(UserError, match=r"column 'age' holds list<.*--categorical"):
        rows_of(log_of(path))


def test_whole_numbers_of_any_type_are_spelled_alike(tmp_path):
    """So that a column without missing values in one split equals one with them in another."""
    path = tmp_path / "a.parquet"
    for city in (pd.array([3, 10]), pd.array([3.0, 10.0]), ["3", "10"]):
        pd.DataFrame({"click": [1, 0], "city": city, "age": [1, 2]}).to_parquet(path)
        assert rows_of(log_of(path)) == expected([(1, "3", "1"), (0, "10", "2")])
    lines = '{"click": 1, "city": 3.0, "age": 1}\n{"click": 0, "city": 10.0, "age": 2}\n'
    for odd in ("", '{"click": 0, "city": "0.10", "age": 2}\n'):  # a text among the numbers
        rows = rows_of(log_of(tmp_path / "a.json", lines + odd))
        assert rows[:2] == expected([(1, "3", "1"), (0, "10", "2")])
    assert rows[2:] == expected([(0, "0.10", "2")])


@pytest.mark.parametrize("size", [300, 1 << 20])
def test_json_lines(tmp_path, monkeypatch, size):
    """A field of another type in one row: its block is read another way, to the same values."""
    monkeypatch.setattr("sources.tables.PIECE", size)
    rows = [
        {"click": bool(click), "city": city, "age": age} if city else {"click": bool(click)}
        for click, city, age in ROWS
    ]
    rows[-1] |= {"click": "yes", "city": 7}
    text = "".join(json.dumps(row) + "\n" for row in rows)
    log = log_of(tmp_path / "a.json", text)
    assert log.layouts["interactions"].names == ("click", "city", "age")
    assert rows_of(log) == expected([*TEXTS[:-1], (1, "7", "0")])


def test_broken_lines_of_json(tmp_path):
    text = '{"click": 1, "city": "a", "age": 1.0}\n' * 3
    broken = text + "{'click\n\n" + text + "[1]\n"
    with pytest.raises(UserError, match=r"line 4: .*no whole JSON object.*, or leave such lines"):
        rows_of(log_of(tmp_path / "a.json", broken))
    log = log_of(tmp_path / "a.json", broken, skip=True)
    assert rows_of(log) == expected([(1, "a", "1")] * 6)
    assert log.skipped == {"a.json": [2, 4]}
