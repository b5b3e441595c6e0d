"""Rows of separated tables: quotation marks, broken lines, blocks, line numbers."""

import pytest
from data_tools import pairs_of, read
from tools import write

from cli.errors import UserError
from sources.columns import Wanted
from sources.formats import recognise
from sources.layout import Broken
from sources.readers import read_files
from sources.tables import TEXT, read_table

SONGS = [(f"u{n // 5}", f"Song {n % 7}") for n in range(40)]


def songs(first, last, header="user_id\titem_id\n"):
    """A table by tabs of SONGS where two items have a quotation mark."""
    rows = list(SONGS)
    rows[3], rows[20] = (rows[3][0], first), (rows[20][0], last)
    return rows, header + "".join(f"{user}\t{item}\n" for user, item in rows)


@pytest.mark.parametrize(
    ("first", "last"), [('"Live', 'cut"'), ('"Live" cut', '"'), ('"Live', "cut")]
)
@pytest.mark.parametrize("header", ["user_id\titem_id\n", "user_id:token\titem_id:token\n", ""])
def test_quotation_marks_are_letters_between_tabs(tmp_path, first, last, header):
    rows, text = songs(first, last, header)
    assert read(write(tmp_path / "file", text)) == rows


def test_quotation_marks_enclose_fields_between_commas(tmp_path):
    text = 'user,item,text\n"a","x",\nb,"y, ""z""",two\nc,w,"two\nlines, and\n"\n"d","",""\n'
    path = write(tmp_path / "file", text.replace('"d","",""\n', ""))
    assert read(path) == [("a", "x"), ("b", 'y, "z"'), ("c", "w")]
    with pytest.raises(UserError, match=f"{path}, line 7: lacks the item; correct or remove it"):
        read(write(path, text))


def test_a_quotation_mark_within_a_field_is_a_letter(tmp_path):
    assert read(write(tmp_path / "file", 'user,item\na,5" disk\nb,c"\n')) == [
        ("a", '5" disk'),
        ("b", 'c"'),
    ]


def test_between_tabs_by_flag(tmp_path):
    text = 'user\titem\n"a"\t"x\ty"\nb\tz\n'
    path = write(tmp_path / "file", text)
    assert read(path, format="csv") == [("a", "x\ty"), ("b", "z")]
    with pytest.raises(
        UserError, match=r"line 2: 3 fields instead of 2 .*, or say --format csv if"
    ):
        read(path)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('user,item\na,x\nb,"y\nc,z\n', 3),
        ('user,item\n"b,y\nc,z\n', 2),
        ('user,item\nb,"y" z\nc,z\n', 2),
        ('user,item,text\na,x,"fine\n"\nb,y,"open\n', 4),
    ],
)
def test_open_quotation_mark(tmp_path, text, line):
    path = write(tmp_path / "file", text)
    with pytest.raises(UserError) as error:
        read(path)
    assert str(error.value) == (
        f"{path}, line {line}: a quotation mark begins a field and does not end it; correct it, or "
        "say --format table if quotation marks are letters"
    )
    if line == 3:
        assert read(path, format="table") == [("a", "x"), ("b", '"y'), ("c", "z")]


def test_a_quoted_field_that_could_be_rows(tmp_path):
    path = write(tmp_path / "file", 'user,item,text\na,x,"1\nb,y,2"\nc,z,3\n')
    with pytest.raises(UserError) as error:
        read(path)
    assert str(error.value) == (
        f"{path}, line 2: a quotation mark opens here and closes in line 3: one field of 2 lines "
        "(say --format csv), or 2 rows (say --format table)"
    )
    assert read(path, format="csv") == [("a", "x"), ("c", "z")]
    assert read(path, format="table") == [("a", "x"), ("b", "y"), ("c", "z")]


