"""Users without training interactions are the mean user; users who have had everything."""

import numpy as np
import pandas as pd
import pytest
import torch
from tools import build, interactions, ratings, write

from inference.cold import encodings_in_use, scorer_in_use

SHAPE = (12, 9)
COLD = [0, 7]  # they have test interactions only
USE = ("--run_name", "mine", "--device", "cpu")

# Scores that are linear in the user.
LINEAR = [
    "OneBP",
    "OneBP --encoder MLP",
    "OneBP --encoder LightGCN",
    "TwoBP",
    "TwoBP --encoder MLP",
    "ALS --reg 0.1",
    "EASE",
    "Walk",
    "ItemKNN --neighbours 3",
    "Popularity",
    "SANSA --density 0.3",
]

# Solved in one epoch, without --dim.
SOLVED = ("EASE", "SANSA", "Walk", "ItemKNN", "Popularity")


def trained_model(flags, device):
    """A model after two epochs, on data with the users COLD."""
    name, *flags = flags.split()
    for model, library in (("ALS", "implicit"), ("SANSA", "sansa")):
        if name == model:
            pytest.importorskip(library, reason=f"the package {library} is not installed")
    random = np.random.default_rng(3)
    pairs = [(user, item) for user in range(12) for item in range(9) if random.random() < 0.5]
    train = {pair for pair in pairs if pair[0] not in COLD}
    if name.startswith("SVD"):
        stars = {pair: 1.0 + (pair[0] * pair[1]) % 5 for pair in pairs}
        data = ratings({pair: stars[pair] for pair in train}, {(0, 3): 4.0}, SHAPE)
    else:
        data = interactions(train, set(pairs) - train, SHAPE)
    dim = () if name in SOLVED else ("--dim", 3)
    model = build(name, *dim, *flags, data=data, device=device)
    for _ in range(2 if dim else 1):
        model.train_epoch(0.1, lambda: None)
    return model


def scores(scorer):
    """Scores (U, I) as an array."""
    out = torch.empty(SHAPE, device=scorer.device)
    scorer.score(torch.arange(SHAPE[0], device=scorer.device), out)
    return out.cpu().numpy()


def scores_in_use(model):
    return scores(scorer_in_use(model, torch.arange(SHAPE[0], device=model.device)))


@pytest.mark.parametrize("flags", LINEAR)
def test_the_mean_user_has_the_mean_of_the_scores(flags, device):
    model = trained_model(flags, device)
    own, found = scores(model.scorer()), scores_in_use(model)
    others = np.delete(own, COLD, axis=0)
    np.testing.assert_array_equal(np.delete(found, COLD, axis=0), others)
    mean = others.mean(0)
    assert np.ptp(mean) > 1e-3
    np.testing.assert_allclose(found[COLD], [mean] * 2, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["OneBP", "TwoBP"])
def test_cosine_is_of_the_mean_encoding(name, device):
    """As for --history: the mean comes first, its length then does not count."""
    model = trained_model(f"{name} --similarity cosine --temperature 0.5", device)
    p, q = (model.weights[kind].cpu().double().numpy() for kind in ("user", "item"))
    mean = np.delete(p, COLD, axis=0).mean(0)
    cosine = q @ mean / np.linalg.norm(q, axis=1) / np.linalg.norm(mean)
    np.testing.assert_allclose(scores_in_use(model)[COLD], [cosine] * 2, rtol=1e-4, atol=1e-6)


def test_the_distance_is_from_the_mean_point(device):
    model = trained_model("CML", device)
    p, q = (model.weights[kind].cpu().double().numpy() for kind in ("user", "item"))
    distance = ((np.delete(p, COLD, axis=0).mean(0) - q) ** 2).sum(1)
    np.testing.assert_allclose(scores_in_use(model)[COLD], [-distance] * 2, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["SVD", "SVDpp"])
def test_the_mean_user_of_ratings_does_not_deviate(name, device):
    """The prediction that is evaluated, too: mean + b_i."""
    model = trained_model(name, device)
    bias = model.weights["item_bias"][:, 0].cpu().numpy()
    assert np.abs(bias).max() > 0.01
    found = scores_in_use(model)
    np.testing.assert_allclose(found[COLD], [model.encoder.mean + bias] * 2, rtol=1e-5)
    np.testing.assert_allclose(found, scores(model.scorer()), rtol=1e-5)


