"""users.parquet and the groups: means, order, resume, several processes, --mode evaluate."""

import json

import numpy as np
import pandas as pd
import pyarrow
import pytest
import torch
from pyarrow import parquet
from tools import interactions

import train
from dataloader import load_dataset
from engine.metrics.found import groups_of
from evaluate import DotProduct, Ranking

FAST = ("--epochs", 8)  # epoch 5 is the best


def users_of(name):
    return pd.read_parquet(f"runs/{name}/users.parquet")


def summary_of(name, work):
    return json.loads((work / f"runs/{name}/summary.json").read_text())


@pytest.mark.parametrize("select", ["test", "valid"])
def test_the_rows_are_those_of_the_best_epoch(cli, work, select):
    """Their means are the metrics that summary.json has of that epoch; evaluate writes the same."""
    assert cli(*FAST, "--select", select, "--run_name", "mine")[0] == 0
    users, best = users_of("mine"), summary_of("mine", work)["best"]
    assert best["epoch"] < 8  # another epoch's rows would show
    names = list(Ranking.metrics)
    assert list(users) == ["user", "interactions", *names]
    assert users[names].mean().to_dict() == pytest.approx(
        {name: best[name] for name in names}, abs=1e-12
    )
    schema = parquet.read_schema("runs/mine/users.parquet")
    assert schema.types == [pyarrow.string(), pyarrow.int64(), *[pyarrow.float64()] * len(names)]

    data = load_dataset("demo", "datasets", validate=select == "valid")
    assert users["user"].tolist() == data.user_ids
    assert users["interactions"].tolist() == np.diff(data.train.indptr).tolist()

    assert cli("--mode", "evaluate", "--run_name", "mine")[0] == 0
    pd.testing.assert_frame_equal(users_of("mine-evaluate"), users)
    evaluated, trained = (summary_of(name, work) for name in ("mine-evaluate", "mine"))
    assert evaluated["best"] == best
    for entry in ("dataset", "protocol"):
        assert evaluated[entry] == trained[entry]


def test_only_an_interrupted_run_evaluates_its_best_epoch_again(cli, work, monkeypatch):
    """One that is stopped after it, also after the last epoch, ends with the same rows."""
    assert cli(*FAST, "--run_name", "whole")[0] == 0
    best = summary_of("whole", work)["best"]["epoch"]
    assert 2 < best < 8

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "final_metrics", stop)
    assert cli(*FAST, "--run_name", "cut")[0] == 130
    assert not (work / "runs/cut/users.parquet").exists()
    monkeypatch.undo()
    monkeypatch.chdir(work)
    assert cli(*FAST, "--run_name", "cut", "--train_mode", "continue")[0] == 0
    pd.testing.assert_frame_equal(users_of("cut"), users_of("whole"))

    assert cli("--epochs", best, "--run_name", "later", "--save_every", 1)[0] == 0
    assert cli(*FAST, "--run_name", "later", "--train_mode", "continue")[0] == 0
    pd.testing.assert_frame_equal(users_of("later"), users_of("whole"))


def test_the_best_epoch_is_not_evaluated_twice(cli, work, monkeypatch):
    count = []
    sums = Ranking.sums
    monkeypatch.setattr(Ranking, "sums", lambda *given: count.append(1) or sums(*given))
    assert cli("--model", "EASE")[0] == 0
    assert len(count) == 2  # the one epoch, and Popularity


def test_groups_by_hand():
    """Ten users and five items; the model lists the items in the order of their index."""
    train_pairs = {(user, item) for user in range(10) for item in range(5) if item > 9 - user}
    test = {(user, 0) for user in range(9)} | {(0, 4), (1, 3)}
    data = interactions(train_pairs - test, test, (10, 5))
    kind = Ranking.choose(["Recall"], [1], "Recall@1")
    evaluator = kind(data.test, [data.train], torch.device("cpu"))
    scorer = DotProduct(torch.ones(10, 1), -torch.arange(5.0)[:, None])
    evaluator.evaluate(scorer)
    users, groups = evaluator.found.tables(data, kind.headline)
    assert users["user"].tolist() == [str(user) for user in range(9)]
    assert groups["users"].to_dict("list") == {
        "users": [2, 2, 2, 2, 1],
        "interactions": ["0", "0", "0", "1-2", "3"],
        "Recall@1": [0.5, 1, 1, 1, 1],
    }
    expected = {
        "items": [1, 1, 1, 1, 1],
        "interactions": ["0", "1", "2", "3", "4"],
        "test interactions": [9, 0, 0, 1, 1],
        "Recall@1": [1, np.nan, np.nan, 0, 0],  # nothing to find is not nothing found
    }
    pd.testing.assert_frame_equal(groups["items"], pd.DataFrame(expected), check_dtype=False)


def test_groups_have_equal_sizes():
    numbers = np.array([3, 1, 2, 2, 5, 4, 1])
    assert [group.tolist() for group in groups_of(numbers)] == [[1, 6], [2, 3], [0], [5], [4]]
    assert [len(group) for group in groups_of(np.arange(3))] == [1, 1, 1]


def test_ratings_leave_no_users(cli, work):
    assert cli("--model", "SVD", "--epochs", 1, "--dim", 4, "--run_name", "mine")[0] == 0
    assert not (work / "runs/mine/users.parquet").exists()
    assert cli("--mode", "evaluate", "--run_name", "mine")[0] == 0
    assert not (work / "runs/mine-evaluate").exists()