def test_runs_of_blanks_are_one_separator_but_in_quoted_fields(tmp_path):
    path = write(tmp_path / "file", 'user item\n"a  b"   x\n  c "d ""e""  f"  \r\ng h\n')
    assert read(path) == [("a  b", "x"), ("c", 'd "e"  f'), ("g", "h")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "user,item\na,x\n\nb\nc,y\n",
            "line 4: 1 fields instead of 2 (separator comma); correct or",
        ),
        ("user,item\na,x\nb,y,z\n", "line 3: 3 fields instead of 2 (separator comma)"),
        ("user,item\na,x,z\nb,y,z\n", "line 2: 3 fields instead of 2 (separator comma)"),
        ("user,item\na,x\n,y\n", "line 3: lacks the user; correct or remove it"),
        ("user,item\na,x\nb,\n", "line 3: lacks the item; correct or remove it"),
        ("a\tx\t5\t1\nb\ty\n", "line 2: 2 fields instead of 4 (separator tab)"),
        ("a\tx\t5\nb\ty\t5\t1\n", "line 2: 4 fields instead of 3 (separator tab)"),
        ("1::2::3::4\n5::6\n", "line 2: 2 fields instead of 4 (separator colons)"),
        ("1 2 3\n1 3 3\n5 6\n" + "1 4 3\n" * 20, "line 3: 2 fields instead of 3 (separator blank)"),
        ("sep=;\nuser;item\na;x\nb\n", "line 4: 1 fields instead of 2 (separator semicolon)"),
        ("user,item\na,\0\n", "line 2: a NUL character; this is UTF-16"),
        ("\nuser,item\na,x\nb,\0\n", "line 4: a NUL character"),
        ("user,item\na,x\nuser,item\nb,y\n", "line 3: is a header, not a row; remove it"),
        ("a,x\nuserId,movieId\nb,y\na,z\n", "line 2: is a header, not a row; remove it"),
        ("a\tx\nuser_id:token\titem_id:token\na\tz\n", "line 2: is a header, not a row"),
        ('user,item,t\na,x,"\n\n"\nb\n', "line 5: 1 fields instead of 3"),
        ("user,item\n" + "a,x\n" * 5 + f"{'b' * 200_000}\n", "line 7: 1 fields instead of 2"),
    ],
)
def test_broken_rows_are_named_with_their_line(tmp_path, monkeypatch, text, message):
    path = write(tmp_path / "broken.csv", text)
    for piece in (1 << 23, 11):
        monkeypatch.setattr("sources.tables.PIECE", piece)
        with pytest.raises(UserError) as error:
            read(path)
        assert str(error.value).startswith(f"{path}, {message}")
        assert len(str(error.value)) < 300


def test_a_broken_row_that_is_no_utf8(tmp_path, capfd):
    (tmp_path / "file").write_bytes(b"user,item\na,\xe9\nb,\xe9,z\n")
    with pytest.raises(UserError, match="line 3: 3 fields instead of 2"):
        read(tmp_path / "file")
    assert capfd.readouterr().err == ""


def test_broken_rows_may_be_left_out(tmp_path):
    text = 'user,item,t\na,x,1\nb\nc,"y, z","two\nlines"\n\nd,\xe9,1,2\ne,w,3\n'
    path = write(tmp_path / "file", text)
    broken, pairs = Broken(), []
    for block in read_table(recognise(path, Wanted()), {0: TEXT, 1: TEXT}, broken):
        columns = [block.columns[place].to_pylist() for place in (0, 1)]
        pairs += [(*pair, block.line(row)) for row, pair in enumerate(zip(*columns, strict=True))]
    ((line, what),) = broken.first
    assert (broken.count, line) == (2, 3)
    assert "line 3: 1 fields instead of 3" in what
    assert pairs == [(b"a", b"x", "line 2"), (b"c", b"y, z", "line 4"), (b"e", b"w", "line 8")]


def test_blocks_end_where_rows_end(tmp_path, monkeypatch):
    """Whatever the size of a block: rows, quoted lines, a long row, no newline at the end."""
    rows = [(f"u{n}", f"i{n}" if n % 3 else f"i\n{n},") for n in range(30)]
    rows[17] = ("u" * 500, "i")
    text = "user,item\n" + "\n".join(f'{user},"{item}"' for user, item in rows)
    path = write(tmp_path / "file", text)
    for piece in (1, 2, 7, 20, 64, 1000):
        monkeypatch.setattr("sources.tables.PIECE", piece)
        assert read(path, format="csv") == rows


def test_a_reading_that_is_dropped_waits_for_no_thread(tmp_path, monkeypatch):
    """Python may drop it in a thread that starts, which holds a lock that threads need to end."""
    path = write(tmp_path / "file", "user,item\n" + "a,x\n" * 50)
    monkeypatch.setattr("sources.tables.PIECE", 11)
    reading = read_table(recognise(path, Wanted()), {0: TEXT, 1: TEXT})
    next(reading)
    joined = []
    monkeypatch.setattr("threading.Thread.join", lambda *_: joined.append(1))
    reading.close()
    assert joined == []


def test_long_rows_and_many_columns(tmp_path):
    long_id = "x" * 3_000_000
    assert read(write(tmp_path / "file", f"user,item\n{long_id},i\nb,j\n")) == [
        (long_id, "i"),
        ("b", "j"),
    ]
    names = ["user", *(f"c{n}" for n in range(5000)), "item"]
    text = ",".join(names) + "\n" + ",".join(["a", *["0"] * 5000, "x"]) + "\n"
    assert read(write(tmp_path / "file", text)) == [("a", "x")]


def test_header_without_rows(tmp_path):
    for text in ("user,item\n", "user,item", "user,item\n\n \n"):
        (rows,) = read_files([write(tmp_path / "file", text)])
        assert (len(rows), pairs_of(rows)) == (0, [])
