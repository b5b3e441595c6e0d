"""How far a split is from a random one: against enumeration, repeated random splits, real data."""

from itertools import combinations, product

import numpy as np
import pytest
from tools import matrix

from dataloader import load_dataset
from sources import randomness
from sources.interactions import entries
from sources.randomness import compare_with_random, popularity_groups
from sources.splits import random_per_user


def split(whole, held_out):
    """(held out, rest), csr_arrays, of one. held_out: mask over its entries"""
    return entries(whole, held_out), entries(whole, ~held_out)


def shop(users=300, items=80, seed=3):
    """csr_array of users with 5 to 30 items, drawn with unequal popularity."""
    random = np.random.default_rng(seed)
    weights = 1 / np.arange(1, items + 1)
    pairs = {
        (user, int(item))
        for user in range(users)
        for item in random.choice(
            items, random.integers(5, 31), replace=False, p=weights / weights.sum()
        )
    }
    return matrix(pairs, (users, items))


def test_every_random_split_of_a_small_data_set():
    """Means, variances and standard deviations equal those of all splits with the same counts."""
    own = [[0, 1, 2, 3], [0, 1, 4], [0, 2], [3]]  # the items of each user
    counts = [2, 1, 1, 0]  # held out of each
    shape = (4, 5)
    whole = {(user, item) for user, items in enumerate(own) for item in items}
    splits = [
        {(user, item) for user, items in enumerate(chosen) for item in items}
        for chosen in product(
            *(combinations(items, count) for items, count in zip(own, counts, strict=True))
        )
    ]
    found = [
        compare_with_random(matrix(held, shape), [matrix(whole - held, shape)], groups=3)
        for held in splits
    ]
    # With means over all splits, (held out - mean)^2 / variance has the mean 1.
    ratios = [one["variance_ratio"] for one in found]
    assert np.mean(ratios) == pytest.approx(1)

    # Items have 3, 2, 2, 2 and 1 interactions: the groups are 4, then 1, 2 and 3, then 0.
    assert [group["items"] for group in found[0]["groups"]] == [1, 3, 1]
    assert [(group["least"], group["most"]) for group in found[0]["groups"]] == [
        (1, 1),
        (2, 2),
        (3, 3),
    ]
    for number in range(3):
        groups = [one["groups"][number] for one in found]
        shares = [group["share"] for group in groups]
        assert {group["share_if_random"] for group in groups} == {groups[0]["share_if_random"]}
        assert np.mean(shares) == pytest.approx(groups[0]["share_if_random"])
        assert np.std(shares) == pytest.approx(groups[0]["share_error"])
        assert np.mean([group["variance_ratio"] for group in groups]) == pytest.approx(1)


def test_a_slow_reference():
    whole = shop()
    random = np.random.default_rng(4)
    held, rest = split(whole, random.random(whole.nnz) < 0.3)
    found = compare_with_random(held, [rest])
    squares = []
    for item in range(whole.shape[1]):
        users = [user for user in range(whole.shape[0]) if whole[user, item]]
        p = [held[[user]].nnz / whole[[user]].nnz for user in users]
        variance = sum(share * (1 - share) for share in p)
        if variance:
            squares.append((sum(held[user, item] for user in users) - sum(p)) ** 2 / variance)
    assert found["variance_ratio"] == pytest.approx(np.mean(squares))
    assert sum(group["interactions"] for group in found["groups"]) == whole.nnz
    assert sum(group["held_out"] for group in found["groups"]) == held.nnz


def test_the_error_of_the_ratio_in_closed_form():
    """n users have an item of their own and one of all, and one of the two is held out.

    The squares of own items are always 1. That of the item of all is a binomial number's, of n
    coins, whose variance is 2 - 2 / n.
    """
    n = 4
    whole = {(user, item) for user in range(n) for item in (user, n)}
    ratios = []
    for chosen in product((False, True), repeat=n):
        held = {(user, user if own else n) for user, own in enumerate(chosen)}
        found = compare_with_random(
            matrix(held, (n, n + 1)), [matrix(whole - held, (n, n + 1))], groups=1
        )
        ratios.append(found["variance_ratio"])
    assert np.std(ratios) == pytest.approx(np.sqrt(2 - 2 / n) / (n + 1))
    assert found["variance_ratio_error"] == pytest.approx(np.std(ratios))


