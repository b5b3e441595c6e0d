"""What one does with a trained model, from the command line, against slow references."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from tools import matrix, write

from checkpointing.files import load_checkpoint
from engine.tables import UserItems
from evaluate import DotProduct
from inference.recommend import recommendations
from model import moving_aggregation
from sources.demo import demo_interactions

RUN = ("--epochs", 6, "--lr", 0.02, "--dim", 8, "--device", "cpu", "--run_name", "mine")
USE = ("--run_name", "mine", "--device", "cpu")


@pytest.fixture
def command(cli):
    """Run main.py's `main` here, without an error: returns stdout."""

    def run(*words):
        status, stdout, stderr = cli(*words)
        assert (status, stderr) == (0, "")
        return stdout

    return run


@pytest.fixture
def shop(work, cli):
    """A data set of one's own, with titles, and a model trained on it."""
    random = np.random.default_rng(0)
    rows = {(f"u{user}", f"i{item:02}") for user, item in random.integers((30, 40), size=(600, 2))}
    write(
        work / "datasets/shop/interactions.csv",
        "user,item\n" + "".join(f"{u},{i}\n" for u, i in sorted(rows)),
    )
    titles = "".join(f'i{item:02},"Item, {item}",x|y\n' for item in range(0, 40, 2))
    write(work / "datasets/shop/items.csv", f"item_id,title,genres\n{titles}")
    assert cli("--dataset", "shop", *RUN)[0] == 0
    return work


def trained(work, name="mine"):
    """Encodings of the best checkpoint (P, Q), by an inner product of which the model ranks."""
    weights = load_checkpoint(work / f"checkpoints/{name}/best.pt")["model"]["encoder"]
    return weights["user"].double().numpy(), weights["item"].double().numpy()


@pytest.mark.parametrize(
    "flags", ["", "--select valid", "--encoder LightGCN --layers 1", "--model EASE", "--model Walk"]
)
def test_evaluate_prints_the_same_numbers(cli, work, flags, command):
    size = () if "--model" in flags else RUN[:6]
    assert cli(*size, *flags.split(), *USE)[0] == 0
    summary = json.loads((work / "runs/mine/summary.json").read_text())
    stdout = command("--mode", "evaluate", *USE)
    printed = {
        words[0]: words[1:]
        for line in stdout.splitlines()
        if (words := line.split()) and "@" in words[0]
    }
    assert {name: values[0] for name, values in printed.items()} == {
        name: f"{summary['best'][name]:.4f}" for name in printed
    }
    assert len(printed) == 12
    if "valid" in flags:
        assert printed["Recall@20"][1] == f"{summary['best']['valid']['Recall@20']:.4f}"


def test_recommend_against_a_slow_reference(shop, command):
    from dataloader import load_dataset

    command(
        "--mode",
        "recommend",
        "--dataset",
        "shop",
        *USE,
        "--users",
        "all",
        "--topk",
        7,
        "--output",
        "recs.csv",
    )
    table = pd.read_csv("recs.csv", keep_default_na=False)
    assert list(table) == ["user", "rank", "item", "score", "title"]
    data = load_dataset("shop", "datasets")
    p, q = trained(shop)
    seen = data.train.toarray()
    for number, user in enumerate(data.user_ids):
        own = table[table["user"] == user]
        scores = np.where(seen[number], -np.inf, q @ p[number])
        best = np.argsort(-scores, kind="stable")[:7]
        assert own["item"].tolist() == [data.item_ids[item] for item in best]
        assert own["rank"].tolist() == list(range(1, 8))
        np.testing.assert_allclose(own["score"], scores[best], rtol=1e-4, atol=1e-6)
    for item, title in zip(table["item"], table["title"], strict=True):
        assert title == ("" if int(item[1:]) % 2 else f"Item, {int(item[1:])}")


def test_recommend_to_some_and_what_they_have_seen(shop, cli, command):
    flags = ("--mode", "recommend", *USE, "--dataset", "shop", "--topk", 99)
    assert cli(*flags, "--users", "u3, u1,u3", "--output", "new.csv")[0] == 0
    assert cli(*flags, "--users", "u3,u1", "--keep_seen", "--output", "all.csv")[0] == 0
    new, every = pd.read_csv("new.csv"), pd.read_csv("all.csv")
    assert new["user"].unique().tolist() == ["u3", "u1"]
    assert every["user"].value_counts().to_dict() == {"u3": 40, "u1": 40}
    assert len(new) < len(every)  # lists end where nothing unseen is left
    merged = new.merge(every, on=["user", "item"])
    assert len(merged) == len(new)
    # the data set is the checkpoint's
    stdout = command("--mode", "recommend", *USE, "--users", "u1", "--topk", 3)
    assert [line.split()[:2] for line in stdout.splitlines()[-3:]] == [
        ["u1", "1"],
        ["u1", "2"],
        ["u1", "3"],
    ]


