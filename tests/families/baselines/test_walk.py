"""Walk against its formula, the exponent that validation chooses, and --refit with it."""

import json

import numpy as np
import pytest
import torch
from tools import build, made_data, random_matrix, split_per_user

from checkpointing.files import load_checkpoint
from engine import walk
from families.baselines.walk import BETAS, STRENGTHS
from sources.interactions import Interactions

USERS, ITEMS = 60, 40


def validated_data():
    """Random data with a validation split."""
    random = np.random.default_rng(5)
    rest, test = split_per_user(random_matrix(USERS, ITEMS), 0.3, random)
    train, valid = split_per_user(rest, 0.3, random)
    ids = [[str(index) for index in range(size)] for size in (USERS, ITEMS)]
    return Interactions("made", *ids, train, valid, test, digest="made")


def scores_by_hand(train, alpha, beta):
    """The formula of Walk, one walk after the other: scores (U, I)."""
    x = train.toarray()
    count, degree = x.sum(0), x.sum(1)
    scores = np.zeros(x.shape)
    for user, item in np.argwhere(x):
        for other in np.flatnonzero(x[:, item]):
            for end in np.flatnonzero(x[other]):
                scores[user, end] += 1 / count[item] ** alpha / degree[other] / count[end] ** beta
    return scores


def scores_of(model, users):
    out = torch.full((len(users), model.data.shape[1] + 3), 7.0, device=model.device)
    model.scorer().score(torch.as_tensor(users, device=model.device), out[:, :-3])
    assert (out[:, -3:] == 7).all()
    return out[:, :-3].cpu().numpy()


@pytest.mark.parametrize(("alpha", "beta"), [(0, 0), (0.5, 0.3), (1, 0.8)])
def test_scores_are_those_of_the_formula(alpha, beta, device, monkeypatch):
    """Users in any order, also twice, and by few at a time; some items have no user."""
    data = made_data(users=30, items=50, count=150)
    assert (data.train.sum(0) == 0).any()
    flags = ("--walk_alpha", alpha, "--walk_beta", beta)
    model = build("Walk", *flags, data=data, device=device)
    expected = scores_by_hand(data.train, alpha, beta)
    users = [4, 29, 4, 0, 11]
    np.testing.assert_allclose(scores_of(model, users), expected[users], rtol=1e-4)
    monkeypatch.setattr(walk, "BLOCK", 2 * 50)
    np.testing.assert_allclose(scores_of(model, users), expected[users], rtol=1e-4)


def test_sharpened_scores_are_those_of_the_formula(device, monkeypatch):
    """The second walk by dense matrices; a user without items has scores of 0."""
    data = made_data(users=30, items=50, count=60)
    flags = ("--walk_alpha", 0.6, "--walk_beta", 0.3)
    model = build("Walk", *flags, "--walk_sharpen", 0.4, data=data, device=device)
    model.train_epoch(0.0, lambda: None)
    x = data.train.toarray()
    assert (x.sum(1) == 0).any()
    first = scores_by_hand(data.train, 0.6, 0.3)
    to_items = (x / np.maximum(x.sum(1, keepdims=True), 1)).T @ x  # (I, I)
    root = np.maximum(x.sum(0), 1) ** 0.5
    again = (first / root) @ to_items.T / root
    ratio = np.linalg.norm(first, axis=1) / np.maximum(np.linalg.norm(again, axis=1), 1e-30)
    expected = first - 0.4 * ratio[:, None] * again
    monkeypatch.setattr(walk, "BLOCK", 3 * 50)
    np.testing.assert_allclose(scores_of(model, range(30)), expected, rtol=1e-4, atol=1e-6)


def test_auto_is_the_best_strength_on_the_validation_split(device):
    """As if each strength of the list had been given, with the exponent that is chosen before."""
    data, common = validated_data(), ("--select", "valid", "--walk_beta", "auto")
    model = build("Walk", "--walk_sharpen", "auto", *common, data=data, device=device)
    model.train_epoch(0.0, lambda: None)
    chosen, found = model.chosen_flags(), {}
    for strength in STRENGTHS:
        other = build("Walk", "--walk_sharpen", strength, *common, data=data, device=device)
        other.train_epoch(0.0, lambda: None)
        assert other.chosen_flags() == {"walk_beta": chosen["walk_beta"]}
        found[strength] = other.evaluate("valid")["Recall@20"]
    assert len(set(found.values())) > 5
    assert chosen["walk_sharpen"] == max(found, key=found.get)


