"""Which interactions count: each filter against a slow reference or known answer."""

import logging
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tools import write

from cli.errors import UserError
from dataloader import load_dataset
from sources.filters import Choice, core, in_both, without_cold, without_repeats, without_unused
from sources.pairs import Pairs

EXAMPLES = settings(max_examples=100, deadline=None, derandomize=True, database=None)
SHAPE = (5, 6)
ROWS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=40
)


def pairs_of(rows, times=True):
    users, items, numbers = np.array(rows, np.int64).reshape(-1, 3).T
    made = users.astype(np.int32), items.astype(np.int32)
    return Pairs.of(*made, SHAPE, numbers.astype(np.float32), numbers if times else None)


def places(pairs):
    return sorted(pairs.places.tolist())


@EXAMPLES
@given(ROWS)
def test_pairs_are_sorted_and_their_matrix_has_the_last_of_each(rows):
    pairs = pairs_of(rows)
    order = sorted(range(len(rows)), key=lambda place: (*rows[place][:2], place))
    assert pairs.places.tolist() == order
    found = zip(pairs.users.tolist(), pairs.items.tolist(), pairs.times.tolist(), strict=True)
    assert list(found) == [rows[place] for place in order]
    last = {row[:2]: row[2] for row in rows}
    dense = np.zeros(SHAPE, np.float32)
    for (user, item), number in last.items():
        dense[user, item] = number
    assert (pairs.matrix(ratings=True).toarray() == dense).all()
    assert pairs.matrix(ratings=True).nnz == pairs.matrix().nnz == len(last)
    assert (pairs.matrix().data == 1).all()


@EXAMPLES
@given(ROWS, st.sampled_from(["first", "last", "all"]), st.booleans())
def test_repeats(rows, which, times):
    """By time where there are times, then by the file's order."""
    found = without_repeats(pairs_of(rows, times), which)
    chosen = {}
    for place, (user, item, time) in enumerate(rows):
        chosen.setdefault((user, item), []).append((time if times else 0, place))
    pick = {"first": lambda own: [min(own)], "last": lambda own: [max(own)], "all": sorted}[which]
    assert places(found) == sorted(place for own in chosen.values() for _, place in pick(own))


def slow_core(splits, least_user, least_item):
    """{split: places of the rows that stay}: drop rows until all users and items have enough."""
    left = {(split, place): row for split, rows in splits.items() for place, row in enumerate(rows)}
    while True:
        users, items = (Counter(row[column] for row in left.values()) for column in (0, 1))
        stay = {
            key: row
            for key, row in left.items()
            if users[row[0]] >= least_user and items[row[1]] >= least_item
        }
        if len(stay) == len(left):
            return {split: sorted(place for own, place in left if own == split) for split in splits}
        left = stay


@EXAMPLES
@given(ROWS, ROWS, st.integers(1, 4), st.integers(1, 4))
def test_core_equals_the_slow_reference(train, test, least_user, least_item):
    splits = {"train": train, "test": test}
    found = core({split: pairs_of(rows) for split, rows in splits.items()}, least_user, least_item)
    expected = slow_core(splits, least_user, least_item)
    assert {split: places(pairs) for split, pairs in found.items()} == expected


def test_core_goes_on_until_both_hold():
    """Item 9 has one user; without it user 3 has one item; without this item 8 has one user."""
    rows = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 4), (2, 0), (3, 4), (3, 5)]
    kept = core({"all": pairs_of([(*row, 1) for row in rows])}, 2, 2)["all"]
    assert list(zip(kept.users.tolist(), kept.items.tolist(), strict=True)) == rows[:4]
    assert len(core({"all": pairs_of([(0, 0, 1)])}, 2, 1)["all"]) == 0


@EXAMPLES
@given(ROWS, ROWS)
def test_in_both(first, second):
    pairs = [pairs_of(rows) for rows in (first, second)]
    known = {row[:2] for row in first}
    expected = [second[place][:2] in known for place in pairs[1].places]
    assert in_both(*pairs).tolist() == expected


