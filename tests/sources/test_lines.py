"""Lines of integers: a user and its items, or a number of items and these items."""

import pytest
from data_tools import pairs_of, read
from tools import write

from cli.errors import UserError
from sources.columns import Wanted
from sources.readers import read_files


def test_lines_as_a_slow_reference_reads_them(tmp_path, monkeypatch):
    text = "0 5 6 7\r\n\n2\n1 5 \n  9\t007 18446744073709551616\n3 5 5\n4"
    path = write(tmp_path / "file", text)
    lines = [line.split() for line in text.split("\n") if line.strip()]
    pairs = [(user, item) for user, *items in lines for item in items]
    for piece in (1 << 23, 1, 5, 13):
        monkeypatch.setattr("sources.tables.PIECE", piece)
        (rows,) = read_files([path], Wanted(format="lightgcn"))
        assert pairs_of(rows) == pairs
        assert (rows.ratings, rows.times) == (None, None)
        assert rows.gaps == {"rating": " has no ratings", "time": " has no times"}


def test_many_items(tmp_path):
    items = [str(item) for item in range(500_000)]
    path = write(tmp_path / "wide", f"0 {' '.join(items)}\n1 3\n")
    assert read(path) == [*(("0", item) for item in items), ("1", "3")]


def test_counted_lines_number_the_users_over_all_blocks(tmp_path, monkeypatch):
    path = write(tmp_path / "file", "".join("2 10 11\n1 7\n0\n" for _ in range(20)))
    pairs = [
        (str(3 * n + user), item)
        for n in range(20)
        for user, item in [(0, "10"), (0, "11"), (1, "7")]
    ]
    for piece in (1 << 23, 9):
        monkeypatch.setattr("sources.tables.PIECE", piece)
        assert read(path) == pairs


@pytest.mark.parametrize(
    ("text", "message", "wanted"),
    [
        (
            "0 1 2\n1 x 3\n",
            "line 2: 'x' in a line of integers (user item item ...); correct it",
            {},
        ),
        ("0 1 2\n1 3 4 -5\n2 4\n", "line 2: '-' in a line of integers", {}),
        ("0 1 2\n\n1 3 4.5 7\n", "line 3: '.' in a line of integers", {}),
        ("0 1 2\n1 3 é 7\n", "line 2: 'é' in a line of integers", {}),
        ("0 1 2\n1 3\r 7\n", "line 2: a carriage return within a line; end all lines alike", {}),
        ("0 1 2\n1 3\0 7\n", "line 2: a NUL character", {}),
        (
            "2 5 6\n3 5 6\n",
            "line 2: begins with 3 and has 2 items; correct it",
            {"format": "counted"},
        ),
        ("1 5\n\n0 5 6\n", "line 3: begins with 0 and has 2 items", {"format": "counted"}),
    ],
)
def test_broken_lines(tmp_path, monkeypatch, text, message, wanted):
    path = write(tmp_path / "file", text)
    for piece in (1 << 23, 4):
        monkeypatch.setattr("sources.tables.PIECE", piece)
        with pytest.raises(UserError) as error:
            read(path, **{"format": "lightgcn"} | wanted)
        assert str(error.value).startswith(f"{path}, {message}")
