"""--popularity_weight: scores and exports with it, what validation chooses, whole runs."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tools import build, interactions, made_data, on_ranks, write

from checkpointing.files import load_checkpoint
from families import model_class, popularity_weight
from inference.cold import encodings_in_use, scorer_in_use
from parse import parse_args
from sources.share import own_share

WEIGHT = 0.3
WITH_ENCODINGS = (
    "OneBP --dim 3",
    "TwoBP --dim 3 --similarity cosine",
    "TwoBP --dim 3 --loss ELSA",
    "CML --dim 3",
    "ALS --dim 3 --reg 0.1",
)
WITHOUT = ("EASE", "Walk", "ItemKNN --neighbours 3", "SANSA --density 0.3")


def trained(flags, *more, device="cpu"):
    """A model after an epoch, on data in which some users and items have no training."""
    name, *flags = flags.split()
    for model, library in (("ALS", "implicit"), ("SANSA", "sansa")):
        if name == model:
            pytest.importorskip(library, reason=f"the package {library} is not installed")
    data = made_data(users=30, items=50, count=80)
    assert (data.train.sum(0) == 0).any()
    assert (data.train.sum(1) == 0).any()
    model = build(name, *flags, *more, data=data, device=device)
    model.train_epoch(0.05, lambda: None)
    return model


def scores(model):
    """The model's scores (U, I), for use: users without training are the mean user."""
    users = torch.arange(model.data.shape[0], device=model.device)
    out = torch.empty(model.data.shape, device=model.device)
    scorer_in_use(model, users).score(users, out)
    return out.cpu().numpy()


def log_counts(train):
    return np.log(np.maximum(train.toarray().sum(0), 1))


