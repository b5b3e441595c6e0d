"""Models of clicks by slow loops; the FM term by its double sum; training and exact resume."""

import numpy as np
import pytest
import torch
from tools import build, write

from engine.compiling import compiles
from engine.tables import value_and_gradients
from families.clicks.dataset import load_clicks
from families.clicks.networks import pairs

MODELS = ("LR", "FM", "DeepFM", "DCNv2")
SIZES = {"LR": (), "FM": ("--dim", 3), "DeepFM": ("--dim", 3, "--hidden", 5, 4)}
SIZES["DCNv2"] = (*SIZES["DeepFM"], "--layers", 2)


def made_clicks(folder, rows=600, seed=0, user="viewer"):
    """A data set of three fields, two of which count only together; `user` may name the users."""
    random = np.random.default_rng(seed)
    fields = [random.integers(size, size=rows) for size in (12, 9, 4)]
    score = np.where(fields[0] % 2 == fields[1] % 2, 2, -2) + fields[2] - 1.5
    clicked = (random.random(rows) < 1 / (1 + np.exp(-score))).astype(int)
    lines = [f"{label},u{a},m{b},{c}" for label, a, b, c in zip(clicked, *fields, strict=True)]
    write(folder / "shop/clicks.csv", "\n".join([f"label,{user},movie,hour", *lines, ""]))
    return load_clicks("shop", folder)


def made_model(name, folder, *flags, device="cpu", **given):
    return build(name, *SIZES[name], *flags, data=made_clicks(folder, **given), device=device)


def randomised(model, scale=1.0):
    """Give all weights random values of the order of `scale`; returns them as arrays by name."""
    generator = torch.Generator().manual_seed(1)
    for table in model.weights.values():
        table.copy_(scale * torch.randn(table.shape, generator=generator))
    return {name: table.cpu().double().numpy() for name, table in model.weights.items()}


def slow_outputs(name, weights, ids, dim, depth=2, crosses=2):
    """(logit, embeddings, last hidden layer) of one row, a number after the other."""
    table = [weights["embedding"][number] for number in ids]
    e, logit = [row[:dim] for row in table], weights["bias"][0]
    x = np.concatenate(e)
    if name == "LR":
        return logit + sum(row[0] for row in table), np.array([row[0] for row in table]), None
    if name in ("FM", "DeepFM"):
        logit += sum(row[dim] for row in table)
        for f in range(len(e)):
            for g in range(f + 1, len(e)):
                for d in range(dim):
                    logit += e[f][d] * e[g][d]
        if name == "FM":
            return logit, x, x

    def layer(values, which):
        matrix, bias = weights[f"{which}_weight"], weights[f"{which}_bias"]
        return np.array(
            [
                sum(values[n] * matrix[n, m] for n in range(len(values))) + bias[m]
                for m in range(len(bias))
            ]
        )

    hidden, crossed = x, x
    for number in range(1, depth + 1):
        hidden = np.maximum(layer(hidden, f"hidden{number}"), 0)
    if name == "DCNv2":
        for number in range(1, crosses + 1):
            crossed = x * layer(crossed, f"cross{number}") + crossed
        hidden = np.concatenate([crossed, hidden])
    return logit + layer(hidden, "output0")[0], x, hidden


@pytest.mark.parametrize("fields", [1, 2, 7])
def test_fm_term_is_its_double_sum(device, fields):
    embedding = np.random.default_rng(0).normal(size=(5, fields, 4))
    expected = [
        sum(row[f] @ row[g] for f in range(fields) for g in range(f + 1, fields))
        for row in embedding
    ]
    found = pairs(torch.tensor(embedding, device=device))
    np.testing.assert_allclose(found.cpu(), expected, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_outputs_by_loops(tmp_path, device, name):
    model = made_model(name, tmp_path, device=device)
    weights, dim = randomised(model, 0.7), 0 if name == "LR" else 3
    assert "output1_weight" not in weights
    ids, _ = model.data.rows(0, 40)
    found = model.encoder(model.weights, torch.tensor(ids, device=device).long())
    for row, (logit, embedding, hidden) in enumerate(
        slow_outputs(name, weights, own, dim) for own in ids
    ):
        assert found.logits[row].item() == pytest.approx(logit, rel=1e-4, abs=1e-4)
        np.testing.assert_allclose(found.embedding[row].cpu(), embedding, rtol=1e-4, atol=1e-4)
        if hidden is not None:
            np.testing.assert_allclose(found.hidden[row].cpu(), hidden, rtol=1e-4, atol=1e-4)
    probabilities, keys = model.predict(torch.tensor(ids, device=device).long(), "hidden")
    torch.testing.assert_close(probabilities, 1 / (1 + (-found.logits).exp()))
    assert torch.equal(keys, found.hidden)


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradient_of_a_batch(tmp_path, device, name):
    """The loss by its formula; its gradient by small differences in random directions."""
    model = made_model(name, tmp_path, device=device)
    randomised(model, 0.5)
    ids, labels = (torch.tensor(column, device=device) for column in model.data.rows(0, 30))
    batch = ids.long(), labels.double()
    weights = {key: table.double() for key, table in model.weights.items()}

    def loss(some):
        return model.loss(some, {}, model.rows_of(*batch), *batch)

    value, gradients = value_and_gradients(loss, weights)
    probabilities = model.encoder(weights, batch[0]).logits.sigmoid()
    expected = -(batch[1] * probabilities.log() + (1 - batch[1]) * (1 - probabilities).log()).mean()
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    generator = torch.Generator().manual_seed(2)
    for key, table in weights.items():
        direction = torch.randn(table.shape, generator=generator).double().to(device)
        ends = [loss(weights | {key: table + step * direction}).item() for step in (1e-5, -1e-5)]
        along = (gradients[key] * direction).sum().item()
        assert along != 0
        assert along == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4, abs=1e-8), key


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("optimizer", ["Adam", "SGD"])
def test_a_step_reaches_every_weight(tmp_path, device, name, optimizer):
    """Of the table, the rows of the batch and no others."""
    model = made_model(
        name, tmp_path, "--optimizer", optimizer, "--batch_size", 64, "--l2", 0, device=device
    )
    randomised(model, 0.1)
    before = {key: table.clone() for key, table in model.weights.items()}
    batch = next(iter(model.sampler.epoch()))
    model.optimizer.prepare(0.1)
    model.train_step(batch)
    for key, table in model.weights.items():
        moved = (table != before[key]).any(1) if key == "embedding" else table != before[key]
        if key == "embedding":
            expected = torch.zeros_like(moved)
            expected[batch[0].flatten()] = True
            assert torch.equal(moved, expected)
        else:
            assert moved.any(), key


