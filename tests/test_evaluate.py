"""Ranking against a slow reference that sorts in Python; closed forms; ties; popularity against a hand-made count."""

import csv
from math import log2

import numpy as np
import pytest
import torch
from conftest import interactions, matrix
from test_dataloader import random_matrix

from dataloader import load_dataset, split_per_user
from evaluate import LIST_LENGTHS, METRICS, DotProduct, Ranking, popularity_encodings, ranking_metrics, stable_topk


def slow_metrics(scores, relevant, seen):
    """METRICS by the definitions: scores (U, I) as lists, relevant and seen as lists of sets."""
    sums, users = dict.fromkeys(METRICS, 0.0), 0
    for user, wanted in enumerate(relevant):
        if not wanted:
            continue
        users += 1
        candidates = [item for item in range(len(scores[user])) if item not in seen[user]]
        ranked = sorted(candidates, key=lambda item: (-scores[user][item], item))
        for k in LIST_LENGTHS:
            hits = [rank for rank, item in enumerate(ranked[:k], 1) if item in wanted]
            ideal = sum(1 / log2(rank + 1) for rank in range(1, min(k, len(wanted)) + 1))
            precision, recall = len(hits) / k, len(hits) / len(wanted)
            sums[f"Precision@{k}"] += precision
            sums[f"Recall@{k}"] += recall
            sums[f"F1@{k}"] += 2 * precision * recall / (precision + recall) if hits else 0
            sums[f"NDCG@{k}"] += sum(1 / log2(rank + 1) for rank in hits) / ideal
    return {name: total / users for name, total in sums.items()}


def sets(part):
    return [set(part.indices[part.indptr[user] : part.indptr[user + 1]].tolist()) for user in range(part.shape[0])]


@pytest.mark.parametrize(
    ("users", "items", "levels"), [(30, 40, 3), (30, 40, 100_000), (25, 12, 2), (5, 3, 2), (200, 300, 5)]
)
def test_ranking_equals_the_slow_reference(device, monkeypatch, users, items, levels):
    """Few levels of scores: many ties, inside the lists and across their ends. Empty users and short lists occur."""
    monkeypatch.setattr("evaluate.BLOCK_SCORES", 7 * items)  # several blocks
    random = np.random.default_rng(users * items + levels)
    pairs = set(zip(random.integers(users - 2, size=users * 5), random.integers(items, size=users * 5), strict=True))
    train, test = split_per_user(matrix(pairs, (users, items)), 0.4, random)
    train, valid = split_per_user(train, 0.3, random)
    scores = random.integers(levels, size=(users, items))
    p, q = torch.eye(users, device=device), torch.as_tensor(scores.T, dtype=torch.float32, device=device).contiguous()

    found = Ranking(test, [train, valid], device).evaluate(DotProduct(p, q))
    seen = [of_train | of_valid for of_train, of_valid in zip(sets(train), sets(valid), strict=True)]
    assert found == pytest.approx(slow_metrics(scores.tolist(), sets(test), seen), abs=1e-12)


def test_topk_breaks_ties_by_index(device):
    random = np.random.default_rng(3)
    scores = torch.as_tensor(random.integers(4, size=(100, 30)), dtype=torch.float32, device=device)
    scores[0] = 1.0
    scores[1, 5:] = -torch.inf
    for k, width in ((1, 1), (5, 15), (20, 30), (29, 1), (30, 6)):
        indices, values = stable_topk(scores.clone(), k, width)
        expected = scores.sort(dim=1, stable=True, descending=True)
        assert torch.equal(values, expected.values[:, :k])
        finite = values > -torch.inf  # where nothing is left to rank, the order is nobody's business
        assert torch.equal(indices[finite], expected.indices[:, :k][finite])


def test_a_constant_model_does_not_score(device):
    """All ties: by index, so only the users whose test items have the lowest indices are hit."""
    test = matrix({(user, 99) for user in range(50)}, (50, 100))
    same = torch.ones(50, 4, device=device), torch.ones(100, 4, device=device)
    assert set(Ranking(test, [], device).evaluate(DotProduct(*same)).values()) == {0.0}


