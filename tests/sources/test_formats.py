"""Recognising formats by content: what each file is; what is refused with both readings."""

import gzip

import pytest
from data_tools import pairs_of, read, times_in
from tools import write

from cli.errors import UserError
from sources.columns import Wanted
from sources.readers import read_files

PAIRS = [("a", "x"), ("a", "y"), ("007", "7"), ("7", "NA")]


@pytest.mark.parametrize(
    ("text", "about"),
    [
        (
            "user,item\na,x\na,y\n007,7\n7,NA\n",
            "table with a header, separator comma, quotation marks enclose fields: "
            "user -> user, item -> item",
        ),
        (
            "location,user_id,item_id,song\nL,a,x,s\nL,a,y,s\nL,007,7,s\nL,7,NA,s\n",
            "table with a header, separator comma, quotation marks enclose fields: "
            "user_id -> user, item_id -> item",
        ),
        (
            "user_id\titem_id\trating\na\tx\t1\na\ty\t2.5\n007\t7\t3\n7\tNA\t4\n",
            "table with a header, separator tab, quotation marks are letters: "
            "user_id -> user, item_id -> item, rating -> rating",
        ),
        (
            "rating;movieId;userId\n1;x;a\n2;y;a\n3;7;007\n4;NA;7\n",
            "table with a header, separator semicolon, quotation marks enclose fields: "
            "userId -> user, movieId -> item, rating -> rating",
        ),
        (
            "user_id:token\titem_id:token\ttimestamp:float\na\tx\t1\na\ty\t\n007\t7\t3\n7\tNA\t4\n",
            "RecBole's table, quotation marks are letters: "
            "user_id:token -> user, item_id:token -> item, timestamp:float -> time",
        ),
        (
            'User-ID,Product_ID,title\na,x,plain\na,y,"with, comma"\n007,7,\'\n7,NA,"two\nlines"\n',
            "table with a header, separator comma, quotation marks enclose fields: "
            "User-ID -> user, Product_ID -> item",
        ),
        (
            "a::x::5::1\na::y::3::1\n007::7::3::1\n7::NA::1::1\n",
            "table with no header, separator colons, quotation marks are letters: "
            "column 1 -> user, column 2 -> item, column 3 -> rating, column 4 -> time",
        ),
        (
            "a\tx\t5\t1\na\ty\t3\t1\n007\t7\t3\t1\n7\tNA\t1\t1\n",
            "table with no header, separator tab, quotation marks are letters: "
            "column 1 -> user, column 2 -> item, column 3 -> rating, column 4 -> time",
        ),
        (
            "a\tx\na\ty\n007\t7\n7\tNA\n",
            "table with no header, separator tab, quotation marks are letters: "
            "column 1 -> user, column 2 -> item",
        ),
        (
            "user item\na x\na y\n007 7\n7 NA\n",
            "table with a header, separator blank, quotation marks enclose fields: "
            "user -> user, item -> item",
        ),
        (
            "user|item\na|x\na|y\n007|7\n7|NA\n",
            "table with a header, separator bar, quotation marks enclose fields: "
            "user -> user, item -> item",
        ),
        (
            '{"user": "a", "item": "x"}\n{"user": "a", "item": "y"}\n'
            '{"user": "007", "item": 7}\n{"user": 7, "item": "NA"}\n',
            "JSON lines: user -> user, item -> item",
        ),
        (
            '"sep=;"\r\nitem;user\r\nx;a\r\ny;a\r\n7;007\r\nNA;7\r\n',
            "table with a header, separator semicolon, quotation marks enclose fields: "
            "user -> user, item -> item",
        ),
    ],
    ids=[
        *("csv", "several", "tsv", "semicolon", "recbole", "quoted", "ratings.dat", "u.data"),
        *("pairs", "blanks", "bars", "json", "excel"),
    ],
)
def test_formats_and_what_is_said_about_them(tmp_path, text, about):
    path = write(tmp_path / "file", text)
    (rows,) = read_files([path])
    assert pairs_of(rows) == PAIRS
    assert rows.about == about
    path.write_bytes(gzip.compress(text.encode()))
    (rows,) = read_files([path])
    assert pairs_of(rows) == PAIRS
    assert rows.about == f"gzip: {about}"


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffuser,item\r\na,x\r\na,y\r\n007,7\r\n7,NA\r\n",
        "\n\nuser,item\n\na,x\na,y\n\n007,7\n7,NA",
        "user,item\na,x\na,y\n007,7\n7,NA\n\n   \n \n",
        "user,item\ra,x\ra,y\r007,7\r7,NA\r",
        "user,item,\na,x,\na,y,\n007,7,\n7,NA,\n",
        ",user,item\n0,a,x\n1,a,y\n2,007,7\n3,7,NA\n",
        "# user_id,item_id\na,x\na,y\n007,7\n7,NA\n",
        "user   item  rating\na  x   1\na      y 1\n 007   7      1\n7   NA   1  \n",
        "user::item\na::x\na::y\n007::7\n7::NA\n",
    ],
    ids=[
        *("windows", "blank lines", "last lines of blanks", "old Mac", "separator at the end"),
        *("pandas' index", "hash", "columns of blanks", "colons with a header"),
    ],
)
def test_the_same_table_in_other_dress(tmp_path, text):
    path = tmp_path / "file"
    path.write_bytes(text.encode())
    assert read(path) == PAIRS


