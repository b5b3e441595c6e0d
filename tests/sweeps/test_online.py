"""`study.py online`: periods of time, groups of users and items, resume, and planted drift."""

import runpy

import numpy as np
import pandas as pd
import pytest
import torch
from study_tools import is_png
from tools import ROOT, build, write

import study
from checkpointing.files import load_checkpoint, save_checkpoint
from checkpointing.update import grown_state
from dataloader import load_dataset
from evaluate import DotProduct
from sources.filters import Choice
from sources.growth import grown
from sweeps.online import train_epochs
from sweeps.timeline import Timeline

drifting = runpy.run_path(str(ROOT / "benchmarks" / "drift.py"))["drifting"]


def shop(work, rows):
    """A data set with a row per time."""
    write(
        work / "datasets/shop/interactions.csv",
        "user,item,time\n" + "".join(f"{row},{time}\n" for time, row in enumerate(rows)),
    )


def timeline(work, start=0.5, periods=2):
    choice = Choice(split="time")
    return Timeline(
        load_dataset("shop", work / "datasets", choice=choice, details=True), start, periods
    )


class Known:
    """A model with encodings."""

    device = torch.device("cpu")

    def __init__(self, users, items, data):
        self.users, self.items, self.data = users, items, data

    def scorer(self):
        return DotProduct(self.users, self.items)

    def mean_user(self, trained):
        assert trained.all()
        return self.users.mean(0)


def test_periods_and_groups(work):
    """User c and item z come in the first period: c gets the mean user's list, z is in no list."""
    shop(work, ["a,x", "b,y", "b,x", "a,w", "c,x", "a,z", "c,w", "b,w"])
    line = timeline(work)
    assert line.cuts.tolist() == [4, 6, 8]
    data, users, items = line.known(0)
    assert (data.user_ids, data.item_ids) == (["a", "b"], ["w", "x", "y"])
    assert users.tolist() == [0, 1, -1]
    assert items.tolist() == [0, 1, 2, -1]
    assert line.known(1)[0].shape == (3, 4)
    model = Known(torch.tensor([[1.0, 0], [0, 1]]), torch.tensor([[1.0, 0], [2, 2], [0, 1]]), data)
    found = {
        group: values["Recall@20"]
        for group, values in line.evaluate(0, model, users, items).items()
    }
    assert found == {
        "all": 0.5,
        "known users": 0,
        "new users": 1,
        "known items": 1,
        "new items": 0,
    }
    later = line.evaluate(1, model, users, items)
    assert later["new users"]["Recall@20"] == later["known users"]["Recall@20"] == 1
    assert np.isnan(later["new items"]["Recall@20"])


