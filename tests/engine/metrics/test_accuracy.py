"""Metrics of accuracy against trec_eval's, on random cases with ties and short lists."""

import ir_measures
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_array

from cli.registry import ACCURACY
from engine.metrics.accuracy import Lists
from engine.metrics.chosen import Chosen
from evaluate import DotProduct, Ranking

USERS, ITEMS, CUTOFFS = 1600, 30, [1, 3, 10, 50]
# Of trec_eval's measures, those that are not named like ours. F1 is made of two of them.
THEIRS = {
    "Recall": "R",
    "Precision": "P",
    "NDCG": "nDCG",
    "HR": "Success",
    "MRR": "RR",
    "MAP": "AP",
}


@pytest.fixture(scope="module")
def cases():
    """(scores (U, I), seen and wanted, bool (U, I)): few levels of scores; full and short lists."""
    random = np.random.default_rng(5)
    levels = random.integers(1, 12, size=(USERS, 1))  # 1: a constant model
    scores = random.integers(levels, size=(USERS, ITEMS)).astype(np.float32)
    seen = random.random((USERS, ITEMS)) < random.choice([0, 0.2, 0.95], size=(USERS, 1))
    wanted = (random.random((USERS, ITEMS)) < random.choice([0.05, 0.5], size=(USERS, 1))) & ~seen
    return scores, seen, wanted


def found_by(cases, metrics, monitor="Recall@10"):
    """(the users that have something to find, the evaluator after an evaluation of the cases)."""
    scores, seen, wanted = cases
    kind = Ranking.choose(list(metrics), CUTOFFS, monitor)
    split, known = (csr_array(part.astype(np.int8)) for part in (wanted, seen))
    evaluator = kind(split, [known], torch.device("cpu"))
    scorer = DotProduct(torch.eye(USERS), torch.from_numpy(scores.T).contiguous())
    return np.flatnonzero(wanted.any(1)), evaluator, evaluator.evaluate(scorer)


def test_accuracy_equals_trec_eval(cases):
    """Of each user, and the mean."""
    users, evaluator, means = found_by(cases, ACCURACY)
    ours = pd.DataFrame(torch.cat(evaluator.found.rows).numpy(), users, evaluator.found.names)
    assert len(ours) > 1000

    # trec_eval breaks ties by the items' names, so it gets scores in the order of the ranks.
    scores, seen, wanted = cases
    order = np.argsort(np.where(seen, np.inf, -scores), axis=1, kind="stable")
    rank = order.argsort(axis=1)
    unseen = [np.flatnonzero(~seen[user]) for user in users]
    run = {
        f"u{user}": {f"i{item}": float(-rank[user, item]) for item in items}
        for user, items in zip(users, unseen, strict=True)
    }
    truth = {f"u{user}": {f"i{item}": 1 for item in np.flatnonzero(wanted[user])} for user in users}
    measures = [
        ir_measures.parse_measure(f"{theirs}@{k}") for theirs in THEIRS.values() for k in CUTOFFS
    ]
    rows = pd.DataFrame(
        (int(value.query_id[1:]), str(value.measure), value.value)
        for value in ir_measures.iter_calc(measures, truth, run)
    )
    theirs = rows.pivot_table(index=0, columns=1, values=2).loc[users]
    for name, other in THEIRS.items():
        for k in CUTOFFS:
            np.testing.assert_allclose(ours[f"{name}@{k}"], theirs[f"{other}@{k}"], atol=1e-9)
    for k in CUTOFFS:
        r, p = theirs[f"R@{k}"], theirs[f"P@{k}"]
        np.testing.assert_allclose(ours[f"F1@{k}"], (2 * r * p / (r + p)).fillna(0), atol=1e-9)
    assert means == pytest.approx(ours.mean().to_dict(), abs=1e-12)


def test_accuracy_by_hand():
    hits = torch.zeros(1, 10, dtype=torch.float64)
    hits[0, [1, 3]] = 1.0  # ranks 2 and 4, of 3 relevant items
    lists = Lists(hits, torch.tensor([3.0], dtype=torch.float64))
    chosen = Chosen(["HR", "MRR", "MAP"], [1, 4])
    found = {name: metric(lists, k).item() for name, (metric, k) in chosen.functions.items()}
    assert found == pytest.approx(
        {"HR@1": 0, "HR@4": 1, "MRR@1": 0, "MRR@4": 1 / 2, "MAP@1": 0, "MAP@4": (1 / 2 + 2 / 4) / 3}
    )
