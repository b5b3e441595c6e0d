"""Collaborative metric learning: distances, the unit ball, the loss by a loop, a toy data set."""

import math

import numpy as np
import pytest
import torch
from tools import build

from engine.compiling import compiles
from model import Batch


def test_inner_products_are_negated_squared_distances(device):
    model = build("CML", "--dim", 5, device=device)
    generator = torch.Generator().manual_seed(0)
    p, q = torch.randn(7, 5, generator=generator), torch.randn(3, 4, 5, generator=generator)
    left, right = model.for_inner_product(p.to(device), q.to(device))
    for user in range(7):
        found = (right @ left[user]).cpu()
        np.testing.assert_allclose(found, -((p[user] - q) ** 2).sum(-1), rtol=1e-4, atol=1e-5)


def test_hinge_by_a_loop(device):
    model = build("CML", "--margin", 0.7, device=device)
    generator = torch.Generator().manual_seed(0)
    positive, negative = -torch.rand(6, generator=generator), -torch.rand(4, 6, generator=generator)
    negative[:, 0] = positive[0] - 0.7 - 1e-3  # all beyond the margin: no loss
    total = 0.0
    for place in range(6):
        violations = [0.7 + (negative[j, place] - positive[place]).item() for j in range(4)]
        weight = math.log(1 + model.data.shape[1] * sum(v > 0 for v in violations) / 4)
        total += weight * max(0.0, *violations)
    batch = Batch(None, None, None, positive.to(device), negative.to(device))
    assert model.hinge(batch, model.args).item() == pytest.approx(total / 6, rel=1e-5)


@pytest.mark.parametrize("compile", ["off", "on"])
def test_toy_answer_in_the_unit_ball(device, compile):
    if compile == "on" and not compiles(device):
        pytest.skip("torch.compile does not work here")
    torch.compiler.reset()
    model = build(
        "CML", "--dim", 8, "--batch_size", 64, "--margin", 1, "--compile", compile, device=device
    )
    for epoch in range(100):
        model.train_epoch(0.05 * (1 - epoch / 100), lambda: None)
        assert all(table.norm(dim=1).max() <= 1 + 1e-5 for table in model.weights.values())
    # the ball was reached
    assert max(table.norm(dim=1).max() for table in model.weights.values()) > 0.99
    metrics = model.evaluate("test")
    assert metrics["Recall@5"] == 1.0
    assert metrics["NDCG@5"] > 0.95
