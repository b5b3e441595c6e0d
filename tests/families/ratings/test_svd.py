"""Models of ratings: gradient in closed form, SVD++'s items by a loop, known answers, real data."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from tools import build, ratings, write

from engine.compiling import compiles
from engine.tables import value_and_gradients
from families.ratings.metrics import RATING_METRICS
from families.ratings.svd import deviations

MODELS = ("SVD", "SVDpp")


def rank_one(seed=0, users=60, items=40, known=0.5):
    """A matrix a_u b_i of rank one, half of it known, a tenth of the rest tested; and all of it."""
    random = np.random.default_rng(seed)
    full = np.outer(random.uniform(1, 2, users), random.uniform(0.5, 2.5, items))
    place = random.random(full.shape)
    values = {(u, i): full[u, i] for u in range(users) for i in range(items)}
    train = {pair: value for pair, value in values.items() if place[pair] < known}
    test = {
        pair: value for pair, value in values.items() if place[pair] >= known + (1 - known) * 0.9
    }
    return ratings(train, test, full.shape)


def small(seed=0, users=9, items=7):
    """Ratings of few users and items; user 0 and item 0 have none in training."""
    random = np.random.default_rng(seed)
    every = {(u, i): float(random.integers(1, 6)) for u in range(1, users) for i in range(1, items)}
    train = {pair: value for pair, value in every.items() if random.random() < 0.6}
    test = {pair: value for pair, value in every.items() if pair not in train} | {
        (0, 1): 5.0,
        (1, 0): 1.0,
    }
    return ratings(train, test, (users, items))


@pytest.mark.parametrize("name", MODELS)
def test_gradient_closed_form(name, device):
    """With e = r - prediction, of the batch's mean: dL/dp_u = -2 e q_i + 2 reg p_u and so on.

    In SVD++ <p_u + |N(u)|^-1/2 sum_j y_j, q_i> is in the prediction,
    so dL/dy_j = -2 e |N(u)|^-1/2 q_i for j in N(u).
    """
    data, reg = small(), 0.3
    model = build(name, "--dim", 3, "--reg", reg, data=data, device=device)
    generator = torch.Generator().manual_seed(1)
    for table in model.weights.values():
        table.copy_(torch.randn(table.shape, generator=generator))
    weights = {key: table.cpu().double().numpy() for key, table in model.weights.items()}
    p, q, bu, bi = (weights[key] for key in ("user", "item", "user_bias", "item_bias"))
    users, items, values = [1, 2, 1, 8], [3, 3, 6, 1], [4.0, 1.0, 5.0, 2.5]
    batch = (torch.tensor(part, device=device) for part in (users, items, values))
    batch = [part.float() if part.is_floating_point() else part for part in batch]
    loss, gradients = value_and_gradients(
        model.loss, model.weights, {}, model.rows_of(*batch), *batch
    )

    mean, count = data.train.data.mean(dtype=np.float64), len(users)
    expected, total = {key: np.zeros_like(table) for key, table in weights.items()}, 0.0
    for u, i, r in zip(users, items, values, strict=True):
        own = data.train.indices[data.train.indptr[u] : data.train.indptr[u + 1]]
        taste = p[u].copy()
        if name == "SVDpp":
            for j in own:
                taste += weights["item_implicit"][j] / math.sqrt(len(own))
        e = r - (mean + bu[u, 0] + bi[i, 0] + taste @ q[i])
        slopes = {"user": -e * q[i], "item": -e * taste, "user_bias": -e, "item_bias": -e}
        total += e**2 / count
        for key, slope in slopes.items():
            expected[key][u if "user" in key else i] += 2 * slope / count
        if name == "SVDpp":
            for j in own:
                expected["item_implicit"][j] += -2 * e * q[i] / math.sqrt(len(own)) / count
        for key, table in weights.items():
            row = u if "user" in key else i
            weight = reg * {"user_bias": 0.2, "item_bias": 0.2, "item_implicit": 5}.get(key, 1)
            expected[key][row] += 2 * weight * table[row] / count
            total += weight * np.sum(table[row] ** 2) / count
    assert loss.item() == pytest.approx(total, rel=1e-5)
    for key, gradient in gradients.items():
        np.testing.assert_allclose(gradient.cpu(), expected[key], rtol=1e-4, atol=1e-5, err_msg=key)


@pytest.mark.parametrize("name", MODELS)
def test_rank_one_is_recovered(name, device):
    model = build(name, "--dim", 2, "--reg", 0, "--batch_size", 32, data=rank_one(), device=device)
    for epoch in range(150):
        model.train_epoch(0.03 * (1 + math.cos(math.pi * epoch / 150)) / 2, lambda: None)
    assert model.evaluate("test")["RMSE"] < 0.01
    assert model.baselines()["Biases"]["RMSE"] > 0.05  # it is not a sum


@pytest.mark.parametrize("block", [5, 1000])
def test_prediction_within_the_scale_and_by_a_loop(device, block, monkeypatch):
    monkeypatch.setattr("families.ratings.metrics.BLOCK_RATINGS", block)
    data = small()
    model = build("SVD", "--dim", 3, data=data, device=device)
    generator = torch.Generator().manual_seed(2)
    for table in model.weights.values():
        table.copy_(3 * torch.randn(table.shape, generator=generator))
    w = {key: table.cpu().double().numpy() for key, table in model.weights.items()}
    mean, errors = data.train.data.mean(dtype=np.float64), []
    test = data.test.tocoo()
    for u, i, r in zip(*test.coords, test.data, strict=True):
        score = mean + w["user_bias"][u, 0] + w["item_bias"][i, 0] + w["user"][u] @ w["item"][i]
        errors.append(min(max(score, 1), 5) - r)
    errors = np.array(errors)
    found = model.evaluate("test")
    assert tuple(found) == RATING_METRICS
    assert found["MSE"] == pytest.approx(np.mean(errors**2), rel=1e-5)
    assert found["RMSE"] == pytest.approx(math.sqrt(np.mean(errors**2)), rel=1e-5)
    assert found["MAE"] == pytest.approx(np.mean(np.abs(errors)), rel=1e-5)
    every = [torch.arange(size, device=device).repeat(other) for size, other in ((9, 7), (7, 9))]
    predicted = model.scorer().predict(*every)
    # weights this large go beyond both ends
    assert (predicted.min().item(), predicted.max().item()) == (1.0, 5.0)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_not_in_training_is_predicted_without_it(name, device):
    data = small()
    model = build(name, "--dim", 3, "--lr", 0.05, data=data, device=device)
    for _ in range(30):
        model.train_epoch(0.05, lambda: None)
    mean = model.encoder.mean
    nobody, nothing = (torch.tensor([0], device=device) for _ in range(2))
    assert model.scorer().predict(nobody, nothing).item() == pytest.approx(mean)
    one = torch.tensor([3], device=device)
    assert model.scorer().predict(nobody, one).item() == pytest.approx(
        mean + model.weights["item_bias"][3, 0].item()
    )
    assert model.scorer().predict(one, nothing).item() == pytest.approx(
        mean + model.weights["user_bias"][3, 0].item()
    )


def test_a_rating_of_zero_is_a_rating():
    data = ratings({(0, 0): 0.0, (0, 1): 2.0, (1, 1): -1.0}, {(1, 0): 0.0}, (2, 2))
    model = build("SVD", "--dim", 2, data=data)
    assert len(model.sampler.users) == 3
    assert model.scale == (-1.0, 2.0)
    assert model.baselines()["Mean"]["RMSE"] == pytest.approx(1 / 3)


def test_deviations_by_a_loop():
    data = small()
    mean, users, items = deviations(data.train, 10, 25)
    train = data.train.tocoo()
    rated = list(zip(*train.coords, train.data.astype(float), strict=True))
    assert mean == pytest.approx(np.mean([r for _, _, r in rated]))
    for i in range(7):
        own = [r - mean for _, item, r in rated if item == i]
        assert items[i] == pytest.approx(sum(own) / (25 + len(own)))
    for u in range(9):
        own = [r - mean - items[i] for user, i, r in rated if user == u]
        assert users[u] == pytest.approx(sum(own) / (10 + len(own)))


@pytest.mark.parametrize("batch_size", [256, 16])
def test_compiled_steps_are_the_eager_ones(device, batch_size):
    """On whole tables; for the smaller batch Adam goes by the row."""
    if not compiles(device):
        pytest.skip("torch.compile does not work here")
    torch.compiler.reset()
    data = rank_one(users=300, items=200, known=0.02)
    flags = ("--dim", 4, "--batch_size", batch_size, "--compile")
    models = [build("SVD", *flags, compile, data=data, device=device) for compile in ("off", "on")]
    losses = [model.train_epoch(0.01, lambda: None) for model in models]
    assert [model.optimizer.by_row for model in models] == [False, batch_size == 16]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for name, table in models[0].weights.items():
        np.testing.assert_allclose(
            table.cpu(), models[1].weights[name].cpu(), atol=1e-5, err_msg=name
        )


def test_command_line(cli, work):
    """Train, continue, evaluate, recommend, export; ratings are a column of a file of one's own."""
    random = np.random.default_rng(0)
    rows = {
        (u, i): 0.5 * random.integers(1, 11) for u, i in random.integers((40, 30), size=(900, 2))
    }
    text = "score,user,movieId\n" + "".join(f"{r},u{u},{i}\n" for (u, i), r in rows.items())
    write(work / "datasets/shop/interactions.csv", text)
    flags = (
        "--model",
        "SVD",
        "--dataset",
        "shop",
        "--device",
        "cpu",
        "--dim",
        4,
        "--lr_schedule",
        "step",
    )
    assert cli(*flags, "--epochs", 4, "--run_name", "whole")[0] == 0
    assert cli(*flags, "--epochs", 2, "--run_name", "parts")[0] == 0
    status, stdout, stderr = cli(
        *flags, "--epochs", 4, "--run_name", "parts", "--train_mode", "continue"
    )
    assert (status, stderr) == (0, "")
    assert "RMSE" in stdout
    for name in ("best.pt", "last.pt"):
        assert (work / f"checkpoints/whole/{name}").read_bytes() == (
            work / f"checkpoints/parts/{name}"
        ).read_bytes()
    table = pd.read_csv("runs/whole/metrics.csv")
    assert list(table)[-3:] == list(RATING_METRICS)
    summary = json.loads((work / "runs/whole/summary.json").read_text())
    assert summary["best"]["RMSE"] == table["RMSE"].min()
    assert set(summary["baselines"]) == {"Mean", "Biases"}
    assert summary["protocol"]["ratings_evaluated"] == round(0.1 * len(rows))
    stdout = cli("--mode", "evaluate", "--run_name", "whole", "--device", "cpu")[1]
    assert f"RMSE {summary['best']['RMSE']:.4f}" in " ".join(stdout.split())
    use = ("--run_name", "whole", "--device", "cpu")
    assert (
        cli("--mode", "recommend", *use, "--users", "u7", "--topk", 3, "--output", "recs.csv")[0]
        == 0
    )
    recs = pd.read_csv("recs.csv")
    assert cli("--mode", "export", *use, "--output", "out")[0] == 0
    users, items = (np.load(f"out/{part}.npy", allow_pickle=False) for part in ("users", "items"))
    ids = pd.read_csv("out/ids.csv", dtype=str)
    scores = pd.Series(items @ users[ids[ids["kind"] == "user"]["id"].tolist().index("u7")])
    scores.index = ids[ids["kind"] == "item"]["id"].astype(int)
    assert recs["score"].tolist() == pytest.approx(scores[recs["item"]].tolist(), abs=1e-4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "user,item\na,x\nb,y\n",
            "has no ratings among its columns user, item; name one by --rating_column, or take "
            "another --model",
        ),
        ("user,item,rating\na,x,5\nb,y,good\n", "line 3: 'good' is no rating; correct it"),
        ("user,item,rating\na,x,5\nb,y,\n", "line 3: '' is no rating"),
        ("user,item,rating\na,x,inf\nb,y,1\n", "line 2: 'inf' is no rating"),
        ("user,item,rating\na,x,1e60\nb,y,1\n", "line 2: '1e60' is no rating"),
        ("user,item,rating\na,x,5\n", "no test interaction"),
    ],
)
def test_bad_rating_files(cli, work, text, words):
    write(work / "datasets/d/interactions.csv", text)
    status, _, stderr = cli("--dataset", "d", "--model", "SVD")
    assert status == 2
    assert words in stderr
    assert stderr.count("\n") == 1


def test_real_ml_1m(cli, work, real_data):
    """Fewer epochs than suggested; what the suggested ones reach is in README."""
    flags = (
        "--model",
        "SVD",
        "--dataset",
        "ml-1m",
        "--data_dir",
        real_data,
        "--compile",
        "off",
        "--device",
        "cpu",
    )
    assert cli(*flags, "--epochs", 3)[0] == 0
    summary = json.loads((work / "runs/ml-1m-SVD/summary.json").read_text())
    assert (summary["dataset"]["train"], summary["dataset"]["test"]) == (900_188, 100_021)
    assert 0.84 < summary["best"]["RMSE"] < 0.89
    assert 0.905 < summary["baselines"]["Biases"]["RMSE"] < 0.915
