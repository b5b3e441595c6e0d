"""AUC, gAUC and logloss against scikit-learn and a loop over pairs; ties; users with one class."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from families.clicks.metrics import auc, auc_by_group, click_metrics, gauc, logloss
from families.clicks.reader import NO_USER


def made(rows, values, users, seed=0):
    """Labels, scores of so many different values, users of any number: (rows,) each, in numpy."""
    random = np.random.default_rng(seed)
    labels = (random.random(rows) < 0.3).astype(np.float32)
    scores = (
        random.integers(values, size=rows) / values * 0.8 + 0.2 * labels * random.random()
    ).astype(np.float32)
    names = random.integers(-(2**62), 2**62, size=users)  # hashes may be negative
    return labels, scores, random.choice(names, rows)


def on(device, *columns):
    return [torch.tensor(column, device=device) for column in columns]


@pytest.mark.parametrize("values", [2, 10, 1_000_000])
@pytest.mark.parametrize("rows", [50, 5000])
def test_auc_is_that_of_scikit_learn(device, rows, values):
    labels, scores, _ = made(rows, values, 1)
    found = auc(*on(device, labels, scores))
    assert found == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert auc(*on(device, labels, -scores)) == pytest.approx(1 - found, abs=1e-12)


def test_auc_by_pairs(device):
    """Each pair of a click and another impression counts 1, half for equal scores, or 0."""
    labels, scores, _ = made(80, 7, 1, seed=1)
    pairs = [(click, other) for click in scores[labels == 1] for other in scores[labels == 0]]
    expected = np.mean([(click > other) + (click == other) / 2 for click, other in pairs])
    assert auc(*on(device, labels, scores)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("values", [3, 1_000_000])
def test_gauc_by_a_loop_over_users(device, values):
    labels, scores, users = made(3000, values, 400, seed=2)
    total = weight = left_out = 0
    for user in np.unique(users):
        own = users == user
        if len(set(labels[own])) == 1:
            left_out += 1
            continue
        total += own.sum() * roc_auc_score(labels[own], scores[own])
        weight += own.sum()
    assert left_out > 10
    assert gauc(*on(device, labels, scores, users)) == pytest.approx(total / weight, abs=1e-12)


def test_rows_of_unknown_users_are_left_out(device):
    """They are no user, though half of all impressions; the rest is as scikit-learn has it."""
    labels, scores, users = made(2000, 10, 50, seed=5)
    known = np.arange(2000) % 2 == 1
    users[~known] = NO_USER
    own = [users == user for user in np.unique(users[known])]
    own = [rows for rows in own if len(set(labels[rows])) == 2]
    expected = np.average(
        [roc_auc_score(labels[rows], scores[rows]) for rows in own],
        weights=[rows.sum() for rows in own],
    )
    assert gauc(*on(device, labels, scores, users)) == pytest.approx(expected, abs=1e-12)
    assert math.isnan(gauc(*on(device, labels, scores, np.full_like(users, NO_USER))))


def test_users_with_one_class_are_left_out(device):
    labels, scores, users = (
        [1.0, 0.0, 0.0, 1.0, 1.0, 0.0],
        [0.9, 0.1, 0.8, 0.2, 0.3, 0.4],
        [1, 1, 2, 3, 3, 1],
    )
    assert gauc(*on(device, labels, scores, users)) == 1.0
    auc_values, size = auc_by_group(*on(device, labels, scores, users))
    assert (auc_values.isnan().tolist(), size.tolist()) == ([False, True, True], [3, 1, 2])
    assert math.isnan(auc(*on(device, [1.0, 1.0], [0.2, 0.3])))
    assert math.isnan(auc(*on(device, [0.0, 0.0], [0.2, 0.3])))


def test_a_constant_prediction_is_worth_a_half(device):
    labels, _, users = made(1000, 2, 60, seed=3)
    constant = np.full(len(labels), 0.3, np.float32)
    metrics = click_metrics(*on(device, labels, constant, users))
    assert (metrics["AUC"], metrics["gAUC"]) == (0.5, 0.5)
    share = labels.mean()
    expected = -share * math.log(0.3) - (1 - share) * math.log(0.7)
    assert metrics["logloss"] == pytest.approx(expected, rel=1e-6)


def test_logloss_is_that_of_scikit_learn(device):
    labels, scores, _ = made(2000, 1_000_000, 1, seed=4)
    probabilities = np.clip(scores, 0.01, 0.99).astype(np.float64)
    assert logloss(*on(device, labels, probabilities)) == pytest.approx(
        log_loss(labels, probabilities), rel=1e-12
    )


def test_logloss_of_certainty_is_finite(device):
    """A certain and wrong prediction costs -log(1e-7); a certain and right one next to nothing."""
    assert logloss(*on(device, [1.0, 0.0], [0.0, 1.0])) == pytest.approx(7 * math.log(10), rel=1e-6)
    assert logloss(*on(device, [1.0, 0.0], [1.0, 0.0])) == pytest.approx(1e-7, rel=1e-3)


def test_metrics_without_users(device):
    labels, scores, users = on(device, *made(100, 10, 5))
    assert tuple(click_metrics(labels, scores)) == ("AUC", "logloss")
    assert tuple(click_metrics(labels, scores, users)) == ("AUC", "gAUC", "logloss")