def test_a_walk_of_probabilities_ends_somewhere(device):
    """With alpha = 1 and beta = 0 the scores of a user sum to the number of the user's items."""
    data = made_data(users=30, items=12, count=200)
    model = build("Walk", "--walk_alpha", 1, "--walk_beta", 0, data=data, device=device)
    total = scores_of(model, range(30)).sum(1)
    np.testing.assert_allclose(total, data.train.sum(1), rtol=1e-5)


@pytest.mark.parametrize("ranking", ["users", "pairs"])
def test_auto_is_the_best_exponent_on_the_validation_split(ranking, device, monkeypatch):
    """As if each exponent of the grid had been given; the walk is computed once, by blocks."""
    monkeypatch.setattr("evaluate.BLOCK_SCORES", 7 * ITEMS)
    data, common = validated_data(), ("--select", "valid", "--ranking", ranking)
    found = {}
    for beta in BETAS:
        model = build("Walk", "--walk_beta", beta, *common, data=data, device=device)
        found[beta] = model.evaluate("valid")[model.evaluator.monitor]
    assert len(set(found.values())) > 5
    model = build("Walk", "--walk_beta", "auto", *common, data=data, device=device)
    walks = []
    monkeypatch.setattr(model, "scores_of_rows", counted(model.scores_of_rows, walks))
    model.train_epoch(0.0, lambda: None)
    assert len(walks) <= -(-USERS // 6)
    assert model.chosen_flags() == {"walk_beta": max(found, key=found.get)}
    assert model.evaluate("valid")[model.evaluator.monitor] == max(found.values())


def counted(function, calls):
    def count(*arguments):
        calls.append(arguments)
        return function(*arguments)

    return count


AUTO = ("--model", "Walk", "--walk_beta", "auto", "--select", "valid", "--run_name", "r")


def test_a_run_says_and_keeps_what_it_chose(cli, work):
    status, stdout, stderr = cli(*AUTO, "--refit")
    assert (status, stderr) == (0, "")
    summary, refit = (
        json.loads((work / f"runs/{name}/summary.json").read_text()) for name in ("r", "r-refit")
    )
    chosen = summary["chosen_flags"]["walk_beta"]
    assert 0 < chosen <= 1
    assert f"flags, chosen on the validation split: walk_beta={chosen}" in stdout
    assert summary["flags"]["walk_beta"] == "auto"
    assert load_checkpoint(work / "checkpoints/r/best.pt")["chosen_flags"] == {"walk_beta": chosen}

    # The refit has the value, and has nothing to choose.
    assert (refit["flags"]["walk_beta"], refit["chosen_flags"]) == (chosen, {})
    assert stdout.count(f"walk_beta={chosen}\n") == 2  # once by the run, once by its refit
    by_hand = ("--model", "Walk", "--walk_beta", chosen, "--run_name", "given")
    assert cli(*by_hand, "--select", "valid")[0] == 0
    given = json.loads((work / "runs/given/summary.json").read_text())
    assert given["best"] == summary["best"]

    # A continuation has nothing to do, also in the refit; a killed one ends with the same metrics.
    status, stdout, stderr = cli(*AUTO, "--refit", "--train_mode", "continue")
    assert (status, stderr, stdout.count("nothing to do")) == (0, "", 2)
    (work / "runs/r/summary.json").unlink()
    assert cli(*AUTO, "--train_mode", "continue")[0] == 0
    again = json.loads((work / "runs/r/summary.json").read_text())
    assert again["chosen_flags"] == {"walk_beta": chosen}
    assert again["best"] == summary["best"]

    # Other commands use it, and refuse another value.
    stdout = cli("--mode", "evaluate", "--run_name", "r")[1]
    for split, metrics in (("test", summary["best"]), ("valid", summary["best"]["valid"])):
        assert f"{metrics['Recall@20']:.4f}" in stdout, split
    for name in ("r", "given"):
        use = ("--mode", "recommend", "--run_name", name)
        assert cli(*use, "--users", "all", "--output", name)[0] == 0
    assert (work / "r").read_bytes() == (work / "given").read_bytes()
    other = ("--mode", "evaluate", "--run_name", "r", "--model", "Walk", "--walk_beta", 0.99)
    status, _, stderr = cli(*other)
    assert status == 2
    assert f"was trained with --walk_beta {chosen}; leave --walk_beta 0.99 out" in stderr