@pytest.mark.parametrize("flags", [*WITH_ENCODINGS, *WITHOUT])
def test_scores_have_the_popularity_added(flags, device):
    plain, model = (
        trained(flags, device=device),
        trained(flags, "--popularity_weight", WEIGHT, device=device),
    )
    expected, added = scores(plain), WEIGHT * log_counts(plain.data.train)
    assert np.ptp(added) > 0.1
    if "ELSA" in flags:  # a user's encoding then has length 1
        users, _ = encodings_in_use(plain)
        expected = expected / users.norm(dim=1, keepdim=True).cpu().numpy()
    np.testing.assert_allclose(scores(model), expected + added, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("flags", WITH_ENCODINGS)
def test_inner_products_of_exported_encodings_are_the_scores(flags, device):
    """The users without training too; with 0 there is no further number."""
    plain = encodings_in_use(trained(flags, device=device))
    model = trained(flags, "--popularity_weight", WEIGHT, device=device)
    users, items = encodings_in_use(model)
    np.testing.assert_allclose((users @ items.T).cpu(), scores(model), rtol=1e-4, atol=1e-5)
    assert users.shape[1] == items.shape[1] == plain[0].shape[1] + 1
    assert [x.equal(y) for x, y in zip(plain, model.encodings(), strict=True)][1]


@pytest.mark.parametrize("flags", ["OneBP", "EASE"])
def test_zero_is_the_model_itself(flags):
    args = parse_args(["--model", flags])
    assert not issubclass(model_class(args), popularity_weight.PopularityWeighted)
    weighted = model_class(parse_args(["--model", flags, "--popularity_weight", "1"]))
    assert weighted.__mro__[1:3] == (popularity_weight.PopularityWeighted, model_class(args))


USERS, ITEMS = 40, 200


def validated_data(fraction):
    """Data whose validation split is known, and scores (U, I) for it.

    A user's 20 validation items are the best by t, which is independent of popularity. The scores
    are t - c log n_i, so that adding `fraction` of the scores' spread gives t again.
    """
    random = np.random.default_rng(2)
    chance = random.permutation(np.geomspace(0.02, 0.6, ITEMS))
    train = random.random((USERS, ITEMS)) < chance
    t = random.normal(size=(USERS, ITEMS))
    best = np.argsort(-np.where(train, -np.inf, t), axis=1)[:, :20]
    valid = {(user, item) for user in range(USERS) for item in best[user].tolist()}
    pairs = {(user, item) for user, item in np.argwhere(train).tolist()}
    rest = {(user, int(np.flatnonzero(~train[user])[0])) for user in range(USERS)} - valid
    data = interactions(pairs, rest, (USERS, ITEMS), valid=valid)
    z = log_counts(data.train)
    z = (z - z.mean()) / z.std()
    # sd(t - c z) = sqrt(1 + c^2), and c is `fraction` of it.
    c = fraction / np.sqrt(1 - fraction**2)
    return data, t - c * z


def model_with(data, wanted, *flags):
    """A TwoBP model with these scores (U, I)."""
    words = ("--dim", USERS, "--select", "valid", *flags)
    model = build("TwoBP", *words, data=data)
    model.weights["user"].copy_(torch.eye(USERS))
    model.weights["item"].copy_(torch.tensor(wanted.T))
    return model


@pytest.mark.parametrize("scale", [1, 1000])
@pytest.mark.parametrize("fraction", [0, 0.5, -0.2])
def test_auto_finds_the_known_best(fraction, scale, monkeypatch):
    """Whatever the scale of the scores; as if each weight of the grid had been given."""
    monkeypatch.setattr("evaluate.BLOCK_SCORES", 7 * ITEMS)
    data, wanted = validated_data(fraction)
    wanted = wanted * scale
    model = model_with(data, wanted, "--popularity_weight", "auto")
    metrics = model.evaluate("valid")
    unit = wanted.std(1).mean() / log_counts(data.train).std()
    assert model.chosen_flags()["popularity_weight"] == float(f"{fraction * unit:.3g}")
    found = []
    for other in popularity_weight.FRACTIONS:
        given = ("--popularity_weight", f"{other * unit:.3g}")
        found.append(model_with(data, wanted, *given).evaluate("valid"))
    assert metrics in found
    recalls = [other["Recall@20"] for other in found]
    assert metrics["Recall@20"] == max(recalls) > 0.97
    assert sorted(recalls)[-2] < max(recalls)


def test_few_users_choose(monkeypatch):
    data, wanted = validated_data(0.5)
    monkeypatch.setattr(popularity_weight, "CHOOSING", 6)
    monkeypatch.setattr(popularity_weight, "SCALING", 6)
    model, asked = model_with(data, wanted, "--popularity_weight", "auto"), []
    sums = model.evaluators["valid"].sums

    def noted(scorer, users=None):
        asked.append(users)
        return sums(scorer, users)

    monkeypatch.setattr(model.evaluators["valid"], "sums", noted)
    model.evaluate("valid")
    assert {*torch.cat(asked[:-1]).tolist()} == {0, 7, 14, 21, 28, 35}
    assert asked[-1] is None  # all users are evaluated


@pytest.mark.parametrize("fraction", [0.5, -0.2])
def test_ranks_choose_the_same(fraction):
    first, second = on_ranks(chosen_by_rank, fraction)
    assert first == second
    unit = validated_data(fraction)[1].std(1).mean()
    unit /= log_counts(validated_data(fraction)[0].train).std()
    assert first == float(f"{fraction * unit:.3g}")


def chosen_by_rank(fraction):
    data, wanted = validated_data(fraction)
    words = f"--model TwoBP --dim {USERS} --select valid --popularity_weight auto"
    args = parse_args(words.split())
    own = own_share(data)
    model = model_class(args)(own, args, torch.device("cpu"))
    model.weights["user"].copy_(torch.eye(USERS)[own.first :][: own.shape[0]])
    model.weights["item"].copy_(torch.tensor(wanted.T))
    model.evaluate("valid")
    return model.chosen_flags()["popularity_weight"]


@pytest.mark.parametrize("name", ["OneBP", "EASE"])
@pytest.mark.parametrize("load", ["load_weights", "start_training"])
def test_a_state_has_what_was_chosen(name, load):
    data, _ = validated_data(0.5)
    words = ("--select", "valid", "--popularity_weight", "auto")
    model, again = (build(name, *words, data=data) for _ in range(2))
    model.train_epoch(0.01, lambda: None)
    model.evaluate("valid")
    chosen = model.chosen_flags()
    assert chosen["popularity_weight"] != 0
    getattr(again, load)(model.state_dict())
    assert again.chosen_flags() == chosen
    np.testing.assert_array_equal(scores(again), scores(model))


def test_equal_scores_and_equal_items():
    """Nothing to scale by: no division by zero, and nothing is added."""
    train = {(user, item) for user in range(4) for item in range(4) if user != item}
    data = interactions(train, {(0, 0)}, (4, 4), valid={(1, 1)})
    model = build("TwoBP", "--select", "valid", "--popularity_weight", "auto", data=data)
    model.weights["user"].zero_()
    model.evaluate("valid")
    assert model.chosen_flags() == {"popularity_weight": 0.0}


AUTO = ("--popularity_weight", "auto", "--select", "valid", "--dim", 4, "--lr", 0.02)


def summary_of(name):
    return json.loads(Path(f"runs/{name}/summary.json").read_text())


@pytest.mark.parametrize("more", [(), ("--loss", "ELSA")])
def test_a_run_keeps_what_each_epoch_chose(cli, work, more):
    words = (*AUTO, *more, "--epochs", 4)
    status, stdout, stderr = cli(*words, "--run_name", "r", "--refit")
    assert (status, stderr) == (0, "")
    summary = summary_of("r")
    state = load_checkpoint("checkpoints/r/best.pt")
    chosen = state["chosen_flags"]["popularity_weight"]
    assert chosen == state["model"]["popularity_weight"]
    assert summary["chosen_flags"] == {"popularity_weight": chosen}
    assert summary_of("r-refit")["flags"]["popularity_weight"] == chosen
    assert f"flags, chosen on the validation split: popularity_weight={chosen}\n" in stdout

    # Two epochs, then two more: the same files.
    if not more:  # a cosine depends on the number of epochs
        assert cli(*AUTO, "--epochs", 2, "--run_name", "parts")[0] == 0
        whole = (*words, "--run_name", "parts", "--train_mode", "continue")
        assert cli(*whole)[0] == 0
        for name in ("last.pt", "best.pt"):
            files = [work / "checkpoints" / run / name for run in ("r", "parts")]
            assert files[0].read_bytes() == files[1].read_bytes()
        assert summary_of("parts")["best"] == summary["best"]

    # Evaluating uses it, or chooses again, which is the same here.
    for flags in ((), ("--select", "valid", "--popularity_weight", "auto")):
        status, stdout, stderr = cli("--mode", "evaluate", "--run_name", "r", *flags)
        assert (status, stderr) == (0, "")
        for metrics in (summary["best"], summary["best"]["valid"]):
            assert f"{metrics['NDCG@20']:.4f}" in stdout
        assert (f"popularity_weight={chosen}" in stdout) == bool(flags)


@pytest.fixture
def shop(work, cli):
    """A model trained without a weight; and {item: its training interactions}."""
    random = np.random.default_rng(0)
    items = random.exponential(3, 60).astype(int).tolist()
    pairs = {(f"u{index % 9}", f"i{item}") for index, item in enumerate(items)}
    rows = "".join(f"{user},{item}\n" for user, item in sorted(pairs))
    write(work / "datasets/shop/train.csv", "user,item\n" + rows)
    write(work / "datasets/shop/test.csv", "user,item\nu0,unknown\n")
    write(work / "new.csv", "user,item\nsomebody,i1\n")
    words = ("--dataset", "shop", "--dim", 4, "--epochs", 3, "--run_name", "mine")
    assert cli(*words)[0] == 0
    return pd.Series([item for _, item in sorted(pairs)]).value_counts()


@pytest.mark.parametrize("whom", [("--users", "all"), ("--history", "new.csv")])
def test_a_trained_model_takes_another_weight(cli, work, shop, whom):
    """recommend, also for new users; export; evaluate."""
    use, given = ("--run_name", "mine", "--topk", 50, "--keep_seen"), ("--popularity_weight", 0.5)
    found = []
    for name, flags in (("plain", ()), ("weighted", given)):
        assert cli("--mode", "recommend", *use, *whom, *flags, "--output", name)[0] == 0
        found.append(pd.read_csv(name).set_index(["user", "item"])["score"].sort_index())
    plain, weighted = found
    counts = shop.reindex(plain.index.get_level_values("item")).fillna(1).to_numpy()
    np.testing.assert_allclose(weighted - plain, 0.5 * np.log(counts), atol=1e-5)

    assert cli("--mode", "export", "--run_name", "mine", *given, "--output", "out")[0] == 0
    if "--users" in whom:
        users, items = (np.load(f"out/{name}.npy") for name in ("users", "items"))
        ids = pd.read_csv("out/ids.csv").groupby("kind")["id"].apply(list)
        products = pd.DataFrame(users @ items.T, ids["user"], ids["item"])
        for (user, item), score in weighted.items():
            assert products.loc[user, item] == pytest.approx(score, abs=1e-5)
    assert cli("--mode", "evaluate", "--run_name", "mine", *given)[0] == 0


def test_a_continuation_keeps_the_weight(cli, shop):
    words = ("--dataset", "shop", "--dim", 4, "--epochs", 5, "--run_name", "mine")
    again = ("--train_mode", "continue", "--popularity_weight", 0.5)
    status, _, stderr = cli(*words, *again)
    assert status == 2
    assert "chose its best epoch by --popularity_weight 0.0; do so again" in stderr


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("--popularity_weight auto", "auto chooses on the validation split: add --select valid"),
        ("--model Popularity --popularity_weight 1", "does nothing with --model Popularity"),
        ("--model SVD --popularity_weight 1", "does nothing with --model SVD"),
        (
            "--mode export --output o --select valid --popularity_weight auto",
            "--popularity_weight auto needs --mode train or evaluate; give a number",
        ),
        (
            "--mode evaluate --blend other --select valid --popularity_weight auto",
            "--popularity_weight auto chooses for one run: give a number, or leave --blend out",
        ),
        ("--popularity_weight nan", "'nan' is not a number"),
    ],
)
def test_mistakes(cli, words, what):
    status, _, stderr = cli(*words.split())
    assert status == 2
    assert what in stderr
