"""What is recommended: each metric against a slow reference in Python; closed forms."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from tools import interactions

from cli.errors import UserError
from cli.registry import OF_A_LIST, OF_ALL_LISTS
from engine.metrics.lists import Items, genres_of, gini
from evaluate import DotProduct, Ranking

USERS, ITEMS, CUTOFFS = 1600, 30, [1, 3, 10, 50]


def slow(name, listed, counts, genres):
    """A metric of a list by its definition. listed: its items; genres: a set for each item."""
    by_popularity = sorted(range(ITEMS), key=lambda item: (-counts[item], item))
    if name == "Diversity":
        marked = [genres[item] for item in listed if genres[item]]
        pairs = [
            1 - len(one & two) / math.sqrt(len(one) * len(two))
            for one, two in combinations(marked, 2)
        ]
        return sum(pairs) / len(pairs) if pairs else 0
    of_item = {
        "MeanPopularity": lambda item: counts[item],
        "Novelty": lambda item: math.log2(USERS / max(counts[item], 1)),
        "TailShare": lambda item: float(item not in by_popularity[: math.ceil(ITEMS / 5)]),
    }[name]
    return sum(map(of_item, listed)) / len(listed) if listed else 0


def slow_of_all(name, often):
    """Coverage or Gini by its definition. often: in how many lists each item is."""
    if name == "Coverage":
        return sum(count > 0 for count in often) / len(often)
    differences = sum(abs(one - two) for one in often for two in often)
    return differences / (2 * len(often) * sum(often))


@pytest.fixture(scope="module")
def cases():
    """Scores, seen, wanted as in test_accuracy.py; counts of the items; a set of genres each."""
    random = np.random.default_rng(6)
    scores = random.integers(1 + 5 * random.integers(2), size=(USERS, ITEMS)).astype(np.float32)
    scores += 3 * (random.random(ITEMS) < 0.2)  # some items are in most lists
    seen = random.random((USERS, ITEMS)) < random.choice([0, 0.2, 0.9], size=(USERS, 1))
    wanted = (random.random((USERS, ITEMS)) < 0.1) & ~seen
    genres = [set(np.flatnonzero(random.random(6) < 0.25).tolist()) for _ in range(ITEMS)]
    counts = random.integers(8, size=ITEMS) ** 3  # ties, and items without training
    return scores, seen, wanted, counts, genres


def test_lists_equal_the_slow_reference(cases, device, monkeypatch):
    monkeypatch.setattr("evaluate.BLOCK_SCORES", 300 * ITEMS)  # several blocks of users
    scores, seen, wanted, counts, genres = cases
    marks = torch.tensor([[float(genre in of) for genre in range(6)] for of in genres])
    rows = marks.double() / marks.double().norm(dim=1, keepdim=True).clamp(min=1)
    about = Items(torch.as_tensor(counts, device=device).double(), USERS, rows.to(device))
    names = [*OF_A_LIST, *OF_ALL_LISTS]
    kind = Ranking.choose(names, CUTOFFS, "Coverage@10")
    split, known = (csr_array(part.astype(np.int8)) for part in (wanted, seen))
    evaluator = kind(split, [known], device, about)
    q = torch.from_numpy(scores.T).contiguous().to(device)
    found = evaluator.evaluate(DotProduct(torch.eye(USERS, device=device), q))
    assert list(found) == [f"{name}@{k}" for name in names for k in CUTOFFS]

    users = np.flatnonzero(wanted.any(1))
    assert len(users) > 1000
    order = np.argsort(np.where(seen, np.inf, -scores), axis=1, kind="stable")
    ranked = [[item for item in order[user].tolist() if not seen[user, item]] for user in users]
    for k in CUTOFFS:
        lists = [items[:k] for items in ranked]
        often = np.bincount([item for items in lists for item in items], minlength=ITEMS).tolist()
        for name in OF_A_LIST:
            values = [slow(name, items, counts.tolist(), genres) for items in lists]
            mean = sum(values) / len(values)
            assert found[f"{name}@{k}"] == pytest.approx(mean, abs=1e-9), (name, k)
        for name in OF_ALL_LISTS:
            wanted_value = slow_of_all(name, often)
            assert found[f"{name}@{k}"] == pytest.approx(wanted_value, abs=1e-9), (name, k)


def test_gini_at_its_ends():
    assert gini(torch.tensor([3.0, 3, 3, 3]), 1) == pytest.approx(0)
    assert gini(torch.tensor([0.0, 0, 9, 0]), 1) == pytest.approx(1 - 1 / 4)
    assert gini(torch.zeros(4), 1) == 0


def test_smaller_is_better_for_gini():
    kind = Ranking.choose(["Recall", "Gini"], [10], "Gini@10")
    assert kind.better({"Gini@10": 0.2}, {"Gini@10": 0.3})
    assert kind.headline == ("Gini@10", "Recall@10")


def test_genres_that_are_absent_are_one_line(tmp_path):
    data = interactions({(0, 0)}, {(0, 1)}, (1, 3))
    with pytest.raises(UserError, match="made has none; leave it out of --metrics"):
        genres_of(data, tmp_path)
    (tmp_path / "made").mkdir()
    text = "item_id,title,genres\n0,a,x|y\n2,b,y\n"
    (tmp_path / "made" / "items.csv").write_text(text)
    half = math.sqrt(1 / 2)
    expected = torch.tensor([[half, half], [0, 0], [0, 1]], dtype=torch.float64)
    torch.testing.assert_close(genres_of(data, tmp_path), expected)