def test_random_splits_have_the_ratio_1_and_its_error():
    whole = shop()
    random = np.random.default_rng(5)
    ratios, judged = [], []
    for _ in range(300):
        held_out = random_per_user(whole.indptr.astype(np.int64), 0.2, random)
        held, rest = split(whole, held_out)
        found = compare_with_random(held, [rest])
        ratios.append(found["variance_ratio"])
        judged.append(found["like_random"])
    error = found["variance_ratio_error"]
    assert np.mean(ratios) == pytest.approx(1, abs=4 * error / np.sqrt(300))
    assert np.std(ratios) == pytest.approx(error, rel=0.15)
    assert np.mean(judged) > 0.98
    assert found["undivided"] == 0


@pytest.mark.parametrize(("sign", "word"), [(1, "more"), (-1, "less")])
def test_a_split_that_prefers_popular_or_rare_items(sign, word):
    whole = shop(users=1000)
    popularity = np.bincount(whole.indices, minlength=whole.shape[1])
    random = np.random.default_rng(6)
    # Hold out two items of each user, mostly the most or the least popular ones.
    score = sign * np.log(popularity[whole.indices]) + random.gumbel(size=whole.nnz)
    users = np.repeat(np.arange(whole.shape[0]), np.diff(whole.indptr))
    order = np.lexsort((-score, users))
    held_out = np.zeros(whole.nnz, bool)
    held_out[order] = np.arange(whole.nnz) - whole.indptr[users] < 2
    held, rest = split(whole, held_out)
    found = compare_with_random(held, [rest])
    assert found["popular_items"] == word
    assert not found["like_random"]
    assert found["variance_ratio"] > 2


def test_blocks_change_nothing(monkeypatch):
    whole = shop()
    held, rest = split(whole, np.random.default_rng(1).random(whole.nnz) < 0.2)
    found = compare_with_random(held, [rest])
    monkeypatch.setattr(randomness, "BLOCK", 7)
    users, items = (np.concatenate(part) for part in zip(*randomness.blocks(whole), strict=True))
    np.testing.assert_array_equal(users, whole.nonzero()[0])
    np.testing.assert_array_equal(items, whole.indices)
    again = compare_with_random(held, [rest])
    assert again["groups"] == [pytest.approx(group) for group in found["groups"]]
    assert again["variance_ratio"] == pytest.approx(found["variance_ratio"])


def test_users_that_are_not_divided_show_nothing():
    """Of user 0 everything is held out, of user 1 nothing."""
    held, rest = matrix({(0, 0), (0, 1)}, (2, 3)), matrix({(1, 0), (1, 2)}, (2, 3))
    found = compare_with_random(held, [rest])
    assert found["variance_ratio"] is None
    assert found["like_random"] is None
    assert found["undivided"] == 1
    assert found["popular_items"] == "alike"


def test_groups_have_about_equal_interactions_and_never_divide_a_count():
    random = np.random.default_rng(2)
    counts = random.geometric(0.02, 5000)
    counts[:7] = 0
    group = popularity_groups(counts)
    assert (group[:7] == -1).all()
    sizes = np.bincount(group[7:], counts[7:])
    assert len(sizes) == 10
    assert abs(sizes / counts.sum() - 0.1).max() < 0.02
    for number in range(9):  # each count is in one group, and the groups ascend
        assert counts[group == number].max() < counts[group == number + 1].min()
    np.testing.assert_array_equal(popularity_groups(np.array([4, 4, 0, 4])), [0, 0, -1, 0])
    # One item that has nearly everything: no group is empty.
    assert popularity_groups(np.array([1, 1, 1000])).tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("name", "ratio", "popular", "shares"),
    [
        ("ml-100k", (0.9, 1.1), "alike", (0.19, 0.21)),
        ("Gowalla", (1.7, 1.8), "more", (0.25, 0.27)),
        ("Yelp2018", (4.0, 4.2), "less", (0.17, 0.18)),
    ],
)
def test_published_splits(real_data, name, ratio, popular, shares):
    data = load_dataset(name, real_data, download=False)
    found = compare_with_random(data.test, [data.train])
    assert ratio[0] < found["variance_ratio"] < ratio[1]
    assert found["popular_items"] == popular
    assert shares[0] < found["groups"][-1]["share"] < shares[1]
    assert found["like_random"] == (popular == "alike")
