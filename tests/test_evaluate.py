"""Ranking against a slow reference that sorts in Python; closed forms; ties; popularity by hand."""

import csv
import json
from math import log2

import numpy as np
import pytest
import torch
from tools import interactions, matrix, random_matrix, split_per_user

from cli.metrics import CUTOFFS, PAIR_METRICS
from dataloader import load_dataset
from engine.metrics.accuracy import Lists
from engine.metrics.pairs import pair_metrics
from engine.topk import stable_topk
from evaluate import DotProduct, PairRanking, Ranking, popularity_encodings

METRICS = Ranking.metrics


def slow_metrics(scores, relevant, seen):
    """METRICS by the definitions: scores (U, I) as lists, relevant and seen as lists of sets."""
    sums, users = dict.fromkeys(METRICS, 0.0), 0
    for user, wanted in enumerate(relevant):
        if not wanted:
            continue
        users += 1
        candidates = [item for item in range(len(scores[user])) if item not in seen[user]]
        ranked = sorted(candidates, key=lambda item: (-scores[user][item], item))
        for k in CUTOFFS:
            hits = [rank for rank, item in enumerate(ranked[:k], 1) if item in wanted]
            ideal = sum(1 / log2(rank + 1) for rank in range(1, min(k, len(wanted)) + 1))
            precision, recall = len(hits) / k, len(hits) / len(wanted)
            sums[f"Precision@{k}"] += precision
            sums[f"Recall@{k}"] += recall
            sums[f"F1@{k}"] += 2 * precision * recall / (precision + recall) if hits else 0
            sums[f"NDCG@{k}"] += sum(1 / log2(rank + 1) for rank in hits) / ideal
    return {name: total / users for name, total in sums.items()}


def slow_pair_metrics(scores, part, seen):
    """PAIR_METRICS by the definitions: scores (U, I) as lists, part and seen as lists of sets."""
    found = {name: [] for name in PAIR_METRICS}
    for user, items in enumerate(part):
        candidates = [item for item in range(len(scores[user])) if item not in seen[user]]
        ranked = sorted(candidates, key=lambda item: (-scores[user][item], item))
        for item in items:
            rank, others = ranked.index(item) + 1, len(ranked) - 1
            found["AUC"].append((len(ranked) - rank) / others if others else 1)
            for k in (50, 100):
                found[f"HR@{k}"].append(float(rank <= k))
                found[f"NDCG@{k}"].append(1 / log2(rank + 1) if rank <= k else 0)
    return {name: sum(values) / len(values) for name, values in found.items()}


def sets(part):
    return [
        set(part.indices[part.indptr[user] : part.indptr[user + 1]].tolist())
        for user in range(part.shape[0])
    ]


@pytest.mark.parametrize(
    ("users", "items", "levels"),
    [(30, 40, 3), (30, 40, 100_000), (25, 12, 2), (5, 3, 2), (200, 300, 5)],
)
def test_ranking_equals_the_slow_reference(device, monkeypatch, users, items, levels):
    """Few levels of scores: many ties, inside the lists and across their ends.

    Empty users and short lists occur.
    """
    monkeypatch.setattr("evaluate.BLOCK_SCORES", 7 * items)  # several blocks
    random = np.random.default_rng(users * items + levels)
    pairs = set(
        zip(
            random.integers(users - 2, size=users * 5),
            random.integers(items, size=users * 5),
            strict=True,
        )
    )
    train, test = split_per_user(matrix(pairs, (users, items)), 0.4, random)
    train, valid = split_per_user(train, 0.3, random)
    scores = random.integers(levels, size=(users, items))
    p, q = (
        torch.eye(users, device=device),
        torch.as_tensor(scores.T, dtype=torch.float32, device=device).contiguous(),
    )

    found = Ranking(test, [train, valid], device).evaluate(DotProduct(p, q))
    seen = [
        of_train | of_valid for of_train, of_valid in zip(sets(train), sets(valid), strict=True)
    ]
    assert found == pytest.approx(slow_metrics(scores.tolist(), sets(test), seen), abs=1e-12)


