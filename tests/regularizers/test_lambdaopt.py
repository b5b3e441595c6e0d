"""The regularizers against slow references; strengths that find planted noise; resume; refusals."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from tools import build, interactions, loop_aggregation, made_data, matrix

from checkpointing.files import load_checkpoint
from engine.compiling import compiles
from families import load_data
from parse import parse_args
from regularizers.flags import GRANULARITIES
from sources.interactions import Interactions

USERS, ITEMS, DIM = 10, 80, 3  # few users, so that a batch has rows twice
SIZE = ("--dim", DIM, "--batch_size", 8, "--lr", 0.05, "--beta", 0.9)

# (rows, columns) of the strengths of users and of items; 0 for all of the table.
SHAPES = {
    "global": ((1, 1), (1, 1)),
    "dimension": ((1, 0), (1, 0)),
    "double-dimension": ((1, 0), (1, 0)),
    "user": ((0, 1), (1, 1)),
    "item": ((1, 1), (0, 1)),
    "user+item": ((0, 1), (0, 1)),
    "dimension+user": ((0, 0), (1, 0)),
    "dimension+item": ((1, 0), (0, 0)),
    "dimension+user+item": ((0, 0), (0, 0)),
}


def tuned_data():
    """Random interactions in four splits."""
    random = np.random.default_rng(3)
    order = random.permutation(USERS * ITEMS)[:200]
    pairs = [(int(n) // ITEMS, int(n) % ITEMS) for n in order]
    return interactions(pairs[:120], pairs[160:180], (USERS, ITEMS), pairs[180:], pairs[120:160])


def lambdaopt(name, *flags, data=None, device="cpu"):
    return build(
        name, *SIZE, "--regularizer", "lambdaopt", *flags, data=data or tuned_data(), device=device
    )


def pairs_of(users, items):
    return zip(users.tolist(), items.tolist(), strict=True)


def train(model, epochs, on_step=lambda: None):
    for _ in range(epochs):
        model.train_epoch(model.args.lr, on_step)


def slow_weights(model, batches, strengths):
    """User and item encodings after steps down the loss, in float64, by torch.optim.

    strengths: {table: what broadcasts to it}; a row counts as often as a batch touches it.
    """
    tables = {
        name: model.weights[name].detach().cpu().double().clone() for name in ("user", "item")
    }
    strengths = {
        name: strength.cpu().double().expand_as(tables[name])
        for name, strength in strengths.items()
    }
    trained = [tables[name].requires_grad_() for name in model.optimizer.tables]
    optimizer = getattr(torch.optim, model.args.optimizer)(trained, lr=model.args.lr)
    p, q = tables["user"], tables["item"]
    for users, items, drawn in batches:
        loss = torch.zeros(())
        for user, *rows in torch.cat([users[None], items[None], drawn]).T.tolist():
            loss = loss - (q[rows] @ p[user]).log_softmax(0)[0]
            loss = loss + (strengths["item"][rows] * q[rows] ** 2).sum()
            if p.requires_grad:
                loss = loss + (strengths["user"][user] * p[user] ** 2).sum()
        optimizer.zero_grad()
        (loss / len(users)).backward()
        optimizer.step()
        if not p.requires_grad:
            moved = loop_aggregation(
                p.numpy(), users.tolist(), q.detach()[items.cpu()].numpy(), 0.9, "mean"
            )
            p.copy_(torch.as_tensor(moved))
    return p.detach(), q.detach()


def check_steps(model, strengths, count, step):
    batches = [batch for _ in range(3) for batch in model.sampler.epoch()][:count]
    # rows are touched twice
    assert any(len(set(users.tolist())) < len(users) for users, _, _ in batches)
    expected = slow_weights(model, batches, strengths)
    for batch in batches:
        model.optimizer.prepare(model.args.lr)
        step(model, batch)
    model.optimizer.finish()
    for name, table in zip(("user", "item"), expected, strict=True):
        np.testing.assert_allclose(model.weights[name].cpu(), table, atol=2e-5)


@pytest.mark.parametrize("N", [1, 3])
@pytest.mark.parametrize("optimizer", ["Adam", "SGD"])
@pytest.mark.parametrize("name", ["OneBP", "TwoBP"])
def test_l2_against_a_slow_reference(device, name, optimizer, N):
    flags = ("--regularizer", "l2", "--l2", 0.3, "--N", N, "--optimizer", optimizer)
    model = build(name, *SIZE, *flags, data=made_data(USERS, ITEMS, 200), device=device)
    strength = torch.tensor(0.3)
    check_steps(
        model,
        {"user": strength, "item": strength},
        20,
        lambda model, batch: model.train_step(batch),
    )


@pytest.mark.parametrize(
    ("name", "optimizer", "N", "by_row"), [("OneBP", "Adam", 1, True), ("TwoBP", "Adam", 3, False)]
)
def test_l2_compiled(device, name, optimizer, N, by_row):
    if not compiles(device):
        pytest.skip("torch.compile does not work here")
    torch.compiler.reset()
    flags = (
        "--regularizer",
        "l2",
        "--l2",
        0.3,
        "--N",
        N,
        "--optimizer",
        optimizer,
        "--compile",
        "on",
    )
    model = build(name, *SIZE, *flags, data=made_data(USERS, ITEMS, 200), device=device)
    assert model.optimizer.by_row == by_row
    strength, batch_size = torch.tensor(0.3), model.args.batch_size
    check_steps(
        model,
        {"user": strength, "item": strength},
        20,
        lambda model, batch: (
            model.compiled_step if len(batch[0]) == batch_size else model.train_step
        )(batch),
    )


@pytest.mark.parametrize("name", ["OneBP", "TwoBP"])
@pytest.mark.parametrize("granularity", SHAPES)
def test_each_weight_has_the_strength_that_the_granularity_says(device, name, granularity):
    """Shapes; what is shared; all 0 at the start; their step, against the slow reference."""
    model = lambdaopt(name, "--granularity", granularity, "--optimizer", "SGD", device=device)
    regularizer, own = model.regularizer, {}
    generator = torch.Generator().manual_seed(1)
    for strength in regularizer.strengths.values():
        assert (strength == 0).all()
        strength.copy_(torch.rand(strength.shape, generator=generator))
    for table, shape in zip(("user", "item"), SHAPES[granularity], strict=True):
        if table in model.optimizer.tables:
            own[table] = regularizer.strength_of(table)
            whole = model.weights[table].shape
            assert own[table].shape == tuple(
                size or full for size, full in zip(shape, whole, strict=True)
            )
    assert own.keys() == ({"item"} if name == "OneBP" else {"user", "item"})
    assert len(regularizer.strengths) == (1 if granularity in ("global", "dimension") else len(own))
    check_steps(model, own, 5, lambda model, batch: model.train_step(batch))


def test_granularities_and_their_short_forms():
    assert set(SHAPES) == set(GRANULARITIES.values())
    for short, granularity in GRANULARITIES.items():
        model = lambdaopt("OneBP", "--granularity", short)
        assert model.args.granularity == granularity


@pytest.mark.parametrize(
    "granularity", ["global", "double-dimension", "user+item", "dimension+user+item"]
)
def test_strengths_are_never_negative(granularity):
    """They go up and down, so some of them come to the border."""
    model = lambdaopt("TwoBP", "--granularity", granularity, "--lambda_lr", 0.02)
    seen = []
    train(
        model,
        4,
        lambda: seen.append(torch.cat([s.flatten() for s in model.regularizer.strengths.values()])),
    )
    seen = torch.stack(seen)  # (steps, strengths)
    assert seen.min() == 0
    assert (seen.diff(dim=0) < 0).any()
    assert seen.max() > 0


@pytest.mark.parametrize("grad", ["truncated", "full"])
@pytest.mark.parametrize("interval", [1, 4])
def test_strengths_move_before_every_kth_step(interval, grad):
    model = lambdaopt(
        "TwoBP", "--lambda_interval", interval, "--lambda_grad", grad, "--optimizer", "SGD"
    )
    epochs, steps = 2, math.ceil(model.sampler.size / model.sampler.batch_size)
    assert steps % 4  # an epoch ends within an interval, and the next one starts with a move
    before = {name: strength.clone() for name, strength in model.regularizer.strengths.items()}
    moved = []

    def look():
        now = model.regularizer.strengths
        moved.append(any(not torch.equal(now[name], before[name]) for name in now))
        before.update({name: strength.clone() for name, strength in now.items()})

    train(model, epochs, look)
    assert moved == [step % interval == 0 for step in range(steps)] * epochs
    assert model.regularizer.optimizer.steps == epochs * math.ceil(steps / interval)


def first_gradient(model):
    """The gradient by the strengths that the first step took, flat, from Adam's first moment."""
    batch = next(model.sampler.epoch())
    held_out = model.regularizer.held_out(0, batch)
    model.optimizer.prepare(model.args.lr)
    model.train_step(batch, held_out)
    moments = model.regularizer.optimizer.state_dict().values()
    return torch.cat([state["exp_avg"].flatten() / 0.1 for state in moments])


