"""Baselines against their definitions and on the toy data set."""

import json
import sys

import numpy as np
import pytest
import torch
from tools import build, finish, interactions, made_data, start, toy_data

from utils import cpu_threads


def test_ease_is_the_least_squares_solution_with_a_zero_diagonal(device):
    """Column by column, without the item's own column."""
    data = made_data(users=30, items=12, count=200)
    model = build("EASE", "--reg", 2.5, data=data, device=device)
    loss = model.train_epoch(0.0, lambda: None)
    x = data.train.toarray().astype(float)
    b = np.zeros((12, 12))
    for item in range(12):
        others = [other for other in range(12) if other != item]
        part = x[:, others]
        b[others, item] = np.linalg.solve(part.T @ part + 2.5 * np.eye(11), part.T @ x[:, item])
    np.testing.assert_allclose(model.weights.cpu(), b, atol=1e-5)
    squares = np.sum((x - x @ b) ** 2) + 2.5 * np.sum(b**2)
    assert loss * data.train.nnz == pytest.approx(squares, rel=1e-5)
    users = torch.tensor([3, 3, 0], device=device)
    scores = torch.empty(3, 12, device=device)
    model.score(users, scores)
    np.testing.assert_allclose(scores.cpu(), (x @ b)[[3, 3, 0]], atol=1e-5)


def test_popularity_scores_by_count():
    data = interactions({(0, 1), (1, 1), (1, 2), (2, 0)}, {(0, 2)}, (3, 4))
    model = build("Popularity", data=data)
    scores = torch.empty(1, 4)
    model.scorer().score(torch.tensor([2]), scores)
    assert scores.tolist() == [[1, 2, 1, 0]]
    assert model.train_epoch(0.0, lambda: None) == pytest.approx(
        -np.log([0.5, 0.5, 0.25, 0.25]).mean()
    )


def test_als_solves_its_normal_equations(device):
    """After an iteration the items minimise the weighted sum of squares, the users as they are."""
    pytest.importorskip("implicit")
    data = made_data(users=30, items=20, count=300)
    model = build("ALS", "--dim", 4, "--reg", 0.7, "--confidence", 3, data=data, device=device)
    for _ in range(30):
        model.train_epoch(0.0, lambda: None)
    p, q = (part.cpu().double().numpy() for part in model.encodings())
    x = data.train.toarray().astype(float)
    for item in range(20):
        weight = np.where(x[:, item] > 0, 3.0, 1.0)
        exact = np.linalg.solve((p.T * weight) @ p + 0.7 * np.eye(4), (p.T * weight) @ x[:, item])
        # implicit makes three steps of conjugate gradients
        np.testing.assert_allclose(q[item], exact, atol=2e-3)


@pytest.mark.parametrize("flags", ["EASE --reg 0.1", "ALS --reg 0.1", "Walk", "ItemKNN"])
def test_toy_answer(flags, device):
    if "ALS" in flags:
        pytest.importorskip("implicit")
    model = build(*flags.split(), data=toy_data(), device=device)
    for _ in range(model.args.epochs):
        model.train_epoch(0.0, lambda: None)
    assert model.evaluate("test")["Recall@5"] == 1.0


@pytest.mark.parametrize("name", ["Popularity", "EASE", "ALS", "Walk", "ItemKNN"])
def test_command(cli, work, name):
    """The same files as any other run, and the metrics of the same ranking.

    ALS in a new process: implicit warns where NumPy was loaded for several threads.
    """
    words = ("--model", name, "--device", "cpu")
    if name == "ALS":
        pytest.importorskip("implicit")
        status, _, stderr = finish(start(*words))
    else:
        status, _, stderr = cli(*words)
    assert (status, stderr) == (0, "")
    summary = json.loads((work / f"runs/demo-{name}/summary.json").read_text())
    popularity = summary["baselines"]["Popularity"]["Recall@20"]
    assert (
        summary["last"]["Recall@20"] == popularity
        if name == "Popularity"
        else summary["last"]["Recall@20"] > 0.47
    )
    assert (work / f"checkpoints/demo-{name}/best.pt").is_file()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            "--model EASE --reg 1e39",
            "--reg 1e+39 leaves EASE no solution in single precision; change it",
        ),
        ("--model ALS --reg 1e-30 --confidence 1e38", "raise --reg or lower --confidence"),
    ],
)
def test_weights_without_a_solution(cli, flags, words, threads):
    if "ALS" in flags:
        pytest.importorskip("implicit")
    with cpu_threads(threads):
        status, _, stderr = cli(*flags.split())
    assert (status, stderr.count("\n")) == (2, 1)
    assert words in stderr


def test_als_goes_on_exactly(cli, work):
    pytest.importorskip("implicit")
    assert cli("--model", "ALS", "--epochs", 4, "--run_name", "whole")[0] == 0
    assert cli("--model", "ALS", "--epochs", 2, "--run_name", "parts")[0] == 0
    assert (
        cli("--model", "ALS", "--epochs", 4, "--run_name", "parts", "--train_mode", "continue")[0]
        == 0
    )
    whole, parts = (
        (work / f"checkpoints/{name}/last.pt").read_bytes() for name in ("whole", "parts")
    )
    assert whole == parts


def test_without_implicit(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "implicit.cpu.als", None)
    status, _, stderr = cli("--model", "ALS")
    assert status == 2
    assert stderr.count("\n") == 1
    assert "pip install implicit" in stderr
