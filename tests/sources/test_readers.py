"""Every format on good, broken, empty and huge input; ids come back as they are spelled."""

import gzip

import numpy as np
import pytest
from tools import write

from cli.errors import UserError
from sources.readers import read_interactions


def read(tmp_path, text):
    users, items, _ = read_interactions(write(tmp_path / "file", text))
    return list(zip(users, items, strict=True))


PAIRS = [("a", "x"), ("a", "y"), ("007", "7"), ("7", "NA")]


@pytest.mark.parametrize(
    "text",
    [
        "user,item\na,x\na,y\n007,7\n7,NA\n",
        "location,user_id,item_id,song\nL,a,x,s\nL,a,y,s\nL,007,7,s\nL,7,NA,s\n",
        "user_id\titem_id\trating\na\tx\t1\na\ty\t2.5\n007\t7\t3\n7\tNA\t4\n",
        "rating;movieId;userId\n1;x;a\n2;y;a\n3;7;007\n4;NA;7\n",
        "user_id:token,item_id:token,timestamp:float\na,x,1\na,y,\n007,7,3\n7,NA,4\n",
        'User-ID,Product_ID,title\na,x,plain\na,y,"with, comma"\n007,7,\'\n7,NA,"two\nlines"\n',
        "a::x::5::1\na::y::3::1\n007::7::3::1\n7::NA::1::1\n",
        "a\tx\t5\t1\na\ty\t3\t1\n007\t7\t3\t1\n7\tNA\t1\t1\n",
        "a\tx\na\ty\n007\t7\n7\tNA\n",
        "user item\na x\na y\n007 7\n7 NA\n",
        "\ufeffuser,item\r\na,x\r\na,y\r\n007,7\r\n7,NA\r\n",
        "\n\nuser,item\n\na,x\na,y\n\n007,7\n7,NA",
    ],
    ids=[
        "csv",
        "several",
        "tsv",
        "semicolon",
        "recbole",
        "quoted",
        "ratings.dat",
        "u.data",
        "two",
        "spaces",
        "windows",
        "blank",
    ],
)
def test_formats(tmp_path, text):
    assert read(tmp_path, text) == PAIRS
    (tmp_path / "file").write_bytes(gzip.compress(text.encode()))
    users, items, _ = read_interactions(tmp_path / "file")
    assert list(zip(users, items, strict=True)) == PAIRS


def test_ratings_keep_their_scale(tmp_path):
    text = "user,item,rating\na,x,0\na,y,-2.5\n007,7,1e3\n7,NA,0\n"
    ratings = read_interactions(write(tmp_path / "file", text))[2]
    assert ratings.dtype == np.float32
    assert ratings.tolist() == [0.0, -2.5, 1000.0, 0.0]
    assert read_interactions(write(tmp_path / "file", "a::x::4.5::1\na::y::3::1\n"))[
        2
    ].tolist() == [4.5, 3.0]
    assert read_interactions(write(tmp_path / "file", "a\tx\na\ty\n"))[2] is None
    assert read_interactions(write(tmp_path / "file", "0 1 2\n"))[2] is None


def test_lightgcn_lines(tmp_path):
    text = "0 5 6 7\n\n2\n1 5 \n0 9\n"
    assert read(tmp_path, text) == [("0", "5"), ("0", "6"), ("0", "7"), ("1", "5"), ("0", "9")]


def test_ids_of_numbers_alone_keep_their_zeros(tmp_path):
    assert read(tmp_path, "user,item\n007,01\n7,1\n") == [("007", "01"), ("7", "1")]


def test_quotes_are_letters_without_a_header(tmp_path):
    assert read(tmp_path, 'a"b\t"x\t5\nc\ty\t4\n') == [('a"b', '"x'), ("c", "y")]


def test_huge_line(tmp_path):
    items = " ".join(map(str, range(500_000)))
    pairs = read_interactions(write(tmp_path / "wide", f"0 {items}\n1 3\n"))
    assert len(pairs[0]) == 500_001
    long_id = "x" * 3_000_000
    assert read(tmp_path, f"user,item\n{long_id},i\nb,j\n") == [(long_id, "i"), ("b", "j")]


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("", "", "is empty"),
        ("\n \n", "", "is empty"),
        ("hello,world\n1,2\n", "line 1", "names no user or item column"),
        ("1,2,5\n3,4,5\n", "line 1", "names no user or item column"),
        ("the quick brown fox\n", "line 1", "names no user or item column"),
        ('{"user_id": "a", "item_id": "b"}\n' * 3, "", "JSON or markup is not read"),
        ("user,title\na,x\n", "", "no item column in the header (user, title)"),
        ("user,item,Item\na,x,y\n", "", "more than one item column in the header"),
        ("user,item\na,x\n   \n\nb\n", "line 5", "'b,' lacks"),
        ("user,item\na,x\n\nb\nc,y\n", "line 4", "'b,' lacks"),
        ("user,item\na,x\n,y\n", "line 3", "',y' lacks"),
        ("user,item,rating\na,x,3\nb,y,good\n", "line 3", "numeric rating"),
        ("user,item,rating\na,x,3\nb,y\n", "line 3", "numeric rating"),
        ("user,item\na,x\nb,y,z\n", "line 3", "3 fields instead of 2"),
        ("user,item\na,x,z\nb,y,z\n", "line 2", "3 fields instead of 2"),
        ('user,item\na,x\n"b,y\nc,z\n', "", "unclosed quote"),
        ("a\tx\t5\t1\nb\ty\n", "line 2", "numeric rating"),
        ("a\tx\t5\nb\ty\t5\t1\n", "line 2", "4 fields instead of 3"),
        ("a\tx\ty\tz\n", "line 1", "numeric rating"),
        ("1::2::3::4\n5::6\n", "line 2", "numeric rating"),
        ("0 1 2\n1 x 3\n", "line 2", "'x' in a line of integers"),
        ("0 1 2\n1 3 4.5\n", "line 2", "'.' in a line of integers"),
        ("user,item\na,\0\n", "line 2", "NUL"),
        ("user,item\n" + "a,x\n" * 5 + f"{'b' * 200_000}\n", "line 7", "lacks"),
    ],
)
def test_broken_files_are_named_with_their_line(tmp_path, text, where, what):
    path = write(tmp_path / "broken.csv", text)
    with pytest.raises(UserError) as error:
        read_interactions(path)
    message = str(error.value)
    assert str(path) in message
    assert what in message
    assert where in message
    assert "\n" not in message
    assert len(message) < 400


def test_not_utf8(tmp_path):
    (tmp_path / "latin").write_bytes("user,item\na,x\né,y\n".encode("latin-1"))
    with pytest.raises(UserError, match="line 3: not UTF-8"):
        read_interactions(tmp_path / "latin")


@pytest.mark.parametrize("cut", [5, 30, -1])
def test_gzip_cut_off(tmp_path, cut):
    data = gzip.compress(b"user,item\n" + b"".join(b"u%d,i%d\n" % (n, n * n) for n in range(100)))
    (tmp_path / "cut.gz").write_bytes(data[:cut])
    with pytest.raises(UserError, match="damaged gzip"):
        read_interactions(tmp_path / "cut.gz")


def test_absent_file(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*none.csv"):
        read_interactions(tmp_path / "none.csv")


def test_header_without_rows(tmp_path):
    users, items, _ = read_interactions(write(tmp_path / "file", "user,item\n"))
    assert len(users) == len(items) == 0
    assert users.dtype == items.dtype == np.dtype(object)