# Tables of integers and blanks may be lines of a user and its items, too.
@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("0 5 6 7\n\n2\n1 5 \n0 9\n", None),
        ("0 5 6 7\n\n2\n1 5 \n3 9\n", [("0", "5"), ("0", "6"), ("0", "7"), ("1", "5"), ("3", "9")]),
        ("0 5\n1 3\n2 9\n", [("0", "5"), ("1", "3"), ("2", "9")]),
        ("0 25 5\n0 29 4\n1 25 3\n", [("0", "25"), ("0", "29"), ("1", "25")]),
        ("0 25 2 880000000\n0 29 3 880000001\n", [("0", "25"), ("0", "29")]),
        ("0 25 3.5\n1 29 4\n2 25 0.5\n", [("0", "25"), ("1", "29"), ("2", "25")]),
        ("1 5\n1 6\n2 5\n", [("1", "5"), ("1", "6"), ("2", "5")]),
        ("0 25 5\n1 29 4\n", None),
        (
            "1 2 3 4 5 6 7 8 9\n2 2 3 4 5 6 7 8 9\n",
            [(u, str(i)) for u in "12" for i in range(2, 10)],
        ),
    ],
)
def test_lines_of_integers(tmp_path, text, pairs):
    path = write(tmp_path / "file", text)
    if pairs:
        assert read(path) == pairs
    else:
        with pytest.raises(
            UserError, match=r"\(--format lightgcn\), or a table \(--format table\)"
        ):
            read(path)
    items = [line.split() for line in text.splitlines() if line]
    expected = [(user, item) for user, *own in items for item in own]
    if "." not in text:
        assert read(path, format="lightgcn") == expected


def test_count_first(tmp_path):
    """citeulike: a line per user, the number of items and the items; no id of the user."""
    path = write(tmp_path / "users.dat", "2 10 11\n1 10\n0\n2 12 11\n")
    pairs = [("0", "10"), ("0", "11"), ("1", "10"), ("3", "12"), ("3", "11")]
    assert read(path) == pairs
    assert "a number of items and these items" in read_files([path])[0].about
    write(path, "2 10 11\n1 10\n")
    with pytest.raises(UserError, match=r"\(--format lightgcn\), or .* \(--format counted\)"):
        read(path)
    assert read(path, format="counted") == pairs[:3]
    assert read(path, format="lightgcn") == [("2", "10"), ("2", "11"), ("1", "10")]


def layouts(tmp_path, *texts):
    paths = [write(tmp_path / str(number), text) for number, text in enumerate(texts)]
    return [rows.about for rows in read_files(paths)]


