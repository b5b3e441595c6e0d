"""Adam and SGD against torch.optim; compiled, eager and slow NumPy steps agree; when to compile."""

import os

import numpy as np
import pytest
import torch
from tools import build, finish, made_data, start

from engine.adam import Adam
from engine.compiling import compiles
from engine.optimizer import SGD
from engine.tables import value_and_gradients


@pytest.mark.parametrize("amsgrad", [False, True])
# scale of the gradients: far above Adam's eps, and below it
@pytest.mark.parametrize("scale", [1.0, 1e-5, 1e-9])
def test_rows_follow_torch_adam(device, scale, amsgrad):
    """As close to torch.optim.Adam in float64 as that is in float32.

    For rows often and hardly ever touched. The learning rate changes from epoch to epoch.
    """
    rows, dim = 60, 4
    random = np.random.default_rng(0)
    weights = torch.tensor(random.normal(size=(rows, dim)), dtype=torch.float32, device=device)
    exact, single = weights.clone().double().requires_grad_(), weights.clone().requires_grad_()
    references = [torch.optim.Adam([table], amsgrad=amsgrad) for table in (exact, single)]
    adam = Adam({"item": weights}, l2=0.0, by_row=True, amsgrad=amsgrad)
    popularity = np.arange(1, rows + 1) ** -1.5
    for lr in (0.03, 0.01, 0.02):
        for _ in range(500):
            index = torch.tensor(
                random.choice(rows, size=(2, 3), p=popularity / popularity.sum()), device=device
            )
            slope = torch.tensor(random.normal(loc=0.5, size=(6, dim)) * scale, device=device)
            adam.prepare(lr)
            found, moments, place = adam.fetch("item", index)
            torch.testing.assert_close(
                found[place], exact.detach()[index].float(), rtol=1e-5, atol=3e-4
            )
            gradient = torch.zeros_like(found).index_add_(0, place.flatten(), slope.float())
            adam.step("item", index, found, moments, place, gradient)
            adam.count()
            for reference, table in zip(references, (exact, single), strict=True):
                table.grad = torch.zeros_like(table).index_add_(
                    0, index.flatten(), slope.to(table.dtype)
                )
                reference.param_groups[0]["lr"] = lr
                reference.step()
        adam.finish()
        error, rounding = (
            (table.detach() - exact.detach()).abs().max() for table in (weights, single)
        )
        assert error < 1.5 * rounding
    state, found = references[0].state_dict()["state"][0], adam.state_dict()["item"]
    torch.testing.assert_close(
        found["exp_avg"].double(), state["exp_avg"], rtol=1e-4, atol=1e-6 * scale
    )
    for moment in ("exp_avg_sq", "max_exp_avg_sq")[: 1 + amsgrad]:
        torch.testing.assert_close(
            found[moment].double(), state[moment], rtol=1e-4, atol=1e-6 * scale**2
        )
    assert found["step"] == state["step"]


def test_rows_touched_by_the_last_step_of_a_long_segment(device):
    """Segments reach their full length after 4,096 steps."""
    random = np.random.default_rng(0)
    weights = torch.tensor(random.normal(size=(20, 3)), dtype=torch.float32, device=device)
    exact = weights.double().clone().requires_grad_()
    adam, reference = (
        Adam({"item": weights}, l2=0.0, by_row=True),
        torch.optim.Adam([exact], lr=0.01),
    )
    zeros = torch.zeros_like(weights)
    adam.load_state_dict(
        {"item": {"exp_avg": zeros, "exp_avg_sq": zeros, "step": torch.tensor(4096.0)}}
    )
    moments = {"exp_avg": zeros.double(), "exp_avg_sq": zeros.double()}
    reference.state[exact] = {"step": torch.tensor(4096.0), **moments}
    for step in range(1100):
        index = torch.tensor([step % 7, 7 + step % 13], device=device)
        adam.prepare(0.01)
        found, moments, place = adam.fetch("item", index)
        gradient = torch.zeros_like(found).index_add_(0, place, torch.ones_like(found))
        adam.step("item", index, found, moments, place, gradient)
        adam.count()
        exact.grad = torch.zeros_like(exact).index_add_(
            0, index, torch.ones(2, 3, device=device).double()
        )
        reference.step()
    adam.finish()
    torch.testing.assert_close(weights.double(), exact.detach(), rtol=1e-5, atol=1e-5)


RATES = (0.03, 0.03, 0.01, 0.02)


def slopes(random, device, steps=40, shape=(30, 4)):
    """Gradients whose size falls and rises, and some that are 0.

    So the largest second moment is not always the last.
    """
    sizes = 1 + 5 * np.cos(np.arange(steps)[:, None, None] / 6) ** 2
    values = (
        random.normal(size=(steps, *shape)) * sizes * (random.random((steps, shape[0], 1)) < 0.7)
    )
    return torch.tensor(values, dtype=torch.float32, device=device)


