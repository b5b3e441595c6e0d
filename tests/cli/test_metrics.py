"""--metrics, --cutoffs and --monitor: values, defaults, contradictions, what follows them."""

import json

import pandas as pd
import pytest

from cli.metrics import BEST_BY, CHOSEN, CUTOFFS, headline_of, monitor_of, names_of
from evaluate import PairRanking, Ranking
from parse import parse_args

OTHERS = ("--metrics", "map", "gini", "--cutoffs", 3, 7)


def test_the_defaults_are_those_of_the_evaluators():
    for kind in (Ranking, PairRanking):
        same = kind.choose(CHOSEN, CUTOFFS, BEST_BY[kind.ranking])
        assert same.metrics == kind.metrics
        assert (same.monitor, same.headline) == (kind.monitor, kind.headline)


@pytest.mark.parametrize(
    ("flags", "monitor"),
    [
        ("", "Recall@20"),
        ("--ranking pairs", "NDCG@100"),
        ("--metrics MRR NDCG --cutoffs 1 10 3", "MRR@10"),
        ("--monitor ndcg@5", "NDCG@5"),
        ("--ranking pairs --monitor auc", "AUC"),
    ],
)
def test_the_monitored_metric(flags, monitor):
    assert monitor_of(parse_args(flags.split())) == monitor


def test_what_is_shown():
    names = names_of(["MAP", "NDCG"], [5, 10])
    assert headline_of("MAP@5", ["MAP", "NDCG"], names) == ("MAP@5", "NDCG@5")
    assert headline_of("NDCG@5", ["MAP", "NDCG"], names) == ("NDCG@5", "MAP@5")
    assert headline_of("MAP@5", ["MAP"], names_of(["MAP"], [5])) == ("MAP@5",)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ("--monitor Recall@7", "--monitor Recall@7 is not among the metrics: Recall@5, Recall@10"),
        ("--cutoffs 5 7 5", "--cutoffs has 5 twice"),
        ("--metrics MAP map", "--metrics has MAP twice"),
        ("--metrics Luck", "'Luck' is not one of Recall, Precision"),
        ("--cutoffs 0", "'0' is not a whole number from 1"),
        ("--ranking pairs --cutoffs 50", "leave NDCG out of --metrics, or 50 out of --cutoffs"),
        ("--model SVD --metrics MAP", "--metrics does nothing with --model SVD, only with"),
        ("--model DeepFM --cutoffs 3", "--cutoffs does nothing with --model DeepFM, only with"),
    ],
)
def test_mistakes_are_one_line(cli, flags, line):
    status, _, stderr = cli(*flags.split())
    assert (status, stderr.count("\n")) == (2, 1)
    assert line in stderr


def test_a_run_with_other_metrics(cli, work):
    """The smallest Gini is the best; what chose the epoch may not change; evaluate may differ."""
    flags = ("--epochs", 4, "--dim", 8, "--run_name", "mine", *OTHERS)
    status, stdout, stderr = cli(*flags, "--monitor", "Gini@7")
    assert (status, stderr) == (0, "")
    names = ["MAP@3", "MAP@7", "Gini@3", "Gini@7"]
    rows = pd.read_csv("runs/mine/metrics.csv")
    assert list(rows)[5:] == names
    summary = json.loads((work / "runs/mine/summary.json").read_text())
    assert summary["best"]["epoch"] == rows["epoch"][rows["Gini@7"].idxmin()]
    assert "test Gini@7 0" in stdout
    assert list(pd.read_parquet("runs/mine/users.parquet"))[2:] == ["MAP@3", "MAP@7"]

    status, _, stderr = cli(*flags, "--train_mode", "continue")
    assert (status, stderr.count("\n")) == (2, 1)
    assert "last.pt chose its best epoch by --monitor Gini@7; do so again" in stderr
    status, _, stderr = cli("--mode", "evaluate", "--run_name", "mine", "--cutoffs", 9)
    assert (status, stderr.count("\n")) == (2, 1)
    assert "--monitor Gini@7 is not among the metrics: MAP@9, Gini@9" in stderr
    use = ("--mode", "evaluate", "--run_name", "mine", "--cutoffs", 9, "--monitor", "MAP@9")
    status, stdout, _ = cli(*use)
    assert status == 0
    assert "MAP@9" in stdout


def test_only_metrics_of_all_lists(cli, work):
    flags = ("--model", "EASE", "--metrics", "Coverage", "--cutoffs", 5, "--run_name", "mine")
    assert cli(*flags)[::2] == (0, "")
    assert list(pd.read_parquet("runs/mine/users.parquet")) == ["user", "interactions"]


@pytest.mark.parametrize("flags", ["--popularity_weight auto", "--l2_grid 0 1e-3"])
def test_what_chooses_by_the_metrics_takes_others(cli, work, flags):
    given = ("--epochs", 2, "--dim", 4, "--select", "valid", *OTHERS, *flags.split())
    assert cli(*given)[::2] == (0, "")
