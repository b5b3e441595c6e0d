"""--mode evaluate --recommendations: lists of other programs get the metrics of models."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from tools import build, interactions, made_data

from cli.errors import UserError
from evaluate import Ranking
from inference.lists import ListScores, read_lists

CPU = torch.device("cpu")
# Users 0 to 2, items a to d; training: 0 has a, 1 has b; test: 0 has c and d, 1 has a, 2 has b.
IDS = "abcd"


@pytest.fixture
def data():
    made = interactions([(0, 0), (1, 1)], [(0, 2), (0, 3), (1, 0), (2, 1)], (3, 4))
    made.item_ids[:] = IDS
    return made


def judged(text, data, work):
    (work / "lists.csv").write_text(text)
    places = read_lists("lists.csv", data)
    return Ranking(data.test, data.seen("test"), CPU).evaluate(ListScores(places, CPU))


def test_a_toy_answer(data, work):
    """User 0: d at place 2 of 2; user 1: a at place 1; user 2 has no list."""
    found = judged("user,item\n0,b\n1,a\n0,d\n", data, work)
    assert found["Recall@5"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert found["NDCG@5"] == pytest.approx(
        (np.log(2) / np.log(3) / (1 + np.log(2) / np.log(3)) + 1) / 3
    )
    assert found["Precision@5"] == pytest.approx((1 / 5 + 1 / 5) / 3)


@pytest.mark.parametrize(
    "text",
    [
        "user,item,rank\n0,d,7\n1,a,1\n0,b,3\n",
        "item,score,user\nd,-2,0\na,1,1\nb,-1.5,0\n",
        "User,Item,title,Score\n0,d,x,1e-300\n1,a,y,1\n0,b,z,2e-300\n",  # float32 has both as 0
        "user,item\n0,a\n0,b\n1,b\n1,a\n0,d\n9,a\n",  # training items and an unknown user
    ],
)
def test_ranks_scores_and_what_is_left_out(data, work, text):
    assert judged(text, data, work) == judged("user,item\n0,b\n1,a\n0,d\n", data, work)


def test_of_equal_scores_the_lower_item_comes_first(data, work):
    tied = judged("user,item,score\n0,d,1\n0,c,1\n0,b,1\n", data, work)
    assert tied == judged("user,item\n0,b\n0,c\n0,d\n", data, work)


def test_lists_of_a_model_have_its_metrics(work):
    data = made_data()
    model = build("EASE", data=data)
    model.train_epoch(0.0, lambda: None)
    scores = torch.empty(data.shape)
    model.scorer().score(torch.arange(len(scores)), scores)
    scores = scores.double().numpy()
    scores[data.train.nonzero()] = -np.inf
    best = np.argsort(-scores, axis=1, kind="stable")[:, :20]
    users = np.repeat(np.arange(len(best)), 20)
    table = pd.DataFrame({"user": users, "item": best.ravel()})
    assert judged(table.to_csv(index=False), data, work) == model.evaluate("test")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("user,item\n0,b\n0,z\n1,z\n", "lists.csv:3: item 'z' is not in made (and 1 more rows)"),
        ("user,item\n0,b\n1,b\n0,b\n", "lists.csv:4: user '0' has 'b' twice"),
        ("user,item\n0,b\n\n0,b\n", "lists.csv:4: user '0' has 'b' twice"),
        ("user,item,rank\n0,b,1\n0,c,1\n", "lists.csv:3: user '0' has rank 1 twice"),
        ("user,item,rank\n0,b,1\n0,c,first\n", "lists.csv:3: rank 'first' is no number"),
        ("user,item,score\n0,b,\n", "lists.csv:2: score '' is no number"),
        ("user,item,score\n0,b,nan\n", "lists.csv:2: score 'nan' is no number"),
        ("0,b\n1,c\n", "lists.csv has no column user, only 0, b; it needs a header with user"),
        ("user,item\n", "lists.csv has no lists"),
        ("", "lists.csv is no CSV file with a header with user, item"),
        ("user,item\n0,b,5,6\n1,b\n0,c,1\n", "lists.csv"),
        ('user,item\n0,b\n"0,c\n1,b\n1",c\n', "lists.csv, line 3: a quotation mark opens here"),
        ('user,item\n0,b\n0,"c\n1,b\n', "lists.csv, line 3: a quotation mark begins a field"),
        ("user,item\n0,b\0\n", "lists.csv, line 2: a NUL character"),
    ],
)
def test_mistakes_are_one_line(data, work, text, words):
    with pytest.raises(UserError) as raised:
        judged(text, data, work)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_absent_or_no_text(data, work):
    with pytest.raises(UserError, match=r"cannot read lists\.csv \(No such file"):
        read_lists("lists.csv", data)
    (work / "lists.csv").write_bytes(b"user,item\n0,\xff\xfe\n")
    with pytest.raises(UserError, match=r"lists\.csv is not UTF-8 text"):
        read_lists("lists.csv", data)


@pytest.fixture
def recommended(cli, work):
    """A run, and lists that it recommends."""
    assert cli("--model", "EASE", "--run_name", "ease")[0] == 0
    recommend = ("--mode", "recommend", "--run_name", "ease", "--users", "all", "--topk", 20)
    assert cli(*recommend, "--output", "lists.csv")[0] == 0
    return work / "runs"


def test_a_run_is_left_as_of_a_model(cli, recommended):
    """Its metrics and users are those of the run that made the lists; a short list has misses."""
    judge = ("--mode", "evaluate", "--recommendations", "lists.csv")
    status, stdout, stderr = cli(*judge)
    assert (status, stderr) == (0, "")
    assert "lists of 600 users, of at most 20 items" in stdout
    summaries = [
        json.loads((recommended / f"{name}/summary.json").read_text())
        for name in ("ease", "demo-lists")
    ]
    one, other = (summary["best"] for summary in summaries)
    assert {**one, "epoch": 0} == other
    assert summaries[0]["dataset"] == summaries[1]["dataset"]
    tables = [
        pd.read_parquet(recommended / f"{name}/users.parquet") for name in ("ease", "demo-lists")
    ]
    pd.testing.assert_frame_equal(*tables)

    status, stdout, _ = cli(*judge, "--metrics", "HR", "--cutoffs", 1, "--run_name", "first")
    assert status == 0
    assert list(pd.read_parquet(recommended / "first/users.parquet")) == [
        "user",
        "interactions",
        "HR@1",
    ]

    status, _, stderr = cli(*judge, "--run_name", "ease")
    assert status == 2
    assert "runs/ease is a trained run: give the lists another --run_name" in stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--dim 3", "--dim does nothing with --recommendations"),
        ("--checkpoint last", "--checkpoint does nothing with --recommendations"),
        ("--popularity_weight 1", "--popularity_weight does nothing with --recommendations"),
        ("--mode train", "--recommendations does nothing with --mode train, only with evaluate"),
        ("--model SVD", "--recommendations does nothing with --model SVD"),
    ],
)
def test_flags_that_do_nothing_are_refused(cli, work, flags, words):
    status, _, stderr = cli("--mode", "evaluate", "--recommendations", "lists.csv", *flags.split())
    assert (status, stderr.count("\n")) == (2, 1)
    assert words in stderr