def test_what_is_unclear_in_a_file_is_read_as_the_others(tmp_path):
    assert layouts(tmp_path, "0 1 5\n0 2 4\n", "0 3 5\n1 3 4\n")[1].startswith("table with no")
    lines = "lines of a user and its items (LightGCN)"
    assert layouts(tmp_path, "0 1 5\n1 2\n", "0 3 6\n1 3 4\n") == [lines, lines]
    # Tables have as many columns in all files.
    assert layouts(tmp_path, "0 1 5 6\n1 2 7 8\n", "0 3 7\n1 3 4\n") == [lines, lines]
    with pytest.raises(UserError, match="all lines have 3 integers"):
        layouts(tmp_path, "0 1 5\n1 2 3\n", "0 3 7\n1 3 4\n")


def test_header_or_interaction(tmp_path):
    """A first row of texts above texts may be either; the flags decide."""
    path = write(tmp_path / "file", "who,what\nann,tea\nbob,milk\n")
    with pytest.raises(
        UserError,
        match="first row 'who,what' may be a header or an interaction: name the columns of a "
        "header, as --user_column 'who' --item_column 'what', or number those of an interaction",
    ):
        read(path)
    assert read(path, user="who", item="what") == [("ann", "tea"), ("bob", "milk")]
    assert read(path, user="1", item="2") == [("who", "what"), ("ann", "tea"), ("bob", "milk")]
    write(path, "ann,book\nbob,tea\n")  # a book may be a column
    with pytest.raises(UserError, match="--item_column 'book', or put a header above an interact"):
        read(path, user="1", item="2")
    with pytest.raises(UserError, match="no column is known to be the user; it has ann, book"):
        read(path)
    assert read(path, user="1") == [("bob", "tea")]
    # In two files of a data set, two first rows are no header.
    assert layouts(tmp_path, "ann,tea\nbob,milk\n", "cat,milk\ndan,tea\n")[0].startswith(
        "table with no"
    )


@pytest.mark.parametrize(
    "text",
    [
        "0,1,2\n196,242,3\n186,302,3\n",  # pandas numbers columns without names
        "0,1\nann,tea\nbob,milk\n",
        "% bip weighted\n% 3 2 2\n1 2 3 1\n2 2 3 1\n",  # KONECT
        "# Undirected graph\n0\t1\n1\t2\n",  # SNAP
    ],
)
def test_first_line_that_may_be_no_interaction(tmp_path, text):
    with pytest.raises(
        UserError, match="may be a header or an interaction: remove a header or comm"
    ):
        read(write(tmp_path / "file", text))


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("1,10,5\n2,20,4\n", [("1", "10"), ("2", "20")]),  # the first row holds a 1
        ("a,x,NA\nb,y,3\n", [("a", "x"), ("b", "y")]),  # NA is no name
        ("a,x,\nb,y,3\n", [("a", "x"), ("b", "y")]),
        ("2,1,5\n1,2,4\n", [("2", "1"), ("1", "2")]),
        ("0,1,2\n1,2,4\n", [("0", "1"), ("1", "2")]),
        ("ann,book,3\n", [("ann", "book")]),  # one name of a column, in a row of numbers
        ("ann,book,3\nbob,tea,2\n", [("ann", "book"), ("bob", "tea")]),
    ],
)
def test_first_row_is_an_interaction_where_columns_are_numbered(tmp_path, text, pairs):
    assert read(write(tmp_path / "file", text), user="1", item="2") == pairs


