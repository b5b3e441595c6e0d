"""OneBP and TwoBP against all items: a slow reference with every score, gradients, whole runs."""

import numpy as np
import pytest
import torch
from tools import build, made_data, toy_data

from checkpointing.files import load_checkpoint
from engine.all_items import cosine_error, sums_matrices
from engine.tables import value_and_gradients

USERS, ITEMS, DIM = 6, 20, 5


@pytest.fixture
def batch():
    """Items (I, D) of length 1 and the interactions of a batch; the last user keeps no item."""
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(ITEMS, DIM, generator=generator, dtype=torch.float64)
    pairs = (torch.rand(USERS, ITEMS, generator=generator) < 0.4).nonzero()
    kept = torch.rand(len(pairs), generator=generator) < 0.5
    kept &= pairs[:, 0] < USERS - 1
    return torch.nn.functional.normalize(a, dim=1), *pairs.T, kept


def slow_error(a, row, items, kept, constant):
    """The error of each user, with a score of every item. constant: no gradient through users"""
    errors = []
    for user in range(USERS):
        x, x_kept = torch.zeros(2, ITEMS, dtype=a.dtype)
        x[items[row == user]] = 1
        x_kept[items[(row == user) & kept]] = 1
        p = a.T @ x_kept
        y = a @ (p.detach() if constant else p) - x_kept
        length = y.norm().clamp(min=1e-3)
        errors.append((2 - 2 * (x @ y) / (x.norm() * length))[None])
    return torch.cat(errors)


def fast_error(a, row, items, kept, constant):
    matrix, transpose = (m.to(a.dtype) for m in sums_matrices(row, items, kept, (USERS, ITEMS)))
    some, others = (matrix.to_dense() @ a).chunk(2)
    assert (transpose.to_dense() == matrix.to_dense().T).all()
    sizes = (torch.bincount(r, minlength=USERS).to(a.dtype) for r in (row, row[kept]))
    p = some.detach() if constant else some
    return cosine_error(p, some + others, some, a.T @ a, *sizes)


@pytest.mark.parametrize("constant", [True, False])
def test_error_and_gradient_equal_those_of_all_scores(batch, constant):
    a, *rest = batch
    found = []
    for error in (fast_error, slow_error):
        leaf = a.clone().requires_grad_()
        errors = error(leaf, *rest, constant)
        errors.mean().backward()
        found.append((errors.detach(), leaf.grad))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=1e-9)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=1e-9)
    assert found[0][0][-1] == 2  # nothing was kept


@pytest.mark.parametrize("name", ["OneBP", "TwoBP"])
def test_gradient_equals_finite_differences(name):
    """Of OneBP with the users held: no gradient goes through them."""
    model = build(name, "--loss", "ELSA", "--dim", 4, "--batch_size", 8, data=made_data(12, 9, 60))
    users, *matrices, sizes = next(model.schedule.batches())
    matrices = [matrix.double() for matrix in matrices]
    table = model.weights["item"].double()
    sums = None

    def loss(weights):
        return model.loss(weights, {}, {}, users, *matrices, sizes)

    def encode(found):
        nonlocal sums
        sums = found.detach() if sums is None else sums
        return sums

    if name == "OneBP":
        model.encode = encode
    _, gradients = value_and_gradients(loss, {"item": table})
    for index in ((0, 0), (3, 2), (8, 3)):
        ends = []
        for step in (1e-5, -1e-5):
            moved = table.clone()
            moved[index] += step
            ends.append(loss({"item": moved}))
        slope = (ends[0] - ends[1]) / 2e-5
        assert slope.item() == pytest.approx(gradients["item"][index].item(), abs=1e-6)


@pytest.mark.parametrize("name", ["OneBP", "TwoBP"])
def test_a_toy_data_set_is_solved(name):
    model = build(name, "--loss", "ELSA", "--dim", 16, "--batch_size", 8)
    for _ in range(40):
        model.train_epoch(0.05, lambda: None)
    assert model.evaluate("test")["Recall@5"] == 1


def test_a_new_user_is_the_sum_of_the_users_items():
    """A history of a trained user gives that user's encoding; none gives the mean user."""
    data = toy_data()
    model = build("OneBP", "--loss", "ELSA", "--dim", 8, "--batch_size", 8)
    model.train_epoch(0.05, lambda: None)
    users, items = model.encodings()
    own = torch.as_tensor(data.train[[5]].indices.astype(np.int64))
    trained = torch.ones(len(users), dtype=torch.bool)
    found = model.encode_history(torch.zeros_like(own), own, 2, trained)
    torch.testing.assert_close(found[0], users[5])
    torch.testing.assert_close(found[1], users.mean(0))
    torch.testing.assert_close(items.norm(dim=1), torch.ones(len(items)))


def test_resume_is_exact(cli, work):
    flags = "--loss", "ELSA", "--dim", 8, "--batch_size", 100, "--epochs", 4
    assert cli(*flags, "--run_name", "whole")[0] == 0
    assert cli(*flags[:-1], 2, "--lr_schedule", "step", "--run_name", "step")[0] == 0
    assert cli(*flags, "--lr_schedule", "step", "--run_name", "step4")[0] == 0
    status, _, errors = cli(
        *flags, "--lr_schedule", "step", "--run_name", "step", "--train_mode", "continue"
    )
    assert status == 0, errors
    ends = [load_checkpoint(work / f"checkpoints/{name}/last.pt") for name in ("step", "step4")]
    for one, other in zip(*(end["model"]["encoder"].values() for end in ends), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--encoder MLP", "--loss ELSA is for --encoder MF"),
        ("--model TwoBP --beta 0.9", "leave --beta out"),
        ("--similarity cosine", "leave --similarity out"),
        ("--regularizer lambdaopt", "take --l2, not --regularizer lambdaopt"),
        ("--sampler uniform", "--loss ELSA has no negatives"),
        ("--temperature 2", "--temperature does nothing with --loss ELSA"),
    ],
)
def test_what_makes_no_sense_is_refused(cli, flags, message):
    status, _, errors = cli("--loss", "ELSA", *flags.split())
    assert status == 2
    assert message in errors