@pytest.mark.parametrize("optimizer", ["Adam", "SGD"])
def test_weight_decay_shrinks_embeddings_alone(tmp_path, device, optimizer):
    """Where the loss has no gradient, being constant, only they move, towards 0."""
    flags = ("--optimizer", optimizer, "--l2", 0.1, "--batch_size", 50)
    model = made_model("DCNv2", tmp_path, *flags, device=device)
    randomised(model)
    before = {key: table.clone() for key, table in model.weights.items()}
    model.loss = lambda trained, *others: sum((0 * table).sum() for table in trained.values())
    model.train_epoch(0.01, lambda: None)
    for key, table in model.weights.items():
        if key == "embedding":
            large = before[key].abs() > 0.2
            assert (table.abs() < before[key].abs())[large].all()
        else:
            assert torch.equal(table, before[key]), key


@pytest.mark.parametrize("name", MODELS)
def test_the_start(tmp_path, device, name):
    """Unknown values add nothing, embeddings are small, and no probability is far from a half."""
    model = made_model(name, tmp_path, device=device)
    assert (model.encoder.embedding[torch.tensor(model.data.offsets, device=device)] == 0).all()
    assert model.encoder.embedding.abs().max() < 1e-3
    unknown = torch.tensor(model.data.offsets, device=device)[None]
    assert model.scorer()(unknown).item() == pytest.approx(0.5)


@pytest.mark.parametrize("name", MODELS)
def test_values_unseen_in_training_stay_out(tmp_path, device, name):
    model = made_model(name, tmp_path, "--lr", 0.05, "--batch_size", 64, device=device)
    for _ in range(3):
        model.train_epoch(0.05, lambda: None)
    assert (model.encoder.embedding[torch.tensor(model.data.offsets, device=device)] == 0).all()


@pytest.mark.parametrize("name", MODELS)
def test_what_they_learn(tmp_path, device, name):
    """Logistic regression sees only the field that counts by itself.

    The others come near the best possible AUC, 0.91.
    """
    flags = ("--lr", 0.02, "--batch_size", 128)
    model = made_model(name, tmp_path, *flags, rows=6000, seed=1, device=device)
    for _ in range(15):
        model.train_epoch(0.02, lambda: None)
    found, blind = model.evaluate("test"), model.baselines()["Click rate"]
    assert set(found) == {"AUC", "logloss"}
    assert blind["AUC"] == 0.5
    assert found["logloss"] < blind["logloss"] - 0.02
    assert 0.6 < found["AUC"] < 0.7 if name == "LR" else found["AUC"] > 0.89


def test_compiled_steps_are_the_eager_ones(tmp_path, device):
    if not compiles(device):
        pytest.skip("torch.compile does not work here")
    torch.compiler.reset()
    flags = ("--l2", 1e-3, "--batch_size", 100, "--compile")
    models = [
        made_model("DCNv2", tmp_path, *flags, compile, device=device) for compile in ("off", "on")
    ]
    losses = [[model.train_epoch(0.01, lambda: None) for _ in range(3)] for model in models]
    assert models[1].compiled
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_users_have_a_metric_of_their_own(tmp_path, device):
    model = made_model("LR", tmp_path, user="user", device=device)
    assert set(model.evaluate("test")) == {"AUC", "gAUC", "logloss"}
    assert model.baselines()["Click rate"]["gAUC"] == 0.5


@pytest.mark.parametrize("name", ["DeepFM", "LR"])
def test_resume_is_exact(cli, work, name):
    made_clicks(work / "datasets")
    flags = (
        "--model",
        name,
        *SIZES[name],
        "--dataset",
        "shop",
        "--batch_size",
        100,
        "--l2",
        1e-4,
        "--device",
        "cpu",
    )
    for epochs, run, mode in ((4, "whole", "new"), (2, "parts", "new"), (4, "parts", "continue")):
        status, _, stderr = cli(*flags, "--epochs", epochs, "--run_name", run, "--train_mode", mode)
        assert (status, stderr) == (0, "")
    for file in ("last.pt", "best.pt", "stream.pt"):
        assert (work / f"checkpoints/whole/{file}").read_bytes() == (
            work / f"checkpoints/parts/{file}"
        ).read_bytes()
    assert (work / "runs/whole/stream.csv").read_bytes() == (
        work / "runs/parts/stream.csv"
    ).read_bytes()