def test_separator(tmp_path):
    """A tab or :: goes before; commas and semicolons that divide alike are refused."""
    assert read(write(tmp_path / "file", "u,1\ti 1\t3\nu,2\ti,2\t4\n")) == [
        ("u,1", "i 1"),
        ("u,2", "i,2"),
    ]
    path = write(tmp_path / "file", "1;2;3,5\n2;3;4,0\n")
    with pytest.raises(
        UserError,
        match=r"separator may be comma \(2 columns\) or semicolon \(3 columns\); name it by --sep",
    ):
        read(path)
    assert read(path, separator=";") == [("1", "2"), ("2", "3")]
    assert read(write(tmp_path / "file", "user id,item id\na b,c\n")) == [("a b", "c")]
    # A tab or :: within the fields of a table by commas.
    for sign in ("\t", "::"):
        path = write(tmp_path / "file", f"u1,a{sign}b,4.0\nu2,c{sign}d,3.0\n")
        with pytest.raises(
            UserError, match=r"\(2 columns\) or comma \(3 columns\); name it by --sep"
        ):
            read(path)
        assert read(path, separator=",") == [("u1", f"a{sign}b"), ("u2", f"c{sign}d")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("\ufeff", "is empty"),
        ("\u00a0\n", "is empty"),
        ("sep=,\n", "is empty"),
        ("user\na\nb\n", r"line 1 \('user'\) has one column only"),
        ("1\n2\n", r"one number only: lines of a user and its items \(--format lightgcn\) have no"),
        (",,,\n,,,\n", "is empty: its rows hold separators only"),
        ("Sales 2024\n\nuser,item\na,x\n", r"line 1: 'Sales 2024' is above the header 'user,item'"),
        ("Sales,,\nwho,what,n\na,x,1\n", "line 1: 'Sales,,' is above the header 'who,what,n'; rem"),
        (
            "user,item\n" + 'a,"[1, 2]"\n' * 3,
            r"the items holds lists, as '\[1, 2\]'; .* or say --for",
        ),
        ("user,item\n" + "a,[1, 2]\n" * 3, "3 fields instead of 2 .*; a list is no field: write a"),
        ('{"user": 1, "item": [1, 2]}\n', "it has user, and lists, which are no ids: item; name"),
        ("the quick brown fox\njumps over the lazy dog\n", "may be a header or an interaction"),
        ("user,item\ra,x\nb,y\n", "line 1: holds a carriage return; end all lines alike"),
        ('user,"item\na",b\n', "line 1: a quotation mark in the header is open"),
        ('{\n"user": "a",\n"item": 1\n}\n', "line 1: '{' is no whole JSON object"),
        ("{\n", "line 1: '{' is no whole JSON object"),
        (' {"user": "a", "item": 1}\n"user": "b"\n', "line 2: .* is no whole JSON object"),
        ('"user": "a", "item": 1}\n{"user": "b"}\n{"user": "c"}\n', "line 1: .* is no whole JSON"),
    ],
)
def test_no_format(tmp_path, text, message):
    path = tmp_path / "file"
    path.write_bytes(text.encode())
    with pytest.raises(UserError, match=f"{path}.*{message}"):
        read(path)


def test_format_by_flag(tmp_path):
    path = write(tmp_path / "file", '{"user","item"}\n"a",b"\n')
    assert read(path, format="table", user='{"user"', item='"item"}') == [('"a"', 'b"')]
    path = write(tmp_path / "file", '\n {"user": "a", "item": 1}\n')
    assert read(path) == read(path, format="json") == [("a", "1")]
    (rows,) = read_files(
        [write(tmp_path / "file", "a b 5\n")], Wanted(user="1", item="2", time="3")
    )
    assert times_in(rows) == [5]


def test_what_looks_like_a_title_or_a_list_and_is_none(tmp_path):
    """A sign in every text of a table by another sign; lists that a flag takes for ids."""
    by_tabs = "user\titem\n" + "".join(f"u{n}\tParis, {n}th\n" for n in range(9))
    assert len(read(write(tmp_path / "file", by_tabs))) == 9
    by_blanks = "user item\n" + "".join(f"u{n} Paris,France\n" for n in range(9))
    assert len(read(write(tmp_path / "file", by_blanks))) == 9
    lists = 'user,item\na,"[1, 2]"\nb,"[1, 2]"\n'
    path = write(tmp_path / "file", lists)
    assert read(path, format="csv") == [("a", "[1, 2]"), ("b", "[1, 2]")]
    assert read(write(tmp_path / "file", lists + "b,c\nc,d\nd,e\n"))[0] == ("a", "[1, 2]")
