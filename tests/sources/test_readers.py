"""What reading a file leaves: ids as spelled, ratings and times, and what is missing of them."""

import numpy as np
import pytest
from data_tools import pairs_of, ratings_in, read, times_in
from tools import write

from cli.errors import UserError
from sources import readers
from sources.columns import Wanted
from sources.readers import read_files


def test_ids_stay_as_they_are_spelled(tmp_path):
    """Also numbers of 64 bits and beyond, leading zeros, blanks, and what may stand for nothing."""
    ids = ["007", "7", "18446744073709551616", "-1", "1e5", "1.50", "NA", "nan", "null", " a ", "é"]
    text = "user,item\n" + "".join(f"{one},{one}\n" for one in ids)
    assert read(write(tmp_path / "file", text)) == [(one, one) for one in ids]


def test_order_is_that_of_the_file(tmp_path, monkeypatch):
    pairs = [(f"u{n * 7 % 10}", f"i{n * 3 % 11}") for n in range(100)]
    path = write(tmp_path / "file", "user,item\n" + "".join(f"{u},{i}\n" for u, i in pairs))
    for piece in (1 << 23, 100):
        monkeypatch.setattr("sources.tables.PIECE", piece)
        assert read(path) == pairs


def test_ratings_keep_their_scale(tmp_path):
    text = "user,item,rating\na,x,0\na,y,-2.5\n007,7,1e3\n7,NA,0\n"
    (rows,) = read_files([write(tmp_path / "file", text)])
    assert rows.ratings.dtype == np.float32
    assert rows.ratings.tolist() == [0.0, -2.5, 1000.0, 0.0]


@pytest.mark.parametrize(
    ("ratings", "gap"),
    [
        (["4", "", "good", "5", "Inf"], ", line 3 (and 2 more): '' is no rating; correct it"),
        (["4", "3", "good", "5", "2"], ", line 4: 'good' is no rating; correct it"),
        (["4", "3", "3,5", "5", "2"], None),  # in a table by semicolons
    ],
)
def test_missing_ratings_are_no_error_here(tmp_path, ratings, gap):
    """A model of rankings may do without; one of ratings says which is missing."""
    lines = "".join(f"u{n};i{n};{rating}\n" for n, rating in enumerate(ratings))
    (rows,) = read_files([write(tmp_path / "file", f"user;item;rating\n{lines}")])
    assert len(rows) == len(pairs_of(rows)) == 5
    assert rows.gaps.get("rating") == gap
    missing = [text in ("", "good", "Inf") for text in ratings]
    assert [value is None for value in ratings_in(rows)] == missing


def test_one_unit_of_times_over_all_blocks(tmp_path, monkeypatch):
    """Seconds become microseconds beside fractions or dates; a block without times is neutral."""
    lines = ["a,x,7", "a,y,8", "b,x,", "b,y,", "c,x,9.5", "c,y,1970-01-01"]
    for piece in (1 << 23, 6):
        monkeypatch.setattr("sources.tables.PIECE", piece)
        (rows,) = read_files([write(tmp_path / "file", "user,item,time\n" + "\n".join(lines))])
        assert rows.unit == "us"
        assert times_in(rows) == [7_000_000, 8_000_000, None, None, 9_500_000, 0]
        assert rows.gaps["time"] == (
            ", line 4 (and 1 more): '' is no time; write a number, or 2011-11-21, or 2011-11-21 "
            "18:30:00"
        )
        (rows,) = read_files([write(tmp_path / "file", "user,item,time\n" + "\n".join(lines[:4]))])
        assert (rows.unit, times_in(rows)) == ("number", [7, 8, None, None])


def test_files_without_ratings_and_times(tmp_path):
    (rows,) = read_files([write(tmp_path / "file", "user,item\na,x\n")])
    assert (rows.ratings, rows.times, rows.unit) == (None, None, "")
    assert rows.gaps == {
        role: f" has no {role}s among its columns user, item; name one by --{role}_column"
        for role in ("rating", "time")
    }
    (rows,) = read_files(
        [write(tmp_path / "file", "a,x,b,5\n")], Wanted(user="1", item="2", rating="4")
    )
    assert (ratings_in(rows), rows.times) == ([5], None)


def test_a_file_with_more_rows_than_the_memory_holds_is_refused_at_its_beginning(
    tmp_path, monkeypatch
):
    """Its first block tells how many there are: here 2000 of 6 bytes, by blocks of 150."""
    path = write(tmp_path / "file.csv", "user,item\n" + "u1,i2\n" * 2000)
    monkeypatch.setattr("sources.tables.PIECE", 900)
    monkeypatch.setattr(readers, "PIECE", 900)
    blocks = []
    monkeypatch.setattr(readers, "_check_no_header", lambda *about: blocks.append(about))
    monkeypatch.setattr(readers, "free_memory", lambda device: (30_000, "a test has little"))
    with pytest.raises(UserError, match=r"file\.csv: its 1,9\d\d rows, about, need at least 0 MB"):
        read(path)
    assert blocks == []
    monkeypatch.setattr(readers, "free_memory", lambda device: (33_000, "a test has little"))
    assert len(read(path)) == 2000