def test_lists_end_where_no_item_is_left():
    scorer = DotProduct(torch.ones(2, 1), torch.arange(3.0)[:, None])
    seen = UserItems(matrix({(0, 2), (1, 0), (1, 1), (1, 2)}, (2, 3)), "cpu")
    table = recommendations(scorer, 3, torch.tensor([0, 1]), [seen], 3)
    assert table.to_numpy().tolist() == [[0, 1, 1, 1.0], [0, 2, 0, 0.0]]


@pytest.mark.filterwarnings("error::UserWarning")  # stderr shows them
def test_new_users_are_moved_as_in_training(shop, cli, command):
    """One interaction after the other, in file order, twice, from the mean encoding.

    Unknown items are left out, and the first of two equal interactions.
    """
    history = [("new", "i03"), ("other", "i07"), ("new", "i01"), ("new", "??"), ("new", "i03")]
    write(shop / "new.csv", "user,item\n" + "".join(f"{user},{item}\n" for user, item in history))
    use = ("--mode", "recommend", *USE, "--history", "new.csv", "--passes", 2, "--topk", 99)
    stdout = command(*use, "--keep_seen", "--output", "recs.csv")
    assert (
        "warning: 1 of 5 interactions left out: their items are unknown, for example '??'" in stdout
    )
    p, q = trained(shop)
    expected = {"new": p.mean(0), "other": p.mean(0)}
    for user, item in history[1:] * 2:
        if item != "??":
            expected[user] = 0.99 * expected[user] + 0.01 * q[int(item[1:])]
    table = pd.read_csv("recs.csv")
    for row in table.itertuples():
        assert row.score == pytest.approx(
            expected[row.user] @ q[int(row.item[1:])], rel=1e-4, abs=1e-6
        )
    assert cli(*use, "--output", "unseen.csv")[0] == 0
    assert len(table) == 80
    assert len(pd.read_csv("unseen.csv")) == 80 - 2 - 1


def test_a_history_counts_as_the_data_of_the_training_do(work, cli, command):
    """In the order of times, from --min_rating on; users of the training are told."""
    random = np.random.default_rng(0)
    pairs = {(f"u{user}", f"i{item}") for user, item in random.integers((30, 40), size=(600, 2))}
    lines = [f"{user},{item},{n % 5 + 1}\n" for n, (user, item) in enumerate(sorted(pairs))]
    write(work / "datasets/rated/ratings.csv", "user,item,rating\n" + "".join(lines))
    command("--dataset", "rated", "--min_rating", 2, *RUN)
    use = ("--mode", "recommend", *USE, "--passes", 1, "--topk", 99, "--output", "recs.csv")
    rows = ["new,i3,5,30", "u1,i5,2,20", "new,i7,1,10", "new,i1,4,10"]
    write(work / "new.csv", "user,item,rating,time\n" + "\n".join(rows) + "\n")
    stdout = command(*use, "--history", "new.csv")
    assert "new.csv: in the order of its times" in stdout
    assert "new.csv: 3 of 4 rows have a rating of 2 or more" in stdout
    assert "warning: 1 of these users are in the training, for example 'u1'" in stdout
    table = pd.read_csv("recs.csv")
    assert {"i1", "i3"}.isdisjoint(table["item"][table["user"] == "new"])
    assert "i7" in table["item"][table["user"] == "new"].tolist()  # its rating is too low
    p, q = trained(work)
    seen = np.unique(np.char.add("u", np.arange(30).astype(str)))
    assert len(p) == len(seen)  # each user has something to train on
    names = sorted({item for _, item in pairs})
    expected = p.mean(0)
    for item in ("i1", "i3"):
        expected = 0.99 * expected + 0.01 * q[names.index(item)]
    for row in table[table["user"] == "new"].itertuples():
        assert row.score == pytest.approx(expected @ q[names.index(row.item)], rel=1e-4, abs=1e-6)

    # Users stay in the order of the file, also one without an item that counts.
    write(work / "new.csv", "user,item,rating,time\nb,i3,1,5\na,i1,5,\nc,i1,5,1\n")
    stdout = command(*use, "--history", "new.csv")
    assert "1 users have no known item that counts; their list is that of the mean user" in stdout
    assert "warning: new.csv, line 3" in stdout  # a time is missing
    assert "so its rows count in their order" in stdout
    table = pd.read_csv("recs.csv")
    assert table["user"].drop_duplicates().tolist() == ["b", "a", "c"]

    for text, line in (
        (
            "user,item\nnew,i3\n",
            "has no ratings that are recognised, and the run has --min_rating 2",
        ),
        ("user,item,rating\nnew,i3,\n", "the run has --min_rating 2"),
        ("user,item,rating\nnew,i3,1\n", "new.csv has no rating of 2 or more, as the run has it"),
        ("user,item,rating\n", "new.csv has no rows"),
        ("who,what,rating\nnew,i3,5\n", "it is read by the flags of the training"),
    ):
        write(work / "new.csv", text)
        status, _, stderr = cli(*use, "--history", "new.csv")
        assert (status, stderr.count("\n")) == (2, 1)
        assert line in stderr


