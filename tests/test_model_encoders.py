"""Encoders against dense references in NumPy and plain autograd."""

import numpy as np
import pytest
import torch
from tools import build, interactions

from cli.registry import ENCODERS, find
from families import model_class
from model import LightGCN
from parse import parse_args
from utils import make_generator

PAIRS = {(0, 0), (0, 1), (0, 4), (1, 1), (2, 2), (2, 0), (2, 4)}  # user 3 and item 3 have none
SHAPE = (4, 5)


def encoder(name, device, *flags):
    args = parse_args(["--encoder", name, "--dim", "3", *map(str, flags)])
    data, towers = interactions(PAIRS, {}, SHAPE), model_class(args).towers
    return find(ENCODERS, name)(data, args, make_generator(0, device), towers)


def dense_light_gcn(user, item, layers):
    """The definition, by the square matrix of all users and items."""
    r = np.zeros(SHAPE)
    r[tuple(zip(*PAIRS, strict=True))] = 1
    a = np.block([[np.zeros((4, 4)), r], [r.T, np.zeros((5, 5))]])
    degree = np.maximum(a.sum(1), 1)
    a /= np.sqrt(degree[:, None] * degree)
    layer = np.concatenate([user, item])
    total = layer.copy()
    for _ in range(layers):
        layer = a @ layer
        total += layer
    return np.split(total / (layers + 1), [4])


@pytest.mark.parametrize("layers", [1, 3])
def test_light_gcn(device, layers):
    gcn = encoder("LightGCN", device, "--layers", layers)
    found = gcn(dict(gcn.named_parameters()))
    expected = dense_light_gcn(gcn.user.cpu().numpy(), gcn.item.cpu().numpy(), layers)
    for part, exact in zip(found, expected, strict=True):
        np.testing.assert_allclose(part.cpu(), exact, atol=1e-6)


def test_light_gcn_gradient(device):
    """It is linear: the gradient of <c, encodings> in direction d is <c, encodings of d>."""
    gcn = encoder("LightGCN", device, "--layers", 2)
    random = np.random.default_rng(1)
    c, d = (
        [
            torch.tensor(random.normal(size=(n, 3)), dtype=torch.float32, device=device)
            for n in SHAPE
        ]
        for _ in "cd"
    )
    weights = {name: w.detach().clone().requires_grad_() for name, w in gcn.named_parameters()}
    sum((part * weight).sum() for part, weight in zip(gcn(weights), c, strict=True)).backward()
    along = sum(
        (w.grad * part).sum() for w, part in zip((weights["user"], weights["item"]), d, strict=True)
    )
    expected = sum((p * w).sum() for p, w in zip(gcn({"user": d[0], "item": d[1]}), c, strict=True))
    assert along.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_chosen_rows_are_rows_of_all(device, name):
    built = encoder(name, device)
    weights = dict(built.named_parameters())
    users, items = (
        torch.tensor([3, 0, 0], device=device),
        torch.tensor([[4, 1], [1, 3]], device=device),
    )
    every, chosen = built(weights), built(weights, users, items)
    torch.testing.assert_close(chosen[0], every[0][users])
    torch.testing.assert_close(chosen[1], every[1][items])  # (2, 2, D)


@pytest.mark.parametrize("model", ["OneBP", "TwoBP"])
def test_mlp(device, model):
    mlp = encoder("MLP", device, "--layers", 3, "--model", model)
    weights = {name: w.cpu().numpy() for name, w in mlp.named_parameters()}
    for kind, found in zip(("user", "item"), mlp(dict(mlp.named_parameters())), strict=True):
        x = weights[kind]
        if kind == "item" or model == "TwoBP":
            for layer in range(3):
                x = x @ weights[f"{kind}_matrices"][layer] + weights[f"{kind}_biases"][layer]
                x = np.maximum(x, 0) if layer < 2 else x
        np.testing.assert_allclose(found.cpu(), x, atol=1e-5)
    assert ("user_matrices" in weights) == (model == "TwoBP")


@pytest.mark.parametrize("name", ENCODERS)
def test_onebp_trains_no_weight_of_the_users(device, name):
    """Without a move (--beta 1) nothing of the users changes, and the items do."""
    model = build(
        "OneBP", "--encoder", name, "--dim", 4, "--beta", 1, "--batch_size", 64, device=device
    )
    before = {key: weight.clone() for key, weight in model.weights.items()}
    model.train_epoch(0.1, lambda: None)
    changed = {key for key, weight in model.weights.items() if not torch.equal(weight, before[key])}
    assert changed == {key for key in before if key.startswith("item")}


def test_onebp_moves_users_towards_what_light_gcn_puts_out(device):
    model = build("OneBP", "--encoder", "LightGCN", "--dim", 4, "--beta", 0.5, device=device)
    assert isinstance(model.encoder, LightGCN)
    before = model.encoder.user.clone()
    users, items = torch.tensor([3, 7], device=device), torch.tensor([1, 2], device=device)
    model.optimizer.prepare(0.1)
    # The encodings are those after the step and before the move.
    model.args.beta = 1.0
    model.train_step((users, items, torch.tensor([[20, 21]], device=device)))
    output = model.encodings()[1][items]
    model.args.beta = 0.5
    model.optimizer.prepare(0.0)
    model.train_step((users, items, torch.tensor([[20, 21]], device=device)))
    torch.testing.assert_close(model.encoder.user[users], 0.5 * before[users] + 0.5 * output)
