"""Loss and gradient in closed form, the moving aggregation against loops, a toy data set."""

import numpy as np
import pytest
import torch
from tools import build, loop_aggregation

from engine.tables import value_and_gradients
from model import moving_aggregation

GRADIENTS = ("OneBP", "TwoBP")


@pytest.mark.parametrize("name", GRADIENTS)
def test_toy_answer(name, device):
    model = build(name, "--dim", 8, "--lr", 0.02, "--batch_size", 64, "--beta", 0.9, device=device)
    for _ in range(120):
        loss = model.train_epoch(0.02, lambda: None)
    assert loss < 0.2
    metrics = model.evaluate("test")
    assert metrics["Recall@5"] == 1.0
    assert metrics["NDCG@5"] == 1.0


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradient_closed_form(name, device):
    """dL/dq_j = sum over the batch of (softmax_j - [j is the positive]) p_u / (t B).

    Likewise dL/dp_u for TwoBP.
    """
    model = build(name, "--dim", 5, "--temperature", 0.5, device=device)
    p, q = (table.cpu().double().numpy() for table in model.encodings())
    users, items = [0, 1, 0, 9], [1, 2, 3, 8]
    negatives = [[20, 21], [21, 21], [20, 30], [0, 31]]
    places = {"user": torch.tensor(users, device=device)}
    # (1 + N, B)
    places["item"] = torch.tensor([items, *zip(*negatives, strict=True)], device=device)
    trained = {name: model.weights[name] for name in model.optimizer.tables}
    constant = {name: table for name, table in model.weights.items() if name not in trained}
    _, gradients = value_and_gradients(
        model.loss, trained, constant, places, places["user"], places["item"][0], None
    )

    grad_p, grad_q = np.zeros_like(p), np.zeros_like(q)
    for user, item, others in zip(users, items, negatives, strict=True):
        candidates = [item, *others]
        weight = np.exp(q[candidates] @ p[user] / 0.5)
        weight /= weight.sum()
        weight[0] -= 1
        for candidate, slope in zip(candidates, weight, strict=True):
            grad_q[candidate] += slope * p[user] / (0.5 * len(users))
            grad_p[user] += slope * q[candidate] / (0.5 * len(users))
    np.testing.assert_allclose(gradients["item"].cpu(), grad_q, atol=1e-7)
    if name == "OneBP":
        assert "user" not in gradients
    else:
        np.testing.assert_allclose(gradients["user"].cpu(), grad_p, atol=1e-7)


def test_onebp_moves_the_batch_users_towards_the_updated_items(device):
    model = build("OneBP", "--dim", 5, "--beta", 0.8, "--lr", 0.1, device=device)
    before = model.encoder.user.detach().clone()
    users, items = torch.tensor([3, 7], device=device), torch.tensor([1, 2], device=device)
    model.optimizer.prepare(0.1)
    model.train_step((users, items, torch.tensor([[20, 21]], device=device)))
    expected = before.clone()
    expected[users] = 0.8 * before[users] + 0.2 * model.encoder.item.detach()[items]
    torch.testing.assert_close(model.encoder.user.detach(), expected)


@pytest.mark.parametrize("how", ["mean", "sequential", "last"])
@pytest.mark.parametrize(("batch", "users"), [(1, 5), (64, 5), (64, 1), (300, 400)])
def test_aggregation_against_a_loop(device, how, batch, users):
    random = np.random.default_rng(batch + users)
    p, q = random.normal(size=(users, 3)), random.normal(size=(batch, 3))
    chosen = random.integers(users, size=batch)
    found = torch.tensor(p, device=device)
    moving_aggregation(
        found, torch.tensor(chosen, device=device), torch.tensor(q, device=device), 0.9, how
    )
    np.testing.assert_allclose(
        found.cpu(), loop_aggregation(p, chosen.tolist(), q, 0.9, how), rtol=1e-12, atol=1e-12
    )


def test_mean_does_not_depend_on_the_order_in_the_batch(device):
    random = np.random.default_rng(0)
    # sums are exact
    q = torch.tensor(random.integers(-8, 8, size=(50, 4)), dtype=torch.float32, device=device)
    users, order = (
        torch.tensor(random.integers(6, size=50), device=device),
        torch.tensor(random.permutation(50)),
    )
    results = []
    for index in (torch.arange(50), order):
        p = torch.ones(6, 4, device=device)
        moving_aggregation(p, users[index.to(device)], q[index.to(device)], 0.5, "mean")
        results.append(p)
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


def test_l2_is_adams_weight_decay():
    """Without a gradient (an item in no batch) weight decay alone moves an item, towards 0."""
    model = build("OneBP", "--l2", 0.1, "--lr", 1e-3, "--dim", 4)
    before = model.encoder.item.detach()[31].clone()
    model.optimizer.prepare(1e-3)
    model.train_step((torch.tensor([0]), torch.tensor([1]), torch.tensor([[9]])))
    after = model.encoder.item.detach()[31]
    # Adam's first step: lr * sign
    torch.testing.assert_close(after, before - 1e-3 * before.sign(), atol=1e-6, rtol=0)