def test_new_users_with_cosine_and_without_known_items(cli, work):
    assert cli(*RUN, "--similarity", "cosine", "--temperature", 0.5)[0] == 0
    item = demo_interactions()[1][0]
    write(work / "new.csv", f"user,item\nnew,{item}\nlost,?\n")
    flags = (
        "--mode",
        "recommend",
        *USE,
        "--history",
        "new.csv",
        "--keep_seen",
        "--topk",
        5,
        "--output",
        "recs.csv",
    )
    status, stdout, _ = cli(*flags)
    assert status == 0
    assert "1 users have no known item that counts; their list is that of the mean user" in stdout
    p, q = trained(work)
    unit = q / np.linalg.norm(q, axis=1, keepdims=True)
    mean = p.mean(0) / np.linalg.norm(p.mean(0))
    table = pd.read_csv("recs.csv")
    np.testing.assert_allclose(
        table["score"][table["user"] == "lost"], np.sort(unit @ mean)[:-6:-1], rtol=1e-4
    )


def test_validation_items_are_not_recommended(cli, work):
    from dataloader import load_dataset

    assert cli(*RUN, "--select", "valid")[0] == 0
    flags = ("--mode", "recommend", *USE, "--users", "all", "--topk", 900, "--output", "recs.csv")
    assert cli(*flags)[0] == 0
    data, sizes = (
        load_dataset("demo", "datasets", validate=True),
        pd.read_csv("recs.csv")["user"].value_counts(),
    )
    left = 900 - np.diff(data.train.indptr) - np.diff(data.valid.indptr)
    assert [sizes[user] for user in data.user_ids] == left.tolist()


def test_the_moves_of_a_history_are_those_of_the_formula():
    random = np.random.default_rng(0)
    q = torch.tensor(random.normal(size=(500, 3)))
    p = torch.zeros(1, 3, dtype=torch.float64)
    expected = np.zeros(3)
    for row in q.numpy():
        expected = 0.9 * expected + 0.1 * row
    moving_aggregation(p, torch.zeros(500, dtype=torch.int64), q, 0.9, "sequential")
    np.testing.assert_allclose(p[0], expected, rtol=1e-9)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_export_ranks_like_the_model(cli, work, similarity, command):
    assert cli(*RUN, "--similarity", similarity, "--temperature", 0.5)[0] == 0
    command("--mode", "export", *USE, "--output", "out")
    users, items = (np.load(f"out/{name}.npy", allow_pickle=False) for name in ("users", "items"))
    assert (users.shape, items.shape, users.dtype) == ((600, 8), (900, 8), np.float32)
    ids = pd.read_csv("out/ids.csv")
    names = {kind: part.sort_values("row")["id"].tolist() for kind, part in ids.groupby("kind")}
    flags = ("--users", names["user"][5], "--keep_seen", "--topk", 4, "--output", "recs.csv")
    assert cli("--mode", "recommend", *USE, *flags)[0] == 0
    best = np.argsort(-(items @ users[5]))[:4]
    assert pd.read_csv("recs.csv")["item"].tolist() == [names["item"][row] for row in best]
    assert (work / "out/README.md").read_text().count("\n") <= 8