def test_metrics_by_hand():
    hits = torch.zeros(1, 20, dtype=torch.float64)
    hits[0, [0, 2, 9]] = 1.0  # ranks 1, 3 and 10, of 4 relevant items
    metrics = dict(
        zip(METRICS, ranking_metrics(hits, torch.tensor([4.0], dtype=torch.float64))[0].tolist(), strict=True)
    )
    assert metrics["Recall@5"] == pytest.approx(2 / 4)
    assert metrics["Precision@10"] == pytest.approx(3 / 10)
    assert metrics["F1@20"] == pytest.approx(2 * 3 / (4 + 20))
    ideal = 1 + 1 / log2(3) + 1 / 2 + 1 / log2(5)
    assert metrics["NDCG@5"] == pytest.approx((1 + 1 / 2) / ideal)
    assert metrics["NDCG@20"] == pytest.approx((1 + 1 / 2 + 1 / log2(11)) / ideal)


def test_a_perfect_list_has_ndcg_1():
    for relevant in (1, 3, 7, 30):
        hits = torch.zeros(1, 20, dtype=torch.float64)
        hits[0, :relevant] = 1.0
        metrics = dict(zip(METRICS, ranking_metrics(hits, torch.tensor([relevant]))[0].tolist(), strict=True))
        assert all(metrics[f"NDCG@{k}"] == pytest.approx(1) for k in LIST_LENGTHS)


def test_popularity_counts_training_interactions():
    whole = random_matrix()
    p, q = popularity_encodings(whole, "cpu")
    assert (p @ q.T)[0].tolist() == np.bincount(whole.indices, minlength=whole.shape[1]).tolist()


def test_popularity_on_100k_against_a_hand_made_count(real_data):
    """Counted from the files with dictionaries alone."""
    rows = {}
    for part in ("train", "test"):
        with open(real_data / f"100k/{part}.csv", newline="") as file:
            rows[part] = [(int(row["user"]), int(row["item"])) for row in csv.DictReader(file)]
    count, seen, wanted = {}, {}, {}
    for user, item in rows["train"]:
        count[item] = count.get(item, 0) + 1
        seen.setdefault(user, set()).add(item)
    for user, item in rows["test"]:
        wanted.setdefault(user, set()).add(item)
    order = sorted(count, key=lambda item: (-count[item], item))
    recall = 0.0
    for user, items in wanted.items():
        top = [item for item in order if item not in seen[user]][:20]
        recall += len(items.intersection(top)) / len(items)

    data = load_dataset("100k", real_data)
    popularity = DotProduct(*popularity_encodings(data.train, "cpu"))
    metrics = Ranking(data.test, [data.train], torch.device("cpu")).evaluate(popularity)
    assert metrics["Recall@20"] == pytest.approx(recall / len(wanted), abs=1e-12)
    assert metrics["Recall@20"] == pytest.approx(0.1775, abs=5e-5)


def test_popularity_on_1m_against_what_others_measured(real_data):
    data = load_dataset("1M", real_data)
    popularity = DotProduct(*popularity_encodings(data.train, "cpu"))
    metrics = Ranking(data.test, [data.train], torch.device("cpu")).evaluate(popularity)
    assert metrics["Recall@20"] == pytest.approx(0.114, abs=5e-4)
    assert metrics["NDCG@20"] == pytest.approx(0.194, abs=5e-4)


def test_validation_items_are_left_out_when_testing_and_only_then():
    from model import TwoBP
    from parse import parse_args

    data = interactions(train={(0, 0)}, valid={(0, 1)}, test={(0, 2)}, shape=(1, 23))
    model = TwoBP(data, parse_args(["--dim", "1"]), torch.device("cpu"))
    with torch.no_grad():
        model.encoder.user[:] = 1.0
        model.encoder.item[:, 0] = -torch.arange(23.0)  # ranked 0, 1, 2, ...
    assert model.evaluate("test")["NDCG@5"] == 1.0  # 0 and 1 are out, 2 comes first
    assert model.evaluate("valid")["NDCG@5"] == 1.0  # only 0 is out
