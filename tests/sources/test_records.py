"""JSON lines, Parquet and Arrow files: nested names, types, missing values, broken rows."""

import decimal

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from data_tools import json_lines, pairs_of, parquet, ratings_in, read, times_in
from tools import write

from cli.errors import UserError
from sources.readers import read_files

AMAZON = (
    '{"reviewerID": "A0", "asin": "B9", "overall": 4.0, "unixReviewTime": 7, "helpful": [1, 2]}\n'
    '{"reviewerID": "A1", "asin": "B9", "overall": 3, "unixReviewTime": 8, "style": {"a": "b"}}\n'
)
YELP = (
    '{"user_id": "A0", "business_id": "B9", "stars": 4.0, "date": "1970-01-01 00:00:07"}\n'
    '{"user_id": "A1", "business_id": "B9", "stars": 3.0, "date": "1970-01-01 00:00:08"}\n'
)
NESTED = (
    '{"user": {"id": "A0", "name": "n"}, "item": {"id": "B9"}, "rating": 4, "ts": 7, "x": null}\n'
    '{"ts": 8, "item": {"id": "B9"}, "user": {"id": "A1"}, "rating": "3"}\n'
)
PYTHON = (
    "{'reviewerID': 'A0', u'asin': u'B9', 'overall': 4.0, 'time': 7, 'text': \"it's\"}\n"
    "{'reviewerID': 'A1', 'asin': 'B9', 'overall': 3, 'time': 8, 'good': True, 'by': None}\n"
)


@pytest.mark.parametrize(
    "text", [AMAZON, YELP, NESTED, PYTHON], ids=["amazon", "yelp", "nested", "python"]
)
def test_json_lines(tmp_path, monkeypatch, text):
    path = write(tmp_path / "file", f"\ufeff\n{text}\n")
    for piece in (1 << 23, 50):
        monkeypatch.setattr("sources.tables.PIECE", piece)
        (rows,) = read_files([path])
        assert pairs_of(rows) == [("A0", "B9"), ("A1", "B9")]
        assert ratings_in(rows) == [4, 3]
        second = 1_000_000 if rows.unit == "us" else 1
        assert times_in(rows) == [7 * second, 8 * second]


def test_json_ids_of_several_types(tmp_path):
    text = (
        '{"user": 7, "item": "7"}\n'
        '{"user": "7", "item": 18446744073709551616}\n'
        '{"user": "é", "item": "\\u00e9"}\n'
    )
    path = write(tmp_path / "file", text)
    assert read(path) == [("7", "7"), ("7", "18446744073709551616"), ("é", "é")]
    # The first hundred lines decide the types; a later line may be of another.
    rows = [(f"u{n}", n) for n in range(200)]
    path.write_bytes(json_lines(["user", "item"], [*rows, (5, "i")]))
    assert read(path) == [*((user, str(item)) for user, item in rows), ("5", "i")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"user": 1, "item": 2}\n\n{"user": 1, "item": \n',
            'line 3: \'{"user": 1, "item":\' is no whole JSON object; a line holds one',
        ),
        ('{"user": 1, "item": 2} {"user": 2, "item": 3}\n', "line 1: "),
        ('{"user": 1, "item": 2}\n[1, 2]\n', "line 2: '[1, 2]' is no whole JSON object"),
        ('{"user": 1, "item": 2}\n{"user": "1""", "item": 2}\n', "line 2: "),
        (
            '{"user": 1, "item": 2}\n{"user": null, "item": 3}\n',
            "line 2: lacks the user; correct or remove it",
        ),
        ('{"user": 1, "item": 2}\n{"user": 1}\n', "line 2: lacks the item; correct or remove it"),
        ('{"user": "", "item": 2}\n', "line 1: lacks the user; correct or remove it"),
        ('{"user": 1, "item": 2}\n{"user": {"id": 1}, "item": 2}\n', "line 2: lacks the user"),
    ],
)
def test_broken_json_lines(tmp_path, text, message):
    path = write(tmp_path / "file", text)
    with pytest.raises(UserError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}, {message}")


def test_json_that_is_no_utf8(tmp_path):
    (tmp_path / "file").write_bytes(
        '{"user": 1, "item": 2}\n{"user": "é", "item": 2}\n'.encode("latin-1")
    )
    with pytest.raises(UserError, match="line 2: no UTF-8 text; convert the file to UTF-8"):
        read(tmp_path / "file")


def saved(path, made, kind):
    """Write a pyarrow Table as a Parquet or Arrow file, as polars does, or as Feather."""
    if kind == "parquet":
        pa.parquet.write_table(made, path)
    elif kind == "feather":
        pa.feather.write_feather(made, path)
    else:
        with (pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file)(
            path, made.schema
        ) as writer:
            writer.write_table(made, max_chunksize=2)
    return path


KINDS = pytest.mark.parametrize("kind", ["parquet", "arrow", "stream", "feather"])


@KINDS
@pytest.mark.parametrize(
    "users",
    [
        pa.array(["a", "b", "a"]),
        pa.array(["a", "b", "a"], pa.large_string()),
        pa.array(["a", "b", "a"], pa.string_view()),
        pa.array(["a", "b", "a"], pa.binary()),
        pa.array(["a", "b", "a"]).dictionary_encode(),
    ],
    ids=["string", "large", "view", "binary", "dictionary"],
)
def test_ids_of_binary_files(tmp_path, kind, users):
    items = pa.array([2**64 - 1, 7, 0], pa.uint64())
    path = saved(
        tmp_path / "file", pa.table({"user": users, "item": items, "list": [[1], [], None]}), kind
    )
    assert read(path) == [("a", str(2**64 - 1)), ("b", "7"), ("a", "0")]