def follow(optimizer, reference, exact, gradients, low=None, step=None):
    """Take the steps with both; the weights agree after each of them."""
    table = optimizer.tables["item"]
    for number, gradient in enumerate(gradients):
        lr = RATES[number % len(RATES)] if number > 20 else RATES[0]
        optimizer.prepare(lr)
        if step:
            step(gradient)
        else:
            optimizer.step("item", None, *optimizer.fetch("item", None), gradient)
            optimizer.count()
        exact.grad, reference.param_groups[0]["lr"] = gradient.to(exact.dtype), lr
        reference.step()
        if low is not None:
            exact.detach().clamp_(min=low)
        torch.testing.assert_close(table.to(exact.dtype), exact.detach(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_sgd_is_torch_sgd(device, l2):
    random = np.random.default_rng(0)
    weights = torch.tensor(random.normal(size=(30, 4)), dtype=torch.float32, device=device)
    exact = weights.double().requires_grad_()
    reference = torch.optim.SGD([exact], lr=1, weight_decay=l2)
    follow(SGD({"item": weights}, l2), reference, exact, slopes(random, device))


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("decayed", [None, ["item"], ["user"], []])
def test_only_the_named_tables_decay(device, kind, decayed):
    """As torch.optim's with a group for each table, of its own weight decay."""
    random = np.random.default_rng(0)
    tables = {
        name: torch.tensor(random.normal(size=(30, 4)), dtype=torch.float32, device=device)
        for name in ("user", "item")
    }
    exact = {name: table.double().requires_grad_() for name, table in tables.items()}
    strength = {name: 0.1 * (decayed is None or name in decayed) for name in tables}
    groups = [{"params": [table], "weight_decay": strength[name]} for name, table in exact.items()]
    reference = getattr(torch.optim, kind)(groups, lr=0.02)
    optimizer = {"SGD": SGD, "Adam": Adam}[kind](tables, 0.1, decayed=decayed)
    for gradient in slopes(random, device):
        optimizer.prepare(0.02)
        for name, table in exact.items():
            optimizer.step(name, None, *optimizer.fetch(name, None), gradient)
            table.grad = gradient.double()
        optimizer.count()
        reference.step()
    for name, table in tables.items():
        torch.testing.assert_close(table.double(), exact[name].detach(), rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize(("amsgrad", "low"), [(False, None), (True, None), (True, 0.0)])
@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_adam_on_whole_tables_is_torch_adam(device, amsgrad, low, l2):
    """`low` is where torch.optim's weights are put back to after each step."""
    random = np.random.default_rng(0)
    weights = torch.tensor(random.normal(size=(30, 4)), dtype=torch.float32, device=device)
    if low is not None:
        weights.clamp_(min=low)
    exact = weights.double().requires_grad_()
    bound = {} if low is None else {"low": low}
    adam = Adam({"item": weights}, l2, amsgrad=amsgrad, **bound)
    reference = torch.optim.Adam([exact], weight_decay=l2, amsgrad=amsgrad)
    follow(adam, reference, exact, slopes(random, device), low)
    if low is not None:
        assert (weights == low).any()
    assert set(adam.state_dict()["item"]) == set(reference.state_dict()["state"][0])


def test_compiled_amsgrad_is_torch_adam(device):
    """On whole tables and by the row, where rows not read lately catch up at the end."""
    if not compiles(device):
        pytest.skip("torch.compile does not work here")
    torch.compiler.reset()
    random = np.random.default_rng(0)
    start = torch.tensor(random.normal(size=(30, 4)), dtype=torch.float32, device=device).clamp(
        min=0
    )
    gradients = slopes(random, device, steps=60)
    index = torch.tensor(random.choice(30, size=(60, 2, 4)), device=device)
    exact = start.double().requires_grad_()
    reference = torch.optim.Adam([exact], amsgrad=True)
    adams = [
        Adam({"item": start.clone()}, 0.0, by_row, amsgrad=True, low=0.0)
        for by_row in (False, True)
    ]

    @torch.compile(fullgraph=True, dynamic=False)
    def step(index, gradient):
        for adam in adams:
            found, moments, place = adam.fetch("item", index)
            sums = torch.zeros_like(found).index_add_(0, place.flatten(), gradient[index.flatten()])
            adam.step("item", index, found, moments, place, sums)
            adam.count()

    for number in range(60):
        for adam in adams:
            adam.prepare(RATES[number // 20])
        step(index[number], gradients[number])
        rows = index[number].flatten()
        sums = torch.zeros_like(exact).index_add_(0, rows, gradients[number][rows].double())
        exact.grad, reference.param_groups[0]["lr"] = sums, RATES[number // 20]
        reference.step()
        exact.detach().clamp_(min=0)
        torch.testing.assert_close(
            adams[0].tables["item"].double(), exact.detach(), rtol=1e-5, atol=2e-6
        )
    adams[1].finish()
    torch.testing.assert_close(
        adams[1].tables["item"].double(), exact.detach(), rtol=1e-4, atol=1e-4
    )
    assert (exact == 0).any()


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_update_is_what_step_does(device, amsgrad, by_row):
    """And nothing is written by `read` and `update`."""
    random = np.random.default_rng(0)
    weights = torch.tensor(random.normal(size=(30, 4)), dtype=torch.float32, device=device)
    adam = Adam({"item": weights}, 0.0, by_row, amsgrad)
    for gradient in slopes(random, device, steps=30):
        index = torch.tensor(random.choice(30, size=6, replace=False), device=device)
        adam.prepare(0.02)
        before = [tensor.clone() for tensor in (weights, *adam.moments["item"])]
        found = adam.update(*adam.read("item", index), gradient[index])
        assert all(map(torch.equal, before, (weights, *adam.moments["item"])))
        fetched, moments, place = adam.fetch("item", index)
        sums = torch.zeros_like(fetched).index_copy_(0, place, gradient[index])
        adam.step("item", index, fetched, moments, place, sums)
        adam.count()
        torch.testing.assert_close(weights[index], found[0])
        for moment, expected in zip(adam.moments["item"], found[1], strict=True):
            torch.testing.assert_close(moment[index], expected)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_slope_of_an_update(device, amsgrad):
    """How the step changes with the gradient g.

    At 0 without moments the step is lr g / eps to first order; else it is as small differences
    say.
    """
    weights = torch.zeros(3, 1, device=device)
    adam = Adam({"item": weights}, 0.0, amsgrad=amsgrad)
    adam.prepare(1e-3)
    adam.moments["item"][1][2] = 0.04
    gradient = torch.tensor([[0.0], [-2.0], [3.0]], device=device)

    def total(leaves):
        return adam.update(*adam.read("item", None), leaves["item"])[0].sum()

    (found,) = value_and_gradients(total, {"item": gradient})[1].values()
    assert found.isfinite().all()
    assert found[0].item() == pytest.approx(-1e-3 / 1e-8, rel=1e-3)
    assert abs(found[1].item()) < 1e-9  # the first step is lr times the sign, however large g is
    # -lr 0.1 g / 0.1 / sqrt((0.999 * 0.04 + 0.001 g^2) / 0.001);
    # with amsgrad the old moment is no bound: 0
    second = 0.999 * 0.04 + 0.001 * 9
    assert found[2].item() == pytest.approx(
        -1e-3 * (0.999 * 0.04) * 0.001**0.5 / second**1.5, rel=1e-4
    )


class Reference:
    """The models' step in float64, one number after the other."""

    def __init__(self, model, lr, l2, beta, trains_users):
        self.tables = [
            model.encoder.user.cpu().double().numpy(),
            model.encoder.item.cpu().double().numpy(),
        ]
        self.moments = [[np.zeros_like(table), np.zeros_like(table)] for table in self.tables]
        self.lr, self.l2, self.beta, self.trains_users, self.steps = lr, l2, beta, trains_users, 0

    def step(self, users, items, negatives):
        p, q = self.tables
        gradients = [np.zeros_like(p), np.zeros_like(q)]
        loss = 0.0
        for user, item, others in zip(users, items, negatives, strict=True):
            candidates = [item, *others]
            softmax = np.exp(q[candidates] @ p[user])
            softmax /= softmax.sum()
            loss -= np.log(softmax[0]) / len(users)
            softmax[0] -= 1
            for candidate, slope in zip(candidates, softmax / len(users), strict=True):
                gradients[0][user] += slope * q[candidate]
                gradients[1][candidate] += slope * p[user]
        self.steps += 1
        for table, gradient, (first, second) in list(
            zip(self.tables, gradients, self.moments, strict=True)
        )[0 if self.trains_users else 1 :]:
            gradient += self.l2 * table
            first += 0.1 * (gradient - first)
            second += 0.001 * (gradient**2 - second)
            root = np.sqrt(second / (1 - 0.999**self.steps))
            table -= self.lr * first / (1 - 0.9**self.steps) / (root + 1e-8)
        if not self.trains_users:
            old = p.copy()
            for user in set(users):
                own = [q[item] for other, item in zip(users, items, strict=True) if other == user]
                p[user] = self.beta * old[user] + (1 - self.beta) * np.mean(own, axis=0)
        return loss


@pytest.mark.parametrize("compile", ["off", "on"])
@pytest.mark.parametrize(
    ("name", "l2", "by_row"), [("OneBP", 0, True), ("OneBP", 1e-3, False), ("TwoBP", 0, True)]
)
def test_fifty_steps_against_a_slow_reference(device, name, l2, by_row, compile):
    """After 50 steps losses agree to 1e-6, weights (of order 0.3) to 1e-5.

    By the row and on whole tables, compiled and eager.
    """
    if compile == "on" and not compiles(device):
        pytest.skip("torch.compile does not work here")
    torch.compiler.reset()  # it counts how often one function is compiled in a process
    flags = (
        "--dim",
        8,
        "--batch_size",
        16,
        "--N",
        3,
        "--beta",
        0.9,
        "--lr",
        0.02,
        "--l2",
        l2,
        "--compile",
        compile,
    )
    model = build(name, *flags, data=made_data(users=80, items=400), device=device)
    assert model.optimizer.by_row == (by_row and compile == "on")
    reference = Reference(model, 0.02, l2, 0.9, "user" in model.optimizer.tables)
    step = model.compiled_step if compile == "on" else model.train_step
    batches = [
        batch for _ in range(2) for batch in model.schedule.batches() if len(batch[0]) == 16
    ][:50]
    assert len(batches) == 50
    for users, items, negatives in batches:
        model.optimizer.prepare(0.02)
        loss = step((users, items, negatives))
        expected = reference.step(users.tolist(), items.tolist(), negatives.T.tolist())
        assert loss.item() == pytest.approx(expected, abs=1e-6)
    model.optimizer.finish()
    for table, expected in zip(
        (model.encoder.user, model.encoder.item), reference.tables, strict=True
    ):
        np.testing.assert_allclose(table.cpu(), expected, atol=1e-5)


@pytest.mark.parametrize(
    "flags",
    [
        "--sampler inbatch --similarity cosine --temperature 0.2 --loss BSL --gamma 1.1",
        "--sampler dns --candidates 8 --encoder MLP --model TwoBP --loss BPR",
        "--loss DirectAU",
    ],
)
def test_other_modules_compiled_and_eager_agree(device, flags):
    """Compared by the losses of four epochs.

    A weight that the loss does not depend on may drift, as Adam enlarges rounding.
    """
    if not compiles(device):
        pytest.skip("torch.compile does not work here")
    torch.compiler.reset()
    name = "TwoBP" if "TwoBP" in flags else "OneBP"
    size = ("--dim", 8, "--batch_size", 64, "--lr", 0.02)
    models = [
        build(name, *flags.split(), *size, "--compile", how, data=made_data(), device=device)
        for how in ("on", "off")
    ]
    losses = [[model.train_epoch(0.02, lambda: None) for _ in range(4)] for model in models]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_a_compiled_step_belongs_to_its_model(device):
    """Models of one shape share no compiled step: a step does not check the flags."""
    if not compiles(device):
        pytest.skip("torch.compile does not work here")
    torch.compiler.reset()
    flags = "--dim", 8, "--batch_size", 64, "--l2", 0, "--temperature"
    models = [
        build("OneBP", *flags, temperature, "--compile", how, device=device)
        for how in ("on", "off")
        for temperature in (0.2, 2)
    ]
    losses = np.array([[model.train_epoch(0.02, lambda: None) for model in models] for _ in "ab"])
    np.testing.assert_allclose(losses[:, :2], losses[:, 2:], atol=1e-4)
    assert (abs(losses[:, 0] - losses[:, 1]) > 0.01).all()


def test_auto_compiles_long_runs_only(monkeypatch):
    monkeypatch.setattr("engine.compiling.compiles", lambda device: True)
    batch = ("--batch_size", 64)  # of 224 interactions
    long = build("OneBP", *batch, "--epochs", 10**7)
    assert [build("OneBP", *batch, "--epochs", 10).compiled, long.compiled] == [False, True]
    assert not build("OneBP", *batch, "--compile", "off", "--epochs", 10**7).compiled
    assert not build("OneBP", "--batch_size", 300, "--epochs", 10**7).compiled  # no batch is whole
    # A continuation goes on as the run began, however many epochs it adds.
    again = build("OneBP", *batch, "--epochs", 10)
    again.start_training(long.state_dict())
    assert again.compiled


def test_without_a_compiler(work):
    """One line says so, and the run goes on."""
    nowhere = {
        **os.environ,
        "CXX": str(work / "no-compiler"),
        "TORCHINDUCTOR_CACHE_DIR": str(work / "cache"),
    }
    status, stdout, stderr = finish(
        start("--compile", "on", "--epochs", 2, "--device", "cpu", env=nowhere)
    )
    assert (status, stderr) == (0, "")
    assert stdout.count("warning: not compiled") == 1
    assert "epoch 2/2" in stdout
