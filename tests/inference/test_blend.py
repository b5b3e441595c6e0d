"""--blend against standardised scores by hand, from two trained runs."""

import numpy as np
import pandas as pd
import pytest
import torch
from tools import build, made_data

from inference.blend import WEIGHTS, Blend, to_one_scale_

RUNS = (
    ("--epochs", 6, "--lr", 0.02, "--dim", 8, "--run_name", "towers"),
    ("--model", "Walk", "--walk_beta", 0.6, "--run_name", "walk"),
)


@pytest.fixture
def runs(work, cli):
    for flags in RUNS:
        assert cli(*flags, "--select", "valid")[0] == 0
    return work


def standardised(model):
    out = torch.empty(model.data.shape, device=model.device)
    model.scorer().score(torch.arange(len(out), device=model.device), out)
    scores = out.cpu().double().numpy()
    deviation = np.maximum(scores.std(1, keepdims=True), 1e-30)  # a user without items: 0
    return (scores - scores.mean(1, keepdims=True)) / deviation


def test_scores_are_the_weighted_sum_of_standardised_ones(device):
    data = made_data(users=30, items=40, count=200)
    model, other = (build(name, data=data, device=device) for name in ("OneBP", "EASE"))
    other.train_epoch(0.0, lambda: None)
    blend = Blend(model, other, 0.7)
    users = torch.tensor([5, 0, 29, 5], device=device)
    out = torch.empty(4, 40, device=device)
    blend.scorer().score(users, out)
    expected = standardised(model) + 0.7 * standardised(other)
    np.testing.assert_allclose(out.cpu(), expected[users.cpu()], atol=1e-4)

    # A user without training has what both models have of one.
    trained = torch.as_tensor(data.train.sum(1) > 0, device=device)
    found = blend.scorer().scores_of(blend.mean_user(trained)).cpu().numpy()
    parts = [m.scorer().scores_of(m.mean_user(trained)).cpu().numpy() for m in (model, other)]
    first, second = ((part - part.mean()) / part.std() for part in parts)
    np.testing.assert_allclose(found, first + 0.7 * second, atol=1e-4)


def metrics_of(printed):
    """{metric: (test, valid)} of what --mode evaluate printed."""
    metrics = printed.split("Five groups")[0]
    rows = [line.split() for line in metrics.splitlines() if "@" in line]
    return {name: tuple(map(float, values)) for name, *values in rows}


def test_auto_is_the_best_weight_and_lists_are_those_of_the_blend(runs, cli):
    use = ("--run_name", "towers", "--blend", "walk")
    found = {}
    for weight in WEIGHTS:
        status, printed, errors = cli("--mode", "evaluate", *use, "--blend_weight", weight)
        assert (status, errors) == (0, "")
        found[weight] = metrics_of(printed)
    alone = metrics_of(cli("--mode", "evaluate", "--run_name", "towers")[1])
    assert found[0] == alone
    printed = cli("--mode", "evaluate", *use, "--blend_weight", "auto", "--select", "valid")[1]
    best = max(found, key=lambda weight: found[weight]["Recall@20"][1])
    assert best > 0
    assert f"blend_weight={best}" in printed
    assert metrics_of(printed) == found[best]

    # The first items of the lists are hits as often as the evaluation says.
    how = ("--topk", 20, "--users", "all", "--output", "lists.csv", "--blend_weight", best)
    assert cli("--mode", "recommend", *use, *how)[0] == 0
    lists = pd.read_csv("lists.csv")
    assert len(lists) == lists["user"].nunique() * 20
    alone = ("--mode", "recommend", "--run_name", "towers", "--topk", 20, "--users", "all")
    assert cli(*alone, "--output", "alone.csv")[0] == 0
    assert not lists["item"].equals(pd.read_csv("alone.csv")["item"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--blend nothing", "no checkpoint at checkpoints/nothing/best.pt"),
        ("--blend_weight 2", "--blend_weight needs --blend"),
        ("--blend walk --model TwoBP", "was trained with --model OneBP"),
    ],
)
def test_what_cannot_be_blended_is_told(runs, cli, words, message):
    status, _, errors = cli("--mode", "evaluate", "--run_name", "towers", *words.split())
    assert (status, errors.count("\n")) == (2, 1)
    assert message in errors


def test_auto_needs_a_validation_split(work, cli):
    for flags in RUNS:
        assert cli(*flags)[0] == 0
    use = ("--mode", "evaluate", "--run_name", "towers", "--blend", "walk")
    status, _, errors = cli(*use, "--blend_weight", "auto")
    assert status == 2
    assert "--blend_weight auto chooses on the validation split" in errors
    status, _, errors = cli("--mode", "train", "--blend", "walk")
    assert status == 2
    assert "--blend does nothing with --mode train, only with evaluate or recommend" in errors


def test_scores_that_are_all_the_same_add_nothing():
    scores = torch.stack([torch.full((1682,), 0.1), torch.zeros(1682), torch.arange(1682.0)])
    found = to_one_scale_(scores)
    assert (found[:2] == 0).all()
    assert found[2].std(correction=0) == pytest.approx(1)


def test_a_blend_of_ratings_is_for_lists_alone(work, cli):
    for name in ("a", "b"):
        words = ("--model", "SVD", "--dim", 4, "--epochs", 1, "--run_name", name)
        assert cli(*words, "--select", "valid")[0] == 0
    use = ("--run_name", "a", "--blend", "b")
    lists = ("--mode", "recommend", *use, "--users", "all", "--output", "recs.csv")
    assert cli(*lists)[::2] == (0, "")
    for words in ((), ("--blend_weight", "auto", "--select", "valid")):
        status, _, stderr = cli("--mode", "evaluate", *use, *words)
        assert (status, stderr.count("\n")) == (2, 1)
        assert "is of --model SVD: a blend of ratings has another scale" in stderr