@EXAMPLES
@given(ROWS, ROWS, st.booleans(), st.booleans())
def test_cold_users_and_items(train, test, users, items):
    choice = Choice(cold_users="drop" if users else "keep", cold_items="drop" if items else "keep")
    ids = [f"u{n}" for n in range(5)], [f"i{n}" for n in range(6)]
    pairs = {"train": pairs_of(train), "test": pairs_of(test)}
    user_ids, item_ids, kept, said = without_cold(*ids, pairs, choice)
    known_users, known_items = {row[0] for row in train}, {row[1] for row in train}
    # Each flag leaves out what it names, and nothing else.
    assert user_ids == [f"u{n}" for n in range(5) if not users or n in known_users]
    assert item_ids == [f"i{n}" for n in range(6) if not items or n in known_items]
    assert {part.shape for part in kept.values()} == {(len(user_ids), len(item_ids))}
    train_items = [item_ids[item] for item in kept["train"].items.tolist()]
    assert train_items == [f"i{item}" for _, item in sorted(row[:2] for row in train)]
    expected = [
        place
        for place, (user, item, _) in enumerate(test)
        if not (users and user not in known_users) and not (items and item not in known_items)
    ]
    assert (places(kept["train"]), places(kept["test"])) == (list(range(len(train))), expected)
    cold = len({row[0] for row in test} - known_users), len({row[1] for row in test} - known_items)
    ways = ["left out" if drop else "kept" for drop in (users, items)]
    assert said == (
        f"{cold[0]} users ({ways[0]}) and {cold[1]} items ({ways[1]}) of the test split are not in "
        "training"
    )


@EXAMPLES
@given(ROWS, ROWS)
def test_users_and_items_without_interactions_are_left_out(train, test):
    user_ids, item_ids = [f"u{n}" for n in range(5)], [f"i{n}" for n in range(6)]
    splits = {"train": train, "test": test}
    users, items, kept = without_unused(
        user_ids, item_ids, {split: pairs_of(rows) for split, rows in splits.items()}
    )
    assert users == sorted({f"u{row[0]}" for row in train + test})
    assert items == sorted({f"i{row[1]}" for row in train + test})
    for split, rows in splits.items():
        pairs = kept[split]
        assert pairs.shape == (len(users), len(items))
        found = [(users[u], items[i]) for u, i in zip(pairs.users, pairs.items, strict=True)]
        assert found == sorted((f"u{row[0]}", f"i{row[1]}") for row in rows)


# Whole data sets.
RATED = [(f"u{n % 9}", f"i{(n * n) % 23}", n % 6, (n * 7919) % 100) for n in range(150)]


def load(tmp_path, rows=RATED, name="d", **how):
    write(
        tmp_path / name / "all.csv",
        "user,item,rating,time\n" + "".join(",".join(map(str, row)) + "\n" for row in rows),
    )
    choice = {key: how.pop(key) for key in list(how) if key in Choice.__dataclass_fields__}
    return load_dataset(name, tmp_path, choice=Choice(**choice), **how)


def rated(data, *splits):
    """{(user, item): rating} of splits."""
    found = {}
    for split in splits or ("train", "valid", "test"):
        part = getattr(data, split).tocoo()
        for user, item, value in zip(*part.coords, part.data.tolist(), strict=True):
            assert (data.user_ids[user], data.item_ids[item]) not in found
            found[data.user_ids[user], data.item_ids[item]] = value
    return found