@pytest.mark.parametrize(
    "flags", ["OneBP", "TwoBP --similarity cosine", "CML", "ALS --reg 0.1", "SVD"]
)
def test_exported_inner_products_are_the_scores(flags, device):
    model = trained_model(flags, device)
    users, items = encodings_in_use(model)
    found = (users @ items.T).cpu()
    np.testing.assert_allclose(found, scores_in_use(model), rtol=1e-4, atol=1e-5)
    assert model.encodings()[0][1].equal(users[1])


def test_users_with_training_do_not_need_the_mean(device):
    model = trained_model("OneBP", device)
    scorer = scorer_in_use(model, torch.tensor([1, 2], device=device))
    assert type(scorer) is type(model.scorer())


@pytest.fixture
def shop(work):
    """Users u0 to u9 with training, new1 and new2 without; `full` has had all of the 8 items."""
    random = np.random.default_rng(0)
    train = {(f"u{user}", item) for user, item in random.integers((10, 8), size=(40, 2)).tolist()}
    train |= {("full", item) for item in range(8)}
    test = {("new1", 3), ("new2", 5), ("new1", 4)}
    for split, pairs in (("train", train), ("test", test)):
        rows = "".join(f"{user},i{item}\n" for user, item in sorted(pairs))
        write(work / f"datasets/shop/{split}.csv", f"user,item\n{rows}")
    return work


@pytest.fixture
def use(shop, cli):
    """Train with some flags; returns a function that uses the model, without an error: stdout."""

    def train(*flags):
        words = ("--dataset", "shop", "--dim", 4, "--epochs", 3, "--lr", 0.1)
        assert cli(*words, *flags, *USE)[0] == 0

        def run(*words):
            status, stdout, stderr = cli("--mode", *words, *USE)
            assert (status, stderr) == (0, "")
            return stdout

        return run

    return train


@pytest.mark.parametrize("flags", [(), ("--similarity", "cosine", "--temperature", 0.5)])
def test_the_list_is_that_of_a_new_user_without_a_history(use, shop, flags):
    run = use(*flags)
    stdout = run("recommend", "--users", "new2", "--output", "cold.csv")
    what = "warning: no training interaction of user 'new2'; their list is that of the mean user"
    assert what in stdout
    write(shop / "history.csv", "user,item\nsomebody,i1\nnew2,unknown\n")
    run("recommend", "--history", "history.csv", "--output", "new.csv")
    new = pd.read_csv("new.csv").query("user == 'new2'").reset_index(drop=True)
    cold = pd.read_csv("cold.csv")
    assert len(cold) == 8
    pd.testing.assert_frame_equal(cold, new, rtol=1e-4)


def test_one_warning_counts_the_users(use):
    run = use()
    assert "of the mean" not in run("recommend", "--users", "u1,u2")
    stdout = run("recommend", "--users", "all", "--output", "all.csv")
    what = "no training interaction of 2 users ('new1', 'new2'); their list is that of the mean"
    assert (stdout.count(what), stdout.count("of the mean")) == (1, 1)
    lists = pd.read_csv("all.csv").set_index("user")
    assert lists.loc["new1"].to_numpy().tolist() == lists.loc["new2"].to_numpy().tolist()
    stdout = run("export", "--output", "out")
    assert "2 users ('new1', 'new2'); their row in users.npy is that of the mean" in stdout
    # Rows in the order of the ids: full, new1, new2, u0, ...
    rows = np.load("out/users.npy", allow_pickle=False)
    np.testing.assert_allclose(rows[1], np.delete(rows, [1, 2], axis=0).mean(0), rtol=1e-4)


def test_a_user_who_has_had_everything(use, shop):
    run = use()
    what = "no item is left for user 'full': all 8 items are seen; --keep_seen lists them"
    stdout = run("recommend", "--users", "full")
    assert what in stdout
    assert "DataFrame" not in stdout
    # one of several
    stdout = run("recommend", "--users", "full,u1", "--topk", 1)
    assert what in stdout
    assert stdout.splitlines()[-1].startswith("  u1")
    # with a file
    stdout = run("recommend", "--users", "full", "--output", "none.csv")
    assert what in stdout
    assert (shop / "none.csv").read_text() == "user,rank,item,score\n"
    # a new one
    write(shop / "h.csv", "user,item\n" + "".join(f"greedy,i{item}\n" for item in range(8)))
    assert "no item is left for user 'greedy'" in run("recommend", "--history", "h.csv")
    assert "no item is left" not in run("recommend", "--users", "full", "--keep_seen")
