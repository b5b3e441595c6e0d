"""Tables of clicks whose text is damaged: a line that says so, never fewer or other rows."""

import pytest

from cli.errors import UserError
from families.clicks.dataset import load_clicks
from sources.columns import Wanted

ROWS = [f"{n % 2},c{n % 9},n{n}\n" for n in range(400)]


def load(folder, content, **how):
    """Load a table click,city,name. content: its rows, bytes or text"""
    (folder / "shop").mkdir(exist_ok=True)
    content = content if isinstance(content, bytes) else content.encode()
    (folder / "shop/clicks.csv").write_bytes(b"click,city,name\n" + content)
    return load_clicks("shop", folder, **how)


@pytest.mark.parametrize("skip", [False, True])
def test_a_quotation_mark_joins_no_rows(tmp_path, skip):
    """139 of 400 rows would be one field; --format says which of the two it is."""
    rows = [*ROWS]
    rows[100] = rows[100].replace(",c", ',"c')
    rows[239] = rows[239].replace("\n", '"\n')
    with pytest.raises(UserError, match=r"clicks.csv, line 102: .* opens here .* in line 241: one"):
        load(tmp_path, "".join(rows), skip_bad_lines=skip)
    assert load(tmp_path, "".join(rows), wanted=Wanted(format="table")).counts()["rows"] == 400
    rows[239] = ROWS[239]
    with pytest.raises(UserError, match=r"line 102: a quotation mark begins a field"):
        load(tmp_path, "".join(rows), skip_bad_lines=skip)


def test_bare_carriage_returns(tmp_path):
    whole = load(tmp_path, "".join(ROWS)).digest
    for rows in ([*ROWS[:7], ROWS[7].replace("\n", "\r"), *ROWS[8:]], [*ROWS[:399], "1,c3,n399\r"]):
        assert load(tmp_path, "".join(rows)).digest == whole
    with pytest.raises(UserError, match=r"clicks.csv, line 9: 1 fields instead of 3"):
        load(tmp_path, "".join([*ROWS[:7], "1\r,c7,n7\n", *ROWS[8:]]))
    (tmp_path / "shop/clicks.csv").write_bytes(b"click,city,name\r" + "".join(ROWS).encode())
    with pytest.raises(UserError, match=r"clicks.csv, line 1: holds a carriage return"):
        load_clicks("shop", tmp_path)


def test_bytes_that_are_no_utf8(tmp_path, caplog, monkeypatch):
    """Said for each column, also of a copy; in two encodings in one column, refused."""
    monkeypatch.setattr("sources.tables.PIECE", 500)
    text = "".join(ROWS).replace("c3", "Köln")
    caplog.set_level("WARNING", "onebp")
    for _ in range(2):
        caplog.clear()
        load(tmp_path, text.encode("latin-1"))
        assert caplog.messages == [
            "warning: values of city are not UTF-8; they are read as Latin-1, for example "
            "clicks.csv, line 5: 'Köln'"
        ]
    caplog.clear()
    load(tmp_path, text)
    assert not caplog.messages
    for mixed in (
        text.encode("latin-1") + "1,Köln,x\n".encode(),
        (text + "1,Köln,x\n").encode() + "1,Köln,x\n".encode("latin-1"),
    ):
        with pytest.raises(UserError, match=r"some values of city are UTF-8 .* 'Köln', read as"):
            load(tmp_path, mixed)
    two = text.encode() + "1,c1,Köln\n".encode("latin-1")  # in two columns
    assert load(tmp_path, two).counts()["rows"] == 401
    assert "values of name are not UTF-8" in caplog.text