MISTAKES = {
    "recommend --users u1,nobody": "shop has no user 'nobody' (unknown: 1 of 2 ids); its",
    "recommend --users u1 --dim 9": "was trained with --dim 8; leave --dim 9 out",
    "recommend --history absent.csv": "cannot read absent.csv (No such file",
    "recommend --history datasets/shop/items.csv": "no column is known to be the user",
    "evaluate --checkpoint_dir absent": "no checkpoint at absent/mine/best.pt",
    "recommend --users all --output datasets": (
        "--output datasets is a folder; give the name of a file"
    ),
    "export --output datasets/shop/items.csv": "datasets/shop/items.csv: ",
}


def test_mistakes_are_one_line(shop, cli):
    for flags, words in MISTAKES.items():
        status, _, stderr = cli(*USE, "--mode", *flags.split())
        assert (status, stderr.count("\n")) == (2, 1)
        assert words in stderr


def test_another_data_set_than_the_checkpoints(shop, cli):
    with open("datasets/shop/interactions.csv", "a") as file:
        file.write("u1,i99\n")
    status, _, stderr = cli("--mode", "evaluate", *USE)
    assert (status, stderr.count("\n")) == (2, 1)
    assert "checkpoints/mine/best.pt has digest" in stderr


@pytest.mark.parametrize(
    ("train", "words"),
    [
        (
            ("--model", "TwoBP"),
            "--history moves new users as OneBP moves its own; TwoBP has no such rule",
        ),
        (
            ("--encoder", "LightGCN"),
            "--history needs an --encoder like MF; LightGCN computes users from the graph",
        ),
    ],
)
def test_models_without_a_rule_for_new_users(cli, work, train, words):
    assert cli("--epochs", 1, "--dim", 4, *train, "--run_name", "mine")[0] == 0
    write(work / "new.csv", f"user,item\nnew,{demo_interactions()[1][0]}\n")
    status, _, stderr = cli("--mode", "recommend", *USE, "--history", "new.csv")
    assert (status, stderr.count("\n")) == (2, 1)
    assert words in stderr


@pytest.mark.parametrize("name", ["EASE", "Walk", "ItemKNN"])
def test_a_model_without_encodings_has_nothing_to_export(cli, work, name):
    assert cli("--model", name, "--run_name", "mine")[0] == 0
    status, _, stderr = cli("--mode", "export", *USE, "--output", "out")
    assert status == 2
    assert f"{name} scores by the user's items and has no encodings" in stderr
    assert not (work / "out").exists()


def test_ids_and_titles_that_command_a_terminal_or_a_spreadsheet(work, command):
    """Escaped where they are printed, unchanged in CSV, with an apostrophe by --safe_csv."""
    ids = ["\x1b]0;i\x07", "=1+2", "-3", "plain", "é\x85"]
    users = ["@SUM(1)", "\x1b[2J"]
    rows = [f"{user},{item}\n" for user in users for item in ids[:3]]
    write(work / "datasets/odd/train.csv", "user,item\n" + "".join(rows))
    write(work / "datasets/odd/test.csv", f"user,item\n{users[0]},{ids[3]}\n{users[1]},{ids[4]}\n")
    titles = "".join(f'{item},"=T\x1b{item}"\n' for item in ids)
    write(work / "datasets/odd/items.csv", f"item_id,title\n{titles}")
    command("--dataset", "odd", *RUN, "--threads", 1)
    ask = ("--mode", "recommend", *USE, "--users", "all", "--keep_seen")

    printed = command(*ask)
    assert "\\x1b]0;i\\x07" in printed
    assert "=T\\x1bé\\x85" in printed
    assert not [sign for sign in printed if not sign.isprintable() and sign != "\n"]
    log_text = (work / "runs/mine/log.txt").read_text()
    assert not [sign for sign in log_text if not sign.isprintable() and sign != "\n"]

    def written(*more):
        command(*ask, "--output", "recs.csv", *more)
        table = pd.read_csv("recs.csv", dtype=str, lineterminator="\n")
        return {name: set(table[name]) for name in ("user", "item", "title")}

    assert written() == {"user": {*users}, "item": {*ids}, "title": {f"=T\x1b{i}" for i in ids}}
    safe = written("--safe_csv")
    assert safe["item"] == {ids[0], "'=1+2", "'-3", "plain", ids[4]}
    assert safe["user"] == {"'@SUM(1)", users[1]}
    assert all(title.startswith("'=T") for title in safe["title"])
