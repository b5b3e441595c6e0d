"""Which users --users names: ids with any characters, lists, files, all; what is unknown."""

import logging
from types import SimpleNamespace

import pytest
from tools import write

from cli.errors import UserError
from inference.users import chosen_users

SPACED = ["u1", "u2", " u2", "Smith, J1", "Smith", 'a "b"', '"q"', "@home", "u4 "]


def chosen(text, ids=SPACED):
    """The ids of the users that --users `text` names."""
    data = SimpleNamespace(name="shop", user_ids=ids)
    return [ids[user] for user in chosen_users(text, data, "cpu").tolist()]


def message(text, ids=SPACED):
    with pytest.raises(UserError) as error:
        chosen(text, ids)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("user", SPACED)
def test_an_id_alone_is_that_user(user):
    """Also one that begins with @, or has commas, quotes or blanks."""
    assert chosen(user) == [user]


@pytest.mark.parametrize(
    ("text", "users"),
    [
        ("u1,u2", ["u1", "u2"]),
        ("u2, u1,u2", ["u2", "u1"]),
        (" u1 ,u2 ", ["u1", "u2"]),
        ('u1," u2"', ["u1", " u2"]),
        ('u1, "Smith, J1",Smith', ["u1", "Smith, J1", "Smith"]),
        ('"Smith, J1"', ["Smith, J1"]),
        ('a "b",u1', ['a "b"', "u1"]),
        ('u1,"""q"""', ["u1", '"q"']),
        ('"@home",u1', ["@home", "u1"]),
        ("u1,u4", None),
        ("u1,u4 ", ["u1", "u4 "]),
    ],
)
def test_a_list_is_a_row_of_csv(text, users):
    if users is None:
        assert "no user 'u4'" in message(text)
    else:
        assert chosen(text) == users


def test_all(caplog):
    caplog.set_level(logging.INFO, "onebp")
    assert chosen("all", ["u1", "u2"]) == ["u1", "u2"]
    assert chosen("u1", ["u1", "u2"]) == ["u1"]
    assert not caplog.messages
    # one who is called so
    assert chosen("all", ["all", "u1"]) == ["all"]
    assert "--users all is one user, who has this id; for all users" in caplog.messages[0]
    # a list that is also one id
    assert chosen("u1,u2", ["u1", "u1,u2", "u2"]) == ["u1,u2"]
    assert "--users u1,u2 is one user" in caplog.messages[1]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_file_has_an_id_per_line(work, end):
    ids = ["Smith, J1", " u2", "u4 ", "u1", '"q"', "@home", "u1"]
    text = end.join(["", *ids[:3], "  ", *ids[3:]])
    (work / "ids.txt").write_bytes(f"\ufeff{text}".encode())
    assert chosen("@ids.txt") == ids[:6]
    (work / "ids.txt").write_bytes(b"\xef\xbb\xbfu2")  # also in the first line, and at the end
    assert chosen("@ids.txt") == ["u2"]


def test_a_file_that_names_nobody(work):
    write(work / "empty.txt", "\n \n")
    (work / "latin.txt").write_bytes(b"Ren\xe9\n")
    write(work / "ids.txt", "u1\n\nu9\nu8\n")
    assert message("@empty.txt") == "empty.txt has no ids; write one into each line"
    assert message("@absent.txt").startswith("--users @absent.txt: No such file or directory; ")
    assert message("@latin.txt").startswith("latin.txt: not UTF-8 text")
    assert message("@ids.txt").startswith(
        "ids.txt, line 3: shop has no user 'u9' (unknown: 2 of 3 ids); "
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nobody", "shop has no user 'nobody'; its ids are like 'u1'"),
        ("u1,x,u2,y", "shop has no user 'x' (unknown: 2 of 4 ids); its ids are like 'u1'"),
        ("U1", "shop has no user 'U1'; did you mean 'u1'?"),
        ("u1,Smyth", "no user 'Smyth' (unknown: 1 of 2 ids); did you mean 'Smith'?"),
        ("Smith, J2", "no user 'J2' (unknown: 1 of 2 ids); did you mean 'Smith, J1'?"),
        ("u1,", "no user ''"),
        ("\n", "no user ''"),
        ('"Smith, J1', "separate ids by commas, and put quotes around"),
    ],
)
def test_unknown_users(text, words):
    assert words in message(text)


def test_a_number_is_no_misspelling_of_another():
    assert message("6041", ["6040", "604"]) == "shop has no user '6041'; its ids are like '6040'"
