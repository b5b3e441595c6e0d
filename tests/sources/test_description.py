"""The numbers of --mode describe: closed forms, slow references, real data."""

import json

import numpy as np
import pytest
from tools import interactions, random_matrix, save_arrays, write

from dataloader import load_dataset
from sources.arrays import load_arrays
from sources.description import distribution, gini, numbers_of, ranked, share_of_top
from sources.filters import Choice


def test_gini():
    assert gini(np.full(7, 3)) == pytest.approx(0)
    for n in (1, 2, 50):  # one item has everything
        assert gini(np.bincount([n - 1], [9], n)) == pytest.approx((n - 1) / n)
    counts = np.random.default_rng(1).integers(0, 100, 40)
    differences = np.abs(counts[:, None] - counts[None, :])
    assert gini(counts) == pytest.approx(differences.mean() / (2 * counts.mean()))
    assert gini(counts[::-1]) == gini(counts)


def test_distribution():
    counts = np.arange(1, 101)
    assert distribution(counts) == {
        "mean": 50.5,
        "0 %": 1,
        "10 %": 10,
        "25 %": 25,
        "50 %": 50,
        "75 %": 75,
        "90 %": 90,
        "100 %": 100,
    }


def test_share_of_top_and_ranks():
    counts = np.array([1] * 18 + [30, 12])
    assert share_of_top(counts) == 42 / 60
    assert share_of_top(np.array([5])) == 1
    curve = ranked(counts)
    assert curve["rank"] == [*range(1, 21)]
    assert curve["interactions"] == [30, 12] + [1] * 18
    assert ranked(np.array([5])) == {"rank": [1], "interactions": [5]}


def test_small_data_by_hand():
    """User 2 and items 2 and 3 are not in training; item 4 has no interaction."""
    train, valid = {(0, 0), (0, 1), (1, 0)}, {(0, 2), (1, 1)}
    test = {(1, 2), (2, 0), (2, 2), (2, 3)}
    numbers = numbers_of(interactions(train, test, (3, 5), valid))
    assert (numbers["users"], numbers["items"], numbers["interactions"]) == (3, 5, 9)
    assert numbers["density"] == 9 / 15
    assert numbers["interactions_of_users"]["100 %"] == 3
    assert numbers["interactions_of_items"]["0 %"] == 0
    assert numbers["splits"]["train"] == {
        "interactions": 3,
        "users": 2,
        "items": 2,
        "cold_users": 0,
        "cold_items": 0,
        "interactions_with_cold_items": 0,
    }
    assert numbers["splits"]["valid"]["cold_items"] == 1
    assert numbers["splits"]["test"] == {
        "interactions": 4,
        "users": 2,
        "items": 3,
        "cold_users": 1,
        "cold_items": 2,
        "interactions_with_cold_items": 3,
    }
    assert numbers["test"]["undivided"] == 3 / 4
    assert numbers["rows"] is numbers["repeats"] is numbers["time"] is None
    assert "valid" in numbers
    json.dumps(numbers, allow_nan=False)


def test_ratings_of_0_count():
    """What counts is that an entry is there."""
    data = interactions({(0, 0), (1, 1)}, {(0, 1)}, (2, 2))
    plain = numbers_of(data)
    data.train.data[:] = 0
    assert numbers_of(data) == plain


@pytest.mark.parametrize(("repeats", "rows"), [("last", [5, 4, 9]), ("first", [1, 4, 9])])
def test_times_follow_their_interactions(work, repeats, rows):
    """Through repeats, filters and splits: u0 rates a twice, u2 has too few interactions."""
    text = "user,item,rating,time\nu0,a,5,1\nu0,a,5,5\nu0,b,4,4\nu1,a,5,9\nu1,b,2,7\nu2,a,5,8\n"
    write(work / "datasets/shop/interactions.csv", text)
    choice = Choice(min_rating=3, repeats=repeats, min_item_interactions=1)
    data = load_dataset("shop", "datasets", choice=choice, test_ratio=0.5, details=True)
    kept = np.concatenate([data.details.times[split] for split in ("train", "test")])
    assert sorted(kept.tolist()) == sorted([*rows, 8])
    for split in ("train", "test"):
        assert len(data.details.times[split]) == getattr(data, split).nnz
    assert (data.details.rows, data.details.repeats) == (6, 1)
    time = numbers_of(data)["time"]
    assert sum(map(sum, time["counts"].values())) == 4
    assert load_dataset("shop", "datasets", choice=choice, test_ratio=0.5).details is None