@pytest.mark.parametrize(
    ("users", "items", "levels"),
    [(30, 200, 3), (30, 200, 100_000), (25, 12, 2), (20, 300, 1), (5, 3, 2)],
)
def test_pairs_equal_the_slow_reference(device, monkeypatch, users, items, levels):
    """Ties, lists shorter than 50, empty users, users with no item left but one.

    One level is a constant model.
    """
    random, shape = np.random.default_rng(users * items + levels), (users, items)
    drawn = random.integers(1, users - 2, size=users * 20), random.integers(items, size=users * 20)
    pairs = {*zip(*drawn, strict=True)} | {(1, item) for item in range(items)}
    train, test = split_per_user(matrix(pairs, shape), 0.4, random)
    train, valid = split_per_user(train, 0.3, random)
    train = train + matrix({(0, item) for item in range(items - 1)}, shape)
    test = test + matrix({(0, items - 1)}, shape)
    scores = random.integers(levels, size=(users, items))
    p, q = (
        torch.eye(users, device=device),
        torch.as_tensor(scores.T, dtype=torch.float32, device=device).contiguous(),
    )

    seen = [
        of_train | of_valid for of_train, of_valid in zip(sets(train), sets(valid), strict=True)
    ]
    slow = slow_metrics(scores.tolist(), sets(test), seen) | slow_pair_metrics(
        scores.tolist(), sets(test), seen
    )
    for rows in (3, 1000):  # several blocks of users, or one
        monkeypatch.setattr("evaluate.BLOCK_SCORES", rows * items)
        found = PairRanking(test, [train, valid], device).evaluate(DotProduct(p, q))
        assert tuple(found) == METRICS + PAIR_METRICS
        assert found == pytest.approx(slow, abs=1e-12)


def test_pair_metrics_by_hand():
    found = pair_metrics(torch.tensor([1, 3, 51, 101, 1]), torch.tensor([101, 101, 101, 101, 1]))
    assert found[:, 0].tolist() == [1, 0.98, 0.5, 0, 1]  # AUC
    assert found[:, 1:3].tolist() == [[1, 1], [1, 1], [0, 1], [0, 0], [1, 1]]  # HR
    assert found[:, 3].tolist() == pytest.approx([1, 0.5, 0, 0, 1])
    assert found[:, 4].tolist() == pytest.approx([1, 0.5, 1 / log2(52), 0, 1])


@pytest.mark.parametrize("value", [0.0, torch.nan, -torch.inf])
def test_pairs_of_a_model_that_knows_nothing_do_not_score(device, value):
    test, train = (
        matrix({(user, 199) for user in range(50)}, (50, 200)),
        matrix({(0, 3)}, (50, 200)),
    )
    same = torch.ones(50, 1, device=device), torch.full((200, 1), value, device=device)
    found = PairRanking(test, [train], device).evaluate(DotProduct(*same))
    assert {found[name] for name in PAIR_METRICS} == {0.0}


def test_what_is_no_number_is_behind_all_numbers(device):
    """It may not help those that it would hide."""
    test = matrix({(0, 0), (0, 1)}, (1, 200))
    q = torch.full((200, 1), torch.nan, device=device)
    q[100:] = torch.arange(100.0)[:, None]
    q[0] = 98.5
    found = PairRanking(test, [], device).evaluate(DotProduct(torch.ones(1, 1, device=device), q))
    assert found["AUC"] == pytest.approx((198 / 199 + 0) / 2)
    assert found["NDCG@50"] == pytest.approx(1 / log2(3) / 2)