def test_online_goes_on_where_it_stopped(work, capsys, monkeypatch):
    random = np.random.default_rng(1)
    pairs = {f"u{u},i{i}" for u, i in zip(*random.integers(25, size=(2, 500)), strict=True)}
    shop(work, random.permutation(sorted(pairs)))
    words = ["online", "--periods", "3", "--seeds", "1", "--models", "OneBP", "EASE"]
    words += ["--", "--dataset", "shop", "--split", "time"]
    assert study.main(words) == 0
    folder = work / "studies/online-shop"
    assert is_png(folder / "online.png")
    table = pd.read_csv(folder / "online.csv")
    assert table.groupby(["model", "way"]).size().to_dict() == {
        ("EASE", "anew"): 15,
        ("EASE", "never"): 15,
        ("OneBP", "anew"): 15,
        ("OneBP", "never"): 15,
        ("OneBP", "update"): 15,
    }
    capsys.readouterr()
    monkeypatch.setattr("sweeps.online.Chain.go_on", None)  # nothing is repeated
    assert study.main(words) == 0
    assert "OneBP: an update keeps" in capsys.readouterr().out

    # What was made by other flags or periods stays, and so does a damaged file.
    one, file = ["online", "--models", "OneBP"], folder / "chains/OneBP,seed=1.pt"
    whole = file.read_bytes()
    state = load_checkpoint(file)
    damaged = {**state, "rows": 5}
    for more, content, said in (
        (["--epochs", "3"], state, "is of a study with --epochs 30, not 3; give what it had, or"),
        (["--popularity_weight", "1"], state, "with --popularity_weight 0.0, not 1.0"),
        ([], damaged, "rows is no list); remove it, then its periods are trained anew"),
        ([], None, "OneBP,seed=1.pt is damaged or no checkpoint"),
    ):
        file.write_bytes(b"text") if content is None else save_checkpoint(file, content)
        before = file.read_bytes()
        assert study.main([*one, "--periods", "3", *words[8:], *more]) == 2
        assert said in capsys.readouterr().err
        assert file.read_bytes() == before
    file.write_bytes(whole)
    assert study.main([*one, "--periods", "2", *words[8:]]) == 2
    assert "is of a study with --periods 3, not 2; give what it had" in capsys.readouterr().err
    write(work / "flags.toml", "patience = 1\n")
    assert study.main([*one, *words[8:], "--config", "flags.toml"]) == 2
    assert "--patience is for the study itself to set" in capsys.readouterr().err
    assert study.main(["--over", "N=1", "--name", "online-shop", "--", "--dataset", "shop"]) == 2
    assert "online-shop holds another kind of study (chains)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--", "--dataset", "demo"], "demo has no times"),
        (["--", "--model", "EASE"], "--model is for the study itself to set"),
        (["--", "--seed", "7"], "--seed is for the study itself to set; give --seeds"),
        (["--", "--patience", "1"], "--patience is for the study itself to set"),
        (["--", "--select", "valid"], "--select is for the study itself to set"),
        (
            ["--periods", "500", "--", "--dataset", "shop", "--split", "time"],
            "too few interactions",
        ),
        (["--over", "N=1"], "unrecognized arguments: --over"),
    ],
)
def test_mistakes(work, capsys, words, said):
    shop(work, ["a,x", "b,y", "b,x", "a,w", "c,x"])
    try:
        status = study.main(["online", *words])
    except SystemExit as exit:
        status = exit.code
    assert status == 2
    stderr = capsys.readouterr().err
    assert stderr.count("\n") == 1
    assert said in stderr


@pytest.mark.parametrize("loss", ["InfoNCE", "ELSA"])
def test_an_update_follows_planted_drift(work, loss):
    """Tastes of half of the users change; new users and items appear, each of a genre."""
    table, genres = drifting(users=200, items=150, rows=9000, seed=1)
    shop(work, (table["user"] + "," + table["item"]).tolist())
    line = timeline(work, 0.5, 2)
    flags = ["--loss", loss, "--dim", 16, "--epochs", 30, "--lr", 0.02, "--compile", "off"]
    flags += ["--batch_size", 512 if loss == "InfoNCE" else 64]
    before, after = line.known(0), line.known(1)
    first = build("OneBP", *flags, data=before[0])
    train_epochs(first, first.args)
    update = build("OneBP", *flags, data=grown(before[0], after[0], "g"))
    update.start_training(grown_state(update, first.state_dict(), before[0]))
    train_epochs(update, update.args.replace(epochs=10, lr_schedule="step"))
    old = line.evaluate(1, first, *before[1:])
    new = line.evaluate(1, update, *after[1:])
    assert new["all"]["Recall@20"] > 1.3 * old["all"]["Recall@20"]
    assert new["new items"]["Recall@20"] > old["new items"]["Recall@20"] == 0

    # The lists of new users, and the new items' nearest items, are of the planted genre.
    users, items = update.encodings()
    data = after[0]
    genre_of = np.array([genres["item"][item] for item in data.item_ids])
    for names, old_names, encodings, kind in (
        (data.user_ids, before[0].user_ids, users, "user"),
        (data.item_ids, before[0].item_ids, items / items.norm(dim=1, keepdim=True), "item"),
    ):
        fresh = [number for number, name in enumerate(names) if name not in set(old_names)]
        lists = (encodings[fresh] @ (items / items.norm(dim=1, keepdim=True)).T).topk(10).indices
        wanted = np.array([genres[kind][names[number]] for number in fresh])
        assert (genre_of[lists.numpy()] == wanted[:, None]).mean() > 0.6, kind
