"""The data of an update: matched by ids, what is new, what is gone, what stays in its split."""

from dataclasses import replace

import pytest
from tools import interactions, write

from cli.errors import UserError
from sources.filters import Choice
from sources.growth import grown, with_interactions
from sources.readers import read_files


def pairs(data, matrix):
    """The pairs of ids of a matrix."""
    rows, columns = matrix.nonzero()
    return {(data.user_ids[u], data.item_ids[i]) for u, i in zip(rows, columns, strict=True)}


def named(train, test, valid=(), said=""):
    """Interactions from pairs of texts."""
    ids = [
        sorted({pair[axis] for part in (train, test, valid) for pair in part}) for axis in (0, 1)
    ]
    numbers = [
        [(ids[0].index(user), ids[1].index(item)) for user, item in part]
        for part in (train, test, valid)
    ]
    data = interactions(numbers[0], numbers[1], tuple(map(len, ids)), valid=numbers[2])
    return replace(data, user_ids=ids[0], item_ids=ids[1], protocol={"split": said})


BEFORE = {("b", "x"), ("b", "y"), ("c", "x")}, {("c", "y")}


def test_rows_are_matched_by_id():
    """User a and item w come first now; what was tested is learned now."""
    before = named(*BEFORE)
    now = named(BEFORE[0] | {("a", "w"), ("c", "y")}, {("a", "x")})
    data = grown(before, now, "g")
    assert pairs(data, data.update.new) == {("a", "w"), ("c", "y")}
    assert pairs(data, data.train) == pairs(now, now.train)
    assert pairs(data, data.test) == {("a", "x")}
    assert data.update.parent == "g"


def test_a_random_split_stays():
    """The new random split would test what was in training, and learn what was tested."""
    said = "test: a random 0.2 (seed 0); valid: a random 0.1 (seed 0) of the rest"
    before = named(*BEFORE, valid={("d", "x")}, said=said)
    now = named(
        {("b", "x"), ("c", "y"), ("d", "x"), ("d", "z")},
        {("b", "y"), ("d", "y")},
        valid={("c", "x")},
        said=said,
    )
    data = grown(before, now, "g")
    assert pairs(data, data.train) == BEFORE[0] | {("d", "z")}
    assert pairs(data, data.test) == BEFORE[1] | {("d", "y")}
    assert pairs(data, data.valid) == {("d", "x")}
    assert pairs(data, data.update.new) == {("d", "z")}


@pytest.mark.parametrize("lost", [("b", "y"), ("c", "x")])
def test_what_was_known_may_not_be_gone(lost):
    now = named((BEFORE[0] - {lost}) | {("e", "x"), ("c", "z")}, {("e", "z")})
    with pytest.raises(UserError, match=rf"1 of the 3 .* the first of user '{lost[0]}' with item"):
        grown(named(*BEFORE), now, "g")


def test_a_user_who_is_gone():
    now = named({("b", "x"), ("b", "y"), ("b", "z")}, {("e", "x")})
    with pytest.raises(UserError, match=r"1 of the 3 interactions .* of user 'c' with item 'x'"):
        grown(named(*BEFORE), now, "g")


def test_nothing_new():
    with pytest.raises(UserError, match="nothing new: g was trained on every"):
        grown(named(*BEFORE), named(*BEFORE), "g")


def test_a_file_of_new_interactions(tmp_path):
    """Numbers are sorted as numbers, a known pair is not new, and a low rating is no positive."""
    before = named({("2", "x"), ("10", "y")}, {("10", "x")})
    path = write(tmp_path / "new.csv", "user,item,rating\n10,y,5\n7,y,4\n7,zz,3\n2,zz,1\n")
    (rows,) = read_files([path])
    now = with_interactions(before, rows, Choice(min_rating=3))
    assert now.user_ids == ["2", "7", "10"]
    data = grown(before, now, "g")
    assert pairs(data, data.update.new) == {("7", "y"), ("7", "zz")}
    assert pairs(data, data.test) == {("10", "x")}


def test_a_file_with_what_is_tested(tmp_path):
    before = named(*BEFORE)
    (rows,) = read_files([write(tmp_path / "new.csv", "user,item\nc,y\n")])
    with pytest.raises(UserError, match=r"user 'c' with item 'y' .* is in the test split"):
        with_interactions(before, rows, Choice())
    now = with_interactions(before, rows, Choice(overlap="drop"))
    assert pairs(now, now.test) == set()
    assert pairs(now, now.train) == BEFORE[0] | BEFORE[1]