SECOND = 1_000_000


@KINDS
@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (pa.array([7, None, 8]), [7, None, 8]),
        (pa.array([7, None, 8], pa.timestamp("s")), [7 * SECOND, None, 8 * SECOND]),
        (pa.array([7_000_000_001, None, 8], pa.timestamp("ns", "UTC")), [7 * SECOND, None, 0]),
        (pa.array([1, None, 2], pa.date32()), [86400 * SECOND, None, 2 * 86400 * SECOND]),
        (pa.array([7.5, None, 8]), [7_500_000, None, 8 * SECOND]),
        (pa.array(["1970-01-01T00:00:07", None, "8.0"]), [7 * SECOND, None, 8 * SECOND]),
        (pa.array([7, None, 8], pa.duration("s")), [None] * 3),
        (pa.array([7, None, 8], pa.time64("us")), [None] * 3),
    ],
)
def test_times_of_binary_files(tmp_path, kind, times, expected):
    made = pa.table({"user": ["a"] * 3, "item": ["x"] * 3, "timestamp": times})
    if kind == "feather" and pa.types.is_duration(times.type):
        pytest.skip("one is enough")
    (rows,) = read_files([saved(tmp_path / "file", made, kind)])
    assert times_in(rows) == expected


@pytest.mark.parametrize(
    "ratings",
    [
        pa.array([1, None, 2]),
        pa.array([1, None, 2], pa.float16()),
        pa.array([decimal.Decimal("1.0"), None, decimal.Decimal("2.0")]),
        pa.array(["1", "good", " 2 "]),
        pa.array([1, float("inf"), 2], pa.float64()),
    ],
)
def test_ratings_of_binary_files(tmp_path, ratings):
    made = pa.table({"user": ["a"] * 3, "item": ["x"] * 3, "rating": ratings})
    (rows,) = read_files([saved(tmp_path / "file", made, "parquet")])
    assert ratings_in(rows) == [1, None, 2]
    assert rows.gaps["rating"].startswith(", row 2: ")


@KINDS
def test_nested_columns(tmp_path, kind):
    users = [
        {"id": "a", "more": {"age": 1}},
        {"id": "b", "more": None},
        {"id": "c", "more": {"age": 2}},
    ]
    made = pa.table({"user": users, "item": [{"id": n} for n in range(3)]})
    path = saved(tmp_path / "file", made, kind)
    assert read(path) == [("a", "0"), ("b", "1"), ("c", "2")]
    assert read(path, item="user.id", user="item.id") == [("0", "a"), ("1", "b"), ("2", "c")]


@KINDS
@pytest.mark.parametrize(
    ("users", "message"),
    [
        (pa.array(["a", None, "b"]), ", row 2: lacks the user; correct or remove it"),
        (pa.array(["a", None, "b"]).dictionary_encode(), ", row 2: lacks the user"),
        (pa.array(["a", "b", ""]), ", row 3: lacks the user"),
        (pa.array([1, 2, None]), ", row 3: lacks the user"),
        (pa.array([{"id": "a"}, {"id": "b"}, None]), ", row 3: lacks the user"),
        (
            pa.array([1.0, 2.0, 3.5]),
            ": column 'user' of the users holds double; ids are whole numbers or text; convert it",
        ),
        (pa.array([[1], [2], [3]]), ": column 'user' of the users holds list"),
        (pa.array([True, False, True]), ": column 'user' of the users holds bool"),
        (pa.nulls(3), ": column 'user' of the users holds null"),
    ],
)
def test_refused_ids(tmp_path, kind, users, message):
    path = saved(tmp_path / "file", pa.table({"user": users, "item": ["x"] * 3}), kind)
    with pytest.raises(UserError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}{message}")


@KINDS
def test_rows_are_numbered_over_all_blocks(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("sources.records.ROWS", 3)
    users = [*(f"u{n}" for n in range(10)), None]
    path = saved(tmp_path / "file", pa.table({"user": users, "item": ["x"] * 11}), kind)
    with pytest.raises(UserError, match="row 11: lacks the user"):
        read(path)
    path = saved(path, pa.table({"user": users[:-1], "item": ["x"] * 10}), kind)
    assert read(path) == [(user, "x") for user in users[:-1]]


@pytest.mark.parametrize(
    "content",
    [b"PAR1", b"PAR1 PAR1", b"ARROW1\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\xff\1\0\0\0"],
)
def test_damaged_binary_files(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    kind = "Parquet" if b"PAR1" in content else "Arrow"
    with pytest.raises(UserError, match=rf"file is a damaged {kind} file \(.*\); fetch it again"):
        read(tmp_path / "file")


def test_checksums_of_parquet_are_compared(tmp_path):
    content = parquet(["user", "item"], [("usual", "x")] * 9, write_page_checksum=True)
    (tmp_path / "file").write_bytes(content.replace(b"usual", b"other", 1))
    with pytest.raises(UserError, match=r"damaged Parquet file .*CRC"):
        read(tmp_path / "file")