def test_a_pair_that_stays_twice_has_one_time(work):
    text = "user,item,time\n" + "".join(f"u{row % 3},i{row % 5},{row}\n" for row in range(40))
    write(work / "datasets/shop/interactions.csv", text)
    choice = Choice(repeats="all", overlap="drop")
    data = load_dataset("shop", "datasets", choice=choice, test_ratio=0.5, details=True)
    for split in ("train", "test"):
        assert len(data.details.times[split]) == getattr(data, split).nnz <= 15
    assert (data.details.rows, data.details.repeats) == (40, 40 - 15)


def test_details_change_no_split(work):
    users, items = random_matrix().nonzero()
    random = np.random.default_rng(1)
    rows = [
        f"{user},{item},{time}\n"
        for user, item, time in zip(users, items, random.permutation(len(users)), strict=True)
    ]
    write(work / "datasets/shop/interactions.csv", "user,item,time\n" + "".join(rows))
    for choice in (Choice(), Choice(split="last"), Choice(split="time")):
        with_details, without = (
            load_dataset("shop", "datasets", choice=choice, validate=True, details=details)
            for details in (True, False)
        )
        assert with_details.digest == without.digest
    times = with_details.details.times  # by time
    assert times["train"].max() < times["valid"].min() <= times["valid"].max() < times["test"].min()


@pytest.mark.parametrize(("ratio", "valid"), [(0.5, True), (1, False)])
def test_a_split_to_tune_on_takes_its_times_along(work, ratio, valid):
    """The time of a pair is 10 times its user and its item."""
    users, items = random_matrix(20, 9).nonzero()
    rows = [f"{u},{i},{10 * u + i}\n" for u, i in zip(users, items, strict=True)]
    write(work / "datasets/shop/interactions.csv", "user,item,time\n" + "".join(rows))
    whole = load_dataset("shop", "datasets", validate=True, details=True)
    data = whole.with_tuning_split(ratio, 1)
    user_ids, item_ids = (np.array(ids, int) for ids in (data.user_ids, data.item_ids))
    for split in ("train", "valid", "tune", "test"):
        user, item = getattr(data, split).nonzero()
        expected = 10 * user_ids[user] + item_ids[item]
        np.testing.assert_array_equal(data.details.times[split], expected)
    numbers = numbers_of(data)
    shown = {"train", "tune", "test"} | ({"valid"} if valid else set())
    assert numbers["splits"].keys() == numbers["time"]["counts"].keys() == shown
    assert ("valid" in numbers) == valid
    assert numbers["interactions"] == len(rows)


def test_arrays_have_no_times(work):
    data = load_arrays(save_arrays(work / "datasets/big"), False, Choice())
    numbers = numbers_of(data)
    assert numbers["time"] is None
    assert (numbers["users"], numbers["interactions"]) == (32, 32 * 8)
    assert numbers["gini_of_items"] == pytest.approx(0)
    assert numbers["splits"]["test"]["interactions"] == 32


def test_dates_as_numbers_are_said_to_be_numbers(cli, work):
    rows = [f"{user},{item},201111{10 + item}\n" for user in range(4) for item in range(9)]
    write(work / "datasets/shop/interactions.csv", "user,item,time\n" + "".join(rows))
    said = "times as 20111110 are taken as numbers, not as dates; write them as 2011-11-21"
    assert said in cli("--mode", "describe", "--dataset", "shop")[1]
    text = "user,item,time\n" + "".join(row.replace(",201111", ",1") for row in rows)
    write(work / "datasets/shop/interactions.csv", text)
    assert "taken as numbers" not in cli("--mode", "describe", "--dataset", "shop")[1]


def test_movielens(real_data):
    data = load_dataset("ml-100k", real_data, download=False, details=True)
    numbers = numbers_of(data)
    assert (numbers["rows"], numbers["repeats"], numbers["interactions"]) == (100_000, 0, 100_000)
    assert numbers["interactions_of_users"]["0 %"] == 20
    assert numbers["interactions_of_users"]["100 %"] == 737
    assert numbers["interactions_of_items"]["100 %"] == 583
    assert numbers["density"] == pytest.approx(0.063, abs=1e-4)
    spans = numbers["time"]["spans"]
    assert min(span["first"] for span in spans.values()) == "1997-09-20 03:05:10"
    assert max(span["last"] for span in spans.values()) == "1998-04-22 23:10:38"
    assert sum(map(sum, numbers["time"]["counts"].values())) == 100_000
