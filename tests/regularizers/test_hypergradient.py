"""lambdaOpt's gradient by the strengths against finite differences, and its two paths."""

import itertools

import numpy as np
import pytest
import torch
from tools import build, interactions

from engine import adam
from engine.compiling import compiles
from regularizers.flags import GRANULARITIES

USERS, ITEMS, DIM = 7, 9, 3
PATHS = ("truncated", "full")


def made(seed=0):
    """Interactions of few users and items, in four splits."""
    random = np.random.default_rng(seed)
    pairs = random.permutation([(u, i) for u in range(USERS) for i in range(ITEMS - 1)])[:40]
    train, tune, valid, test = (set(map(tuple, part)) for part in np.split(pairs, [22, 32, 36]))
    return interactions(train, test, (USERS, ITEMS), valid, tune)


def prepared(name, *flags, device="cpu", dtype=torch.float64):
    """A model in the midst of training, a batch and a held-out batch.

    Its strengths and moments are not 0.
    """
    words = (
        "--regularizer",
        "lambdaopt",
        "--dim",
        DIM,
        "--batch_size",
        8,
        "--compile",
        "off",
        *flags,
    )
    model = build(name, *words, data=made(), device=device)
    generator = torch.Generator().manual_seed(3)
    tables = [*model.weights.values(), *model.regularizer.strengths.values()]
    for table in tables:
        table.data = torch.randn(table.shape, generator=generator, dtype=dtype).to(device)
    for strength in model.regularizer.strengths.values():
        strength.abs_()
    base = model.optimizer
    own = model.regularizer.optimizer
    own.moments = {
        name: tuple(m.to(dtype) for m in moments) for name, moments in own.moments.items()
    }
    for name, moments in base.moments.items():
        own = [
            torch.rand(base.tables[name].shape, generator=generator, dtype=dtype).to(device)
            for _ in moments
        ]
        # the second moments are positive
        base.moments[name] = tuple(0.01 * moment for moment in own)
    for optimizer, rate in ((base, 0.1), (model.regularizer.optimizer, 0.01)):
        optimizer.prepare(rate)
    batch = next(model.schedule.batches())
    return model, batch, model.regularizer.sampler.positives_of(batch[0])


def hypergradient_of(model, batch, held_out):
    """What `LambdaOpt.hypergradient` returns, called as a training step does."""
    seen = []
    original = model.regularizer.hypergradient
    model.regularizer.hypergradient = lambda *step: seen.append(original(*step)) or seen[-1]
    model.train_step(batch, held_out)
    return seen[0]


def held_out_loss(model, strengths, batch, held_out, moves):
    """The loss of `held_out` after an ordinary training step with fixed strengths.

    The step is the program's own.
    moves: whether the users of OneBP are moved in it.
    """
    saved = [tensor.clone() for tensor in tensors(model)]
    for name, value in strengths.items():
        model.regularizer.strengths[name].copy_(value)
    after_step = model.after_step
    if not moves:
        model.after_step = lambda *rest: None
    model.train_step(batch)
    model.after_step = after_step
    index = model.rows_of(*held_out)
    loss = model.loss(model.weights, {"user": model.weights["user"]}, index, *held_out).item()
    for tensor, value in zip(tensors(model), saved, strict=True):
        tensor.copy_(value)
    return loss


def tensors(model):
    """All that a training step changes."""
    counts = (
        [model.optimizer.done, model.optimizer.steps] if hasattr(model.optimizer, "done") else []
    )
    moments = itertools.chain(*model.optimizer.moments.values())
    return [*model.weights.values(), *moments, *model.regularizer.strengths.values(), *counts]


