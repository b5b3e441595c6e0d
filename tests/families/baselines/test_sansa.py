"""SANSA against the dense formula, and what is said without its library."""

import sys

import numpy as np
import pytest
import torch
from tools import build, made_data


def test_with_all_numbers_kept_it_is_ease_of_scaled_items(device):
    """Some items have no user: no user gets a score for them."""
    pytest.importorskip("sansa", reason="the package sansa is not installed")
    data = made_data(users=40, items=30, count=100)
    assert (data.train.sum(0) == 0).any()
    model = build("SANSA", "--reg", 2.0, "--density", 1, data=data, device=device)
    model.train_epoch(0.0, lambda: None)
    x = data.train.toarray().astype(float)
    length = np.linalg.norm(x.T @ x, axis=0)
    scaled = x / np.sqrt(np.where(length > 0, length, 1))
    inverse = np.linalg.inv(scaled.T @ scaled + 2.0 * np.eye(30))
    expected = x @ (np.eye(30) - inverse / inverse.diagonal())
    users = torch.tensor([7, 0, 7], device=device)
    scores = torch.empty(3, 30, device=device)
    model.scorer().score(users, scores)
    np.testing.assert_allclose(scores.cpu(), expected[[7, 0, 7]], atol=1e-3)


def test_too_few_numbers_are_refused(cli):
    status, _, stderr = cli("--model", "SANSA", "--density", 1e-4)
    assert (status, stderr.count("\n")) == (2, 1)
    assert "--density 0.0001 is below 2 / 900 items" in stderr


def test_without_the_library(cli, work, monkeypatch):
    monkeypatch.setitem(sys.modules, "sansa", None)
    status, _, stderr = cli("--model", "SANSA")
    assert (status, stderr.count("\n")) == (2, 1)
    assert "pip install sansa" in stderr
    assert not (work / "runs/demo-SANSA/metrics.csv").exists()


def test_command(cli, work, monkeypatch):
    """A continuation and a list do not need the library."""
    pytest.importorskip("sansa", reason="the package sansa is not installed")
    status, stdout, stderr = cli("--model", "SANSA")
    assert (status, stderr) == (0, "")
    assert "Computing" not in stdout
    monkeypatch.setitem(sys.modules, "sansa", None)
    use = ("--mode", "recommend", "--run_name", "demo-SANSA")
    assert cli(*use, "--users", "all", "--output", "lists.csv")[0] == 0
    status, stdout, _ = cli("--model", "SANSA", "--train_mode", "continue")
    assert (status, "nothing to do" in stdout) == (0, True)


def test_a_failure_of_the_library_is_one_line(cli, monkeypatch):
    sansa = pytest.importorskip("sansa", reason="the package sansa is not installed")

    def fail(*arguments):
        raise IndexError("index 13 out-of-bounds")

    monkeypatch.setattr(sansa.SANSA, "fit", fail)
    status, _, stderr = cli("--model", "SANSA")
    assert (status, stderr.count("\n")) == (2, 1)
    assert "sansa failed (index 13 out-of-bounds); change --density or --reg" in stderr