def test_clip_bounds_the_norm_over_all_strengths(device):
    """It shortens a gradient that is too long, not its direction; a short one stays as it is."""
    flags = ("--optimizer", "SGD", "--granularity", "user+item")
    whole, clipped, short = (
        first_gradient(lambdaopt("TwoBP", *flags, "--lambda_clip", clip, device=device))
        for clip in (100, 1e-4, 1e-2)
    )
    assert 2e-4 < whole.norm() < 1e-2
    assert clipped.norm().item() == pytest.approx(1e-4, rel=1e-2)
    torch.testing.assert_close(clipped / clipped.norm(), whole / whole.norm(), rtol=1e-4, atol=1e-5)
    assert torch.equal(short, whole)


def planted_data(noisy, seed, users=60, clusters=4, size=30):
    """Every second user, from `noisy` on, has items at random; the others those of one cluster.

    All have 15 to train on, 5 to tune, 5 to test.
    """
    random = np.random.default_rng(seed)
    parts = {"train": set(), "tune": set(), "test": set()}
    for user in range(users):
        if user % 2 == noisy:
            items = random.choice(clusters * size, 25, replace=False)
        else:
            items = user // 2 % clusters * size + random.choice(size, 25, replace=False)
        for part, own in zip(parts.values(), np.split(items, [15, 20]), strict=True):
            part.update((user, int(item)) for item in own)
    return interactions(parts["train"], parts["test"], (users, clusters * size), tune=parts["tune"])


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("noisy", [0, 1])
@pytest.mark.parametrize("granularity", ["user+item", "dimension+user+item"])
def test_planted_noise_gets_the_larger_strengths(granularity, noisy, seed):
    """What is learnt of users with random items does not help on held-out ones: shrink them.

    Users of both kinds have equally many interactions. Found: 10 times as large and more, and
    twice by dimension.
    """
    flags = (
        "--loss",
        "BPR",
        "--N",
        1,
        "--dim",
        8,
        "--batch_size",
        128,
        "--lr",
        0.05,
        "--seed",
        seed,
    )
    flags += ("--regularizer", "lambdaopt", "--granularity", granularity, "--lambda_lr", 0.03)
    model = build("TwoBP", *flags, data=planted_data(noisy, seed))
    train(model, 15)
    # of even and of odd users
    mean = model.regularizer.strength_of("user").mean(1).view(-1, 2).mean(0)
    assert mean[noisy] > (5 if granularity == "user+item" else 1.5) * mean[1 - noisy]
    assert mean[noisy] > 0.1


