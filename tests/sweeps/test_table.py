"""study.py table: columns, order, and what is left out."""

import pandas as pd
import pytest
from compare_tools import make_run

from reports.names import METRICS, SUMMARY


@pytest.fixture
def table(run_study):
    """Run study.py table here: returns (status, stdout, stderr)."""
    return lambda *words: run_study("table", *words)


def lines_of(stdout):
    """The printed rows, split at two blanks, by their first word."""
    rows = [line.split() for line in stdout.splitlines() if line]
    return {row[0]: row for row in rows}


def test_runs_are_sorted_with_the_flags_that_differ(work, table):
    for name, recall, words in (
        ("low", 0.1, ("--lr", 0.1)),
        ("high", 0.3, ("--lr", 0.2)),
        ("ease", 0.2, ("--model", "EASE")),
    ):
        make_run(work / "runs" / name, *words, best={"epoch": 7, "Recall@20": recall, "F1@5": 1})
    status, stdout, stderr = table("low", "runs/high", "runs/ease")
    assert (status, stderr) == (0, "")
    written = pd.read_csv("comparison/table.csv")
    assert written["run"].tolist() == ["high", "ease", "low"]
    columns = ["run", "model", "data set", "lr", "epoch", "Recall@20", "F1@5", "seconds", "note"]
    assert written.columns.tolist() == columns
    assert written["model"].tolist() == ["OneBP", "EASE", "OneBP"]
    assert written["lr"].fillna(0).tolist() == [0.2, 0, 0.1]  # EASE has none
    printed = lines_of(stdout)
    assert printed["high"] == ["high", "OneBP", "shop", "0.2", "7", "0.3000", "1.2"]
    assert printed["ease"] == ["ease", "EASE", "shop", "7", "0.2000", "1.2"]
    places = [stdout.index(name) for name in ("\nhigh", "\nease", "\nlow")]
    assert places == sorted(places)


def test_what_lacks_a_metric_or_an_end_is_last_and_what_is_no_run_is_left_out(work, table):
    make_run(work / "runs/b", best={"epoch": 1, "Recall@20": 0.2})
    make_run(work / "runs/svd", "--model", "SVD", best={"epoch": 2, "RMSE": 0.9, "MAE": 0.7})
    for name, file, text in (
        ("going", METRICS, "epoch\n"),
        ("other", "notes.txt", ""),
        ("torn", SUMMARY, '{"seed"'),
    ):
        (work / "runs" / name).mkdir()
        (work / "runs" / name / file).write_text(text)
    status, stdout, stderr = table(*sorted(map(str, (work / "runs").iterdir())))
    assert (status, stderr) == (0, "")
    written = pd.read_csv("comparison/table.csv")
    assert written["run"].tolist() == ["b", "svd", "going"]
    assert written["note"].fillna("").tolist() == ["", "has no Recall@20", "not finished"]
    printed = lines_of(stdout)
    assert printed["svd"][-4:] == ["1.2", "has", "no", "Recall@20"]
    assert printed["going"] == ["going", "not", "finished"]
    assert "nan" not in stdout.lower().replace("/nan", "")
    assert stdout.count("left out: ") == 2
    assert "other has no summary.json" in stdout
    assert "torn/summary.json is damaged" in stdout


def test_smaller_errors_are_better(work, table):
    for name, error in (("a", 0.9), ("b", 0.8)):
        make_run(work / "runs" / name, "--model", "SVD", best={"epoch": 2, "RMSE": error})
    assert table("a", "b", "--metric", "RMSE")[0] == 0
    assert pd.read_csv("comparison/table.csv")["run"].tolist() == ["b", "a"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("a --metric MAP@3", "no run has MAP@3, only Recall@20, NDCG@20"),
        ("nothing", "there is no finished run; give folders of runs, like runs/*"),
    ],
)
def test_mistakes_are_one_line(work, table, words, line):
    make_run(work / "runs/a")
    status, _, stderr = table(*words.split())
    assert (status, stderr) == (2, f"study.py table: error: {line}\n")
    assert not (work / "comparison").exists()
