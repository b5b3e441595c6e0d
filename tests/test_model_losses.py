"""Losses against NumPy in closed form: by their definitions, pair by pair."""

import numpy as np
import pytest
import torch
from scipy.special import expit, logsumexp
from tools import build, toy_data

from cli.registry import ENCODERS, LOSSES, OF_ALL_ITEMS, find
from model import Batch
from parse import parse_args

# The losses over all items are in tests/families/test_all_items.py.
OF_PAIRS = [name for name in LOSSES if name not in OF_ALL_ITEMS]
B, N, D = 6, 4, 3
USERS = np.array([2, 0, 2, 1, 0, 2])


def made_batch():
    random = np.random.default_rng(0)
    p, q, positive, negative = (random.normal(size=size) for size in ((B, D), (B, D), B, (N, B)))
    negative[1:3, 4] = -np.inf  # masked
    negative[0, 2] = -np.inf
    return p, q, positive, negative


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def slow_loss(name, p, q, positive, negative, gamma):
    there = [column[column > -np.inf] for column in negative.T]
    if name == "InfoNCE":
        return np.mean(
            [logsumexp([s, *others]) - s for s, others in zip(positive, there, strict=True)]
        )
    if name == "BPR":  # a masked negative has lost to every positive: nothing to do
        return -sum(
            np.log(expit(s - others)).sum() for s, others in zip(positive, there, strict=True)
        ) / (N * B)
    if name == "BCE":
        return -np.log(expit(positive)).mean() - sum(
            np.log(1 - expit(others)).sum() for others in there
        ) / (N * B)
    if name == "BSL":
        own = [np.log(np.mean(np.exp(positive[user == USERS]))) for user in USERS]
        return np.mean(
            [gamma * np.log(np.mean(np.exp(o))) - s for s, o in zip(own, there, strict=True)]
        )
    uniformity = []
    for x in (unit(p), unit(q)):
        squares = [np.sum((x[a] - x[b]) ** 2) for a in range(B) for b in range(a)]
        uniformity.append(np.log(np.mean(np.exp(-2 * np.array(squares)))))
    return np.mean(np.sum((unit(p) - unit(q)) ** 2, axis=1)) + gamma * np.mean(uniformity)


def loss(name, *parts, gamma=1.0):
    args = parse_args(["--loss", name])
    args.gamma = gamma
    return find(LOSSES, name)(
        Batch(torch.as_tensor(USERS[: len(parts[0])]), *map(torch.as_tensor, parts)), args
    )


@pytest.mark.parametrize("name", OF_PAIRS)
def test_closed_form(name):
    expected = slow_loss(name, *made_batch(), gamma=1.3)
    assert loss(name, *made_batch(), gamma=1.3).item() == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("name", OF_PAIRS)
def test_large_scores_and_masks_keep_loss_and_gradient_finite(name):
    p, q, positive, negative = made_batch()
    negative[:, 3] = -np.inf  # a user with all of the batch's items
    parts = [
        torch.as_tensor(part).requires_grad_()
        for part in (100 * p, q, 1e4 * positive, 1e4 * negative)
    ]
    value = loss(name, *parts)
    value.backward()
    assert value.isfinite()
    assert all(part.grad is None or part.grad.isfinite().all() for part in parts)


@pytest.mark.parametrize("name", OF_PAIRS)
def test_a_batch_of_one(name):
    """The last batch of an epoch may be as small as that."""
    p, q, positive, negative = (torch.as_tensor(part) for part in made_batch())
    parts = [
        part.clone().requires_grad_() for part in (p[:1], q[:1], positive[:1], negative[:, :1])
    ]
    value = loss(name, *parts)
    value.backward()
    assert value.isfinite()


COMBINATIONS = [
    *(("uniform", loss, []) for loss in ("InfoNCE", "BPR", "BCE", "BSL")),
    ("popularity", "InfoNCE", ["--alpha", 0.5]),
    ("dns", "InfoNCE", ["--candidates", 8, "--N", 3]),
    ("inbatch", "InfoNCE", []),
    ("inbatch", "BSL", ["--gamma", 1.1]),
    ("none", "DirectAU", ["--gamma", 0.5]),
]


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("model", ["OneBP", "TwoBP"])
@pytest.mark.parametrize(("sampler", "loss", "flags"), COMBINATIONS, ids=lambda value: str(value))
def test_every_combination_finds_the_toy_answer(device, model, encoder, sampler, loss, flags):
    """Cosine for a softmax or a loss made for it; a dot product where scores must grow."""
    flags = ["--sampler", sampler, "--loss", loss, "--encoder", encoder, *flags]
    if loss not in ("BPR", "BCE"):
        flags += ["--similarity", "cosine", *(["--temperature", 0.2] if loss != "DirectAU" else [])]
    size = ("--dim", 8, "--batch_size", 64, "--beta", 0.9)
    built = build(model, *size, *flags, data=toy_data(), device=device)
    for _ in range(80):
        built.train_epoch(0.02, lambda: None)
        if built.evaluate("test")["Recall@5"] == 1.0:
            return
    pytest.fail(f"Recall@5 is {built.evaluate('test')['Recall@5']} after 80 epochs")