def test_ranking_of_pairs_on_the_command_line(cli, work):
    """Columns, summary, choice of the epoch; a checkpoint is evaluated either way."""
    flags = ("--epochs", 3, "--dim", 8, "--ranking", "pairs", "--run_name")
    assert cli(*flags, "pairs")[0] == 0
    rows = list(csv.DictReader((work / "runs/pairs/metrics.csv").read_text().splitlines()))
    assert tuple(rows[0])[5:] == METRICS + PAIR_METRICS
    summary = json.loads((work / "runs/pairs/summary.json").read_text())
    best = max(rows, key=lambda row: float(row["NDCG@100"]))
    assert summary["best"] == {
        name: float(best[name]) for name in ("epoch", *METRICS, *PAIR_METRICS)
    }
    assert summary["baselines"]["Popularity"]["AUC"] > 0.5
    assert summary["protocol"]["pairs_evaluated"] == summary["dataset"]["test"]
    assert cli(*flags[:-3], "--run_name", "users")[0] == 0
    assert (
        tuple((work / "runs/users/metrics.csv").read_text().split("\n")[0].split(",")[5:])
        == METRICS
    )

    def metric_lines(stdout):
        return [line.split() for line in stdout.splitlines() if line.startswith((*metrics,))]

    metrics = METRICS + PAIR_METRICS
    use = ("--mode", "evaluate", "--run_name")
    for run, other, last in (("users", "pairs", "NDCG@100"), ("pairs", "users", "F1@20")):
        status, stdout, _ = cli(*use, run, "--ranking", other)
        assert status == 0
        assert metric_lines(stdout)[-1][0] == last
        status, _, stderr = cli(
            *flags[:-3], "--ranking", other, "--run_name", run, "--train_mode", "continue"
        )
        assert (status, stderr.count("\n")) == (2, 1)
        assert f"last.pt chose its best epoch by --ranking {run}; do so again" in stderr
    status, stdout, _ = cli(*use, "pairs")
    assert metric_lines(stdout)[-1] == ["NDCG@100", f"{summary['best']['NDCG@100']:.4f}"]
    assert (
        cli("--mode", "recommend", "--run_name", "pairs", "--users", "all", "--output", "recs.csv")[
            0
        ]
        == 0
    )


def test_predicted_ratings_have_no_ranking_of_pairs(cli, work):
    assert cli("--model", "SVD", "--epochs", 1, "--dim", 4, "--run_name", "mine")[0] == 0
    status, _, stderr = cli("--mode", "evaluate", "--run_name", "mine", "--ranking", "pairs")
    assert (status, stderr.count("\n")) == (2, 1)
    assert "is of --model SVD, with which --ranking does nothing; leave it out" in stderr


def test_topk_breaks_ties_by_index(device):
    random = np.random.default_rng(3)
    scores = torch.as_tensor(random.integers(4, size=(100, 30)), dtype=torch.float32, device=device)
    scores[0] = 1.0
    scores[1, 5:] = -torch.inf
    for k, groups in ((1, 1), (5, 15), (20, 30), (29, 1), (30, 6)):
        values, indices = stable_topk(scores.clone(), k, groups)
        expected = scores.sort(dim=1, stable=True, descending=True)
        assert torch.equal(values, expected.values[:, :k])
        # where nothing is left to rank, the order is nobody's business
        finite = values > -torch.inf
        assert torch.equal(indices[finite], expected.indices[:, :k][finite])


def test_a_constant_model_does_not_score(device):
    """All ties: by index, so only the users whose test items have the lowest indices are hit."""
    test = matrix({(user, 99) for user in range(50)}, (50, 100))
    same = torch.ones(50, 4, device=device), torch.ones(100, 4, device=device)
    assert set(Ranking(test, [], device).evaluate(DotProduct(*same)).values()) == {0.0}


def metrics_of_hits(hits, relevant):
    """{metric: value} of one list: hits (K,), and the user's number of relevant items."""
    lists = Lists(hits[None], torch.tensor([float(relevant)], dtype=torch.float64))
    functions = Ranking.chosen.functions.items()
    return {name: metric(lists, k).item() for name, (metric, k) in functions}


def test_metrics_by_hand():
    hits = torch.zeros(20, dtype=torch.float64)
    hits[[0, 2, 9]] = 1.0  # ranks 1, 3 and 10, of 4 relevant items
    metrics = metrics_of_hits(hits, 4)
    assert metrics["Recall@5"] == pytest.approx(2 / 4)
    assert metrics["Precision@10"] == pytest.approx(3 / 10)
    assert metrics["F1@20"] == pytest.approx(2 * 3 / (4 + 20))
    ideal = 1 + 1 / log2(3) + 1 / 2 + 1 / log2(5)
    assert metrics["NDCG@5"] == pytest.approx((1 + 1 / 2) / ideal)
    assert metrics["NDCG@20"] == pytest.approx((1 + 1 / 2 + 1 / log2(11)) / ideal)


def test_a_perfect_list_has_ndcg_1():
    for relevant in (1, 3, 7, 30):
        hits = torch.zeros(20, dtype=torch.float64)
        hits[:relevant] = 1.0
        metrics = metrics_of_hits(hits, relevant)
        assert all(metrics[f"NDCG@{k}"] == pytest.approx(1) for k in CUTOFFS)


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