def test_min_rating(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    data = load(tmp_path, min_rating=4.0)
    positives = {row[:2] for row in RATED if row[2] >= 4}
    assert rated(data).keys() == positives
    assert data.user_ids == sorted({user for user, _ in positives})
    assert data.item_ids == sorted({item for _, item in positives})
    assert (
        f"all.csv: {sum(row[2] >= 4 for row in RATED)} of 150 rows have a rating of 4 or more"
        in caplog.text
    )
    assert data.digest != load(tmp_path).digest
    write(tmp_path / "e/all.csv", "user,item\na,x\n")
    with pytest.raises(
        UserError, match=r"all.csv has no ratings among its columns user, item; name one by --r"
    ):
        load_dataset("e", tmp_path, choice=Choice(min_rating=4.0))
    write(tmp_path / "e/all.csv", "user,item,rating\na,x,3\na,y,good\n")
    with pytest.raises(UserError, match=r"all.csv, line 3: 'good' is no rating; correct it"):
        load_dataset("e", tmp_path, choice=Choice(min_rating=4.0))


@pytest.mark.filterwarnings("error")
def test_a_min_rating_beyond_all_ratings(tmp_path):
    with pytest.raises(UserError, match="no train interaction is left"):
        load(tmp_path, min_rating=1e308)


def test_min_rating_counts_before_repeats(tmp_path):
    """Of the positives of a pair the last counts, not of all its rows."""
    rows = [
        ("a", "x", 5, 1),
        ("a", "x", 1, 2),
        ("a", "y", 5, 3),
        ("b", "x", 5, 4),
        ("b", "y", 4, 5),
    ]
    found = load(tmp_path, rows, min_rating=4.0, test_ratio=0.5)
    assert rated(found).keys() == {row[:2] for row in rows}


def test_core_in_a_data_set(tmp_path):
    data = load(tmp_path, min_user_interactions=11, min_item_interactions=5)
    once = list({row[:2]: (*row[:2], 0) for row in RATED}.values())
    expected = {once[place][:2] for place in slow_core({"all": once}, 11, 5)["all"]}
    assert 0 < len(expected) < len(once)
    assert rated(data).keys() == expected
    assert set(data.user_ids) == {user for user, _ in expected}
    with pytest.raises(UserError, match="no train interaction"):
        load(tmp_path, min_user_interactions=1000)


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("which", ["first", "last"])
def test_repeated_ratings(tmp_path, caplog, timed, which):
    """By time, else by the file's order."""
    rows = RATED if timed else [(*row[:3], "") for row in RATED]
    expected = {}
    for place, (user, item, rating, time) in enumerate(RATED):
        expected.setdefault((user, item), []).append(((time if timed else 0), place, rating))
    pick = {"first": min, "last": max}[which]
    data = load(tmp_path, rows, ratings=True, repeats=which)
    assert rated(data) == {pair: pick(own)[2] for pair, own in expected.items()}
    word = "later" if which == "last" else "earlier"
    count = 150 - len(expected)
    assert f"{count} ratings are replaced by {word} ones of their pairs" in caplog.text


def test_repeated_positives_are_counted(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = tmp_path / "d/all.csv"
    for which in ("last", "first"):
        count = load(tmp_path, repeats=which).counts()
        repeated = 150 - count["train"] - count["test"]
        said = f"{path}: {repeated} of 150 rows repeat a pair of user and item; the {which} of"
        assert repeated > 0
        assert said in caplog.text


def test_a_pair_rated_twice_has_the_rating_of_the_latest_time(tmp_path):
    rows = [("u0", "i99", 1, 2000), ("u0", "i99", 5, 1000), ("u0", "i1", 3, 1), ("u1", "i1", 2, 1)]
    assert rated(load(tmp_path, rows, ratings=True, test_ratio=0.4))["u0", "i99"] == 1
    first = load(tmp_path, rows, ratings=True, test_ratio=0.4, repeats="first")
    assert rated(first)["u0", "i99"] == 5


def test_all_repeats_are_split_and_none_is_in_two_splits(tmp_path):
    """With all of them, a pair may be in training and in test: the second is left out."""
    data = load(tmp_path, repeats="all", overlap="drop", split="time")
    by_time = sorted(range(150), key=lambda place: (RATED[place][3], place))
    train = {RATED[place][:2] for place in by_time[:120]}
    test = {RATED[place][:2] for place in by_time[120:]}
    assert train & test
    assert rated(data, "train").keys() == train
    assert rated(data, "test").keys() == test - train
    with pytest.raises(UserError, match=r"is in both train and test; keep .* by --overlap drop"):
        load(tmp_path, repeats="all", split="time")


def test_overlap(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    write(tmp_path / "o/train.csv", "user,item\na,x\na,y\nb,x\n")
    write(tmp_path / "o/valid.csv", "user,item\na,x\nb,z\n")
    write(tmp_path / "o/test.csv", "user,item\na,y\nb,z\nb,y\n")
    with pytest.raises(UserError) as error:
        load_dataset("o", tmp_path, validate=True)
    files = [tmp_path / "o" / f"{split}.csv" for split in ("train", "valid", "test")]
    assert str(error.value) == (
        f"user 'a' with item 'x' is in both {files[0]} and {files[1]}; keep each pair in one of "
        "them, or leave them out of the second by --overlap drop"
    )
    data = load_dataset("o", tmp_path, validate=True, choice=Choice(overlap="drop"))
    assert rated(data, "train").keys() == {("a", "x"), ("a", "y"), ("b", "x")}
    assert rated(data, "valid").keys() == {("b", "z")}
    assert rated(data, "test").keys() == {("b", "y")}
    said = f"overlap: 1 pairs of {files[1]} and {files[2]} are left out of the second"
    assert said in caplog.messages


def test_cold_in_a_data_set(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    write(tmp_path / "c/train.csv", "user,item\na,x\na,y\nb,x\n")
    write(tmp_path / "c/test.csv", "user,item\nb,y\nnew,x\na,fresh\nnew,fresh\nnew,only\n")
    data = load_dataset("c", tmp_path)
    assert data.shape == (3, 4)
    said = "1 users (kept) and 2 items (kept) of the test split are not in training"
    assert data.protocol["unknown to training"] == said
    data = load_dataset("c", tmp_path, choice=Choice(cold_users="drop"))
    assert (data.user_ids, data.item_ids) == (["a", "b"], ["fresh", "only", "x", "y"])
    assert rated(data, "test").keys() == {("b", "y"), ("a", "fresh")}
    left_out = "interactions are left out, whose user or item training does not know"
    assert caplog.messages[-2:] == [
        f"test: 3 of 5 {left_out}",
        "1 users (left out) and 2 items (kept) of the test split are not in training",
    ]
    data = load_dataset("c", tmp_path, choice=Choice(cold_users="drop", cold_items="drop"))
    assert (data.user_ids, data.item_ids) == (["a", "b"], ["x", "y"])
    assert rated(data, "test").keys() == {("b", "y")}
    said = "1 users (left out) and 2 items (left out) of the test split are not in training"
    assert data.protocol["unknown to training"] == said


@pytest.mark.parametrize(
    ("ratings", "said"),
    [
        (
            [1, 0, 1, 0],
            "2 of them with a rating of 0 or less; --min_rating 1 takes the others only",
        ),
        ([0.5, 0, 4, -1], "of 0 or less; --min_rating 0.5 takes the others only"),
        ([0, 0, 0, 0], "all 4 rows are taken as positives, 4 of them with a rating of 0 or less"),
        ([1, "", "good", 5], None),
        ([1, 2, 3, 5], None),
    ],
)
def test_ratings_of_zero_are_said_to_be_positives(tmp_path, caplog, ratings, said):
    rows = [("ab"[n % 2], f"i{n // 2}", rating, n) for n, rating in enumerate(ratings)]
    load(tmp_path, rows, test_ratio=0.5)
    assert (said or "") in caplog.text
    assert ("taken as positives" in caplog.text) == bool(said)
    caplog.clear()
    if said and ratings[0]:
        load(tmp_path, rows, test_ratio=0.5, min_rating=0.5)
        assert "taken as positives" not in caplog.text


def test_every_choice_is_part_of_the_digest_and_the_defaults_change_nothing(tmp_path):
    plain = load(tmp_path).digest
    assert plain == load(tmp_path, split="random").digest
    changed = [
        {"split": "last"}, {"split": "time"}, {"split": "last", "test_last": 2},
        {"min_rating": 2.0},
        {"split": "time", "test_from": "50"}, {"min_user_interactions": 11},
        {"min_item_interactions": 9}, {"repeats": "all", "overlap": "drop"},
    ]  # fmt: skip
    digests = [load(tmp_path, **choice).digest for choice in changed]
    assert len({plain, *digests}) == len(changed) + 1