@pytest.mark.parametrize("name", ["TwoBP", "OneBP"])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("optimizer", ["Adam", "SGD"])
@pytest.mark.parametrize("granularity", GRANULARITIES.values())
def test_finite_differences(name, path, optimizer, granularity):
    """OneBP's users move after the step.

    The full path follows them, the truncated one leaves them where they are.
    """
    words = (
        "--loss",
        "BPR",
        "--N",
        1,
        "--optimizer",
        optimizer,
        "--granularity",
        granularity,
        "--lambda_grad",
        path,
    )
    check_differences(*prepared(name, *words), moves=path == "full")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "words",
    [
        ("--loss", "InfoNCE", "--N", 3, "--similarity", "cosine", "--temperature", 0.5),
        ("--loss", "BSL", "--N", 2),
        ("--sampler", "inbatch"),
        ("--encoder", "LightGCN", "--layers", 2),
        ("--encoder", "MLP", "--layers", 2),
    ],
    ids=lambda words: words[1],
)
def test_finite_differences_of_other_parts(words, path):
    if path == "full" and "LightGCN" in words:
        pytest.skip("refused: torch.func takes no sparse products")
    model, batch, held_out = prepared("TwoBP", *words, "--lambda_grad", path)
    if hasattr(model.encoder, "graph"):
        model.encoder.graph = [matrix.double() for matrix in model.encoder.graph]
    check_differences(model, batch, held_out, moves=True)


def check_differences(model, batch, held_out, moves, step=1e-5):
    """The gradient against central differences, entry by entry."""
    start = {name: value.clone() for name, value in model.regularizer.strengths.items()}
    saved = [tensor.clone() for tensor in tensors(model)]
    found = hypergradient_of(model, batch, held_out)
    for tensor, value in zip(tensors(model), saved, strict=True):
        tensor.copy_(value)
    assert found.keys() == start.keys()
    for name, slope in found.items():
        expected = torch.zeros_like(slope)
        for place in np.ndindex(*slope.shape):
            losses = []
            for sign in (1, -1):
                moved = {key: value.clone() for key, value in start.items()}
                moved[name][place] += sign * step
                losses.append(held_out_loss(model, moved, batch, held_out, moves))
            expected[place] = (losses[0] - losses[1]) / (2 * step)
        assert expected.abs().max() > 1e-6  # there is something to compare
        error = (slope - expected).abs().max() / expected.abs().max()
        assert error < 1e-4, name


def test_both_paths_are_the_same_derivative(device):
    """A step from fixed weights: the gradient of its loss does not depend on the strengths."""
    found = [
        hypergradient_of(
            *prepared("TwoBP", "--lambda_grad", path, device=device, dtype=torch.float32)
        )
        for path in PATHS
    ]
    for name in found[0]:
        torch.testing.assert_close(*(hypergradient[name] for hypergradient in found))


@pytest.mark.parametrize(
    ("name", "path", "interval"), [("OneBP", "full", 1), ("TwoBP", "truncated", 3)]
)
def test_by_the_row_as_on_whole_tables(device, name, path, interval, monkeypatch):
    """Epochs of compiled steps by the row end where eager steps on whole tables end.

    Strengths included. Where a gradient is all but 0, rounding decides its sign. Adam's eps is
    larger here, so that this decides no step.
    """
    if not compiles(device):
        pytest.skip("torch.compile does not work here")
    torch.compiler.reset()
    monkeypatch.setattr(adam, "EPS", 1e-4)
    random = np.random.default_rng(0)
    pairs = np.unique(random.integers((300, 200), size=(3000, 2)), axis=0)
    parts = np.split(random.permutation(pairs), [1500, 2500, 2600])
    train, tune, valid, test = (set(map(tuple, part)) for part in parts)
    data = interactions(train, test, (300, 200), valid, tune)
    words = ("--regularizer", "lambdaopt", "--dim", 4, "--batch_size", 16, "--N", 1)
    words += ("--lambda_grad", path, "--lambda_interval", interval, "--lambda_lr", 0.05)
    models = [
        build(name, *words, "--compile", compile, data=data, device=device)
        for compile in ("off", "on")
    ]
    assert [model.regularizer.by_row for model in models] == [False, True]
    losses = [
        [model.train_epoch(lr, lambda: None) for lr in (0.02, 0.01, 0.03)] for model in models
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for own in (lambda model: model.weights, lambda model: model.regularizer.strengths):
        for key, table in own(models[0]).items():
            np.testing.assert_allclose(
                table.cpu(), own(models[1])[key].cpu(), atol=2e-5, err_msg=key
            )
    assert models[0].regularizer.strengths["item"].max() > 0.1