def test_held_out_batches(device):
    """Of the batch's users, positives are of tune and negatives neither of tune nor of training.

    No other pair is spared.
    """
    data = tuned_data()
    model = lambdaopt("TwoBP", "--N", 4, data=data, device=device)
    train_pairs, tune, spared = (
        set(pairs_of(*part.nonzero())) for part in (data.train, data.tune, data.valid + data.test)
    )
    positives, negatives = set(), set()
    active = {user for user, _ in tune}
    for batch in (batch for _ in range(60) for batch in model.sampler.epoch()):
        users, items, drawn = model.regularizer.held_out(0, batch)
        assert all(
            own == user or user not in active
            for own, user in zip(users.tolist(), batch[0].tolist(), strict=True)
        )
        positives |= set(pairs_of(users, items))
        negatives |= {pair for row in drawn for pair in pairs_of(users, row)}
    assert positives == tune
    assert not negatives & (train_pairs | tune)
    assert negatives >= {pair for pair in spared if pair[0] in active}
    assert {
        pair for users, items, _ in model.sampler.epoch() for pair in pairs_of(users, items)
    } == train_pairs


def test_rankings_leave_out_what_was_seen():
    """One user whose scores fall with the index.

    The split's item comes first once the seen ones are left out.
    """
    shape, pairs = (1, 30), {"train": 0, "tune": 1, "valid": 2, "test": 3}
    parts = {name: matrix({(0, item)}, shape) for name, item in pairs.items()}
    data = Interactions("made", ["0"], [str(n) for n in range(30)], **parts, digest="made")
    model = build("TwoBP", "--regularizer", "lambdaopt", "--dim", 1, data=data)
    model.weights["user"].fill_(1)
    scores = -torch.arange(30.0)
    model.weights["item"].copy_(scores[:, None])
    assert [model.evaluate(part)["NDCG@5"] for part in ("valid", "test")] == [1.0, 1.0]
    # the test item goes before that of the validation split: it is not left out there
    scores[3] = 1
    model.weights["item"].copy_(scores[:, None])
    assert model.evaluate("valid")["NDCG@5"] == pytest.approx(1 / math.log2(3))


@pytest.mark.parametrize("grad", ["truncated", "full"])
@pytest.mark.parametrize("name", ["OneBP", "TwoBP"])
def test_resume_is_exact(cli, work, name, grad):
    """Six epochs in one go, or three and three: the same bytes, strengths included."""
    flags = (
        f"--model {name} --regularizer lambdaopt --lambda_interval 2 --lambda_grad {grad} --dim 8 "
        "--lambda_lr 0.01"
    )
    for epochs, run, mode in ((6, "whole", "new"), (3, "parts", "new"), (6, "parts", "continue")):
        status, stdout, stderr = cli(
            *flags.split(), "--epochs", epochs, "--run_name", run, "--train_mode", mode
        )
        assert (status, stderr) == (0, "")
    assert "continuing after epoch 3" in stdout
    assert "warning" not in stdout
    for file in ("last.pt", "best.pt"):
        whole, parts = (work / "checkpoints" / run / file for run in ("whole", "parts"))
        assert whole.read_bytes() == parts.read_bytes()
    state = load_checkpoint(work / "checkpoints/parts/last.pt")["model"]["regularizer"]
    assert state["strengths"].keys() == ({"item"} if name == "OneBP" else {"user", "item"})
    assert all(strength.max() > 0.01 for strength in state["strengths"].values())
    assert {len(means) for means in state["trajectory"].values()} == {6}  # one entry per epoch


@pytest.fixture
def trained(cli):
    """A run with lambdaopt, two epochs; returns `cli`."""
    flags = (
        "--model TwoBP --regularizer lambdaopt --granularity ui --dim 8 --epochs 2 "
        "--run_name tuned --lr 0.05"
    )
    assert cli(*flags.split(), "--lambda_lr", 0.05)[0] == 0
    return cli


def test_its_checkpoint_is_used_like_any_other(trained, work):
    """Evaluated to the same numbers; items to train, tune or choose on are not recommended."""
    summary = json.loads((work / "runs/tuned/summary.json").read_text())
    status, stdout, stderr = trained("--mode", "evaluate", "--run_name", "tuned")
    assert (status, stderr) == (0, "")
    table = pd.DataFrame(
        [row for line in stdout.splitlines() if "@" in line and len(row := line.split()) == 3],
        columns=["", "test", "valid"],
    )
    best = summary["best"]
    for part, numbers in (("test", best), ("valid", best["valid"])):
        assert table[part].tolist() == [f"{numbers[name]:.4f}" for name in table[""]]
    flags = (
        "--mode",
        "recommend",
        "--run_name",
        "tuned",
        "--users",
        "all",
        "--output",
        "recs.csv",
        "--topk",
        20,
    )
    assert trained(*flags)[0] == 0
    data = load_data(parse_args(["--regularizer", "lambdaopt"]))
    users, items = (
        {name: n for n, name in enumerate(ids)} for ids in (data.user_ids, data.item_ids)
    )
    lines = [line.split(",") for line in (work / "recs.csv").read_text().splitlines()[1:]]
    found = {(users[line[0]], items[line[2]]) for line in lines}
    assert len(found) == 20 * len(users)
    seen = data.train + data.tune + data.valid
    assert not found & set(pairs_of(*seen.nonzero()))
    assert found & set(pairs_of(*data.test.nonzero()))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--granularity global", "does not fit this model"),
        ("--granularity dui", "a table is (600, 1) of float32, not (600, 8)"),
        ("--select test", "has select valid, this command test"),
        ("--valid_ratio 0.5", "has digest "),
    ],
)
def test_a_checkpoint_of_other_strengths(trained, work, flags, words):
    before = (work / "checkpoints/tuned/last.pt").read_bytes()
    tuned = (
        "--model TwoBP --regularizer lambdaopt --granularity ui --dim 8 --epochs 4 "
        "--run_name tuned --lr 0.05"
    )
    status, _, stderr = trained(*tuned.split(), *flags.split(), "--train_mode", "continue")
    assert status == 2
    assert stderr.count("\n") == 1
    assert words in stderr
    assert (work / "checkpoints/tuned/last.pt").read_bytes() == before


def test_without_a_part_to_choose_on(cli, work):
    """--select test tunes on the whole validation split."""
    status, stdout, stderr = cli(
        "--regularizer", "lambdaopt", "--select", "test", "--epochs", 2, "--dim", 4
    )
    assert (status, stderr) == (0, "")
    assert " 0 valid, 8,154 test, 8,271 tune " in stdout
    assert "the best epoch was chosen on the test split" in stdout
    stdout = cli("--mode", "evaluate", "--run_name", "demo-OneBP-MF")[1]
    assert " 0 valid, 8,154 test, 8,271 tune " in stdout


def test_batches_in_which_the_strengths_stay():
    """None for the steps between two moves; the first step of an epoch has a batch."""
    model = lambdaopt("TwoBP", "--lambda_interval", 3)
    batch = next(model.sampler.epoch())
    found = [model.regularizer.held_out(number, batch) is not None for number in range(7)]
    assert found == [True, False, False, True, False, False, True]
