"""study.py compare: which runs a word names, what is refused, the table, and what is said of it."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from compare_tools import METRICS, make_run, user_values
from study_tools import is_png
from tools import write

import study
from parse import parse_args
from reports.names import SUMMARY, USERS


@pytest.fixture
def compare(run_study):
    """Run study.py compare here: returns (status, stdout, stderr)."""
    return lambda *words: run_study("compare", *words)


def result():
    return pd.read_csv("comparison/compare.csv")


def seeds_of(label, seeds, work, *words):
    """Make a run for each seed; returns the mean of their users' metrics."""
    values = [user_values(seed) for seed in seeds]
    for seed, of_seed in zip(seeds, values, strict=True):
        make_run(work / f"runs/{label}{seed}", "--seed", seed, *words, values=of_seed)
    return np.mean(values, axis=0)


def test_two_rows_of_several_seeds(work, compare):
    first = seeds_of("a", (1, 2, 3), work, "--N", 1)
    second = seeds_of("b", (4, 5), work, "--N", 5)
    words = ("one=runs/a*", "two=b*", "--metric", "NDCG@20", "Recall@20")
    status, stdout, stderr = compare(*words)
    assert (status, stderr) == (0, "")
    table = result()
    assert table["metric"].tolist() == ["NDCG@20"] * 2 + ["Recall@20"] * 2
    assert table["row"].tolist() == ["one", "two"] * 2
    assert table["seeds"].tolist() == [3, 2] * 2
    for column, rows in ((1, table.iloc[:2]), (0, table.iloc[2:])):
        assert rows["mean"].tolist() == pytest.approx(
            [first[:, column].mean(), second[:, column].mean()]
        )
        means = [user_values(seed)[:, column].mean() for seed in (4, 5)]
        last = rows.iloc[1]
        assert last["std"] == pytest.approx(np.std(means, ddof=1))
        difference = second[:, column] - first[:, column]
        assert last["difference"] == pytest.approx(difference.mean())
        assert last["low"] < last["difference"] < last["high"]
        assert last["gain"] == (difference > 1e-9).sum()
        assert last["gain"] + last["lose"] + last["tie"] == last["users"] == 40
        assert rows.iloc[0][["difference", "p_t", "gain"]].isna().all()
    # Two comparisons: the smaller p is doubled.
    p = table["p_t"].dropna().to_numpy()
    assert table["p_t_holm"].dropna().min() == pytest.approx(min(2 * p.min(), 1))
    assert "two differs from one in: N=5 (not 1)" in stdout
    assert "Of one seed" not in stdout
    assert f"{table['mean'][1]:.4f} ± {table['std'][1]:.4f}  " in stdout
    assert f"{table['low'][1]:+.4f} to {table['high'][1]:+.4f}" in stdout
    assert is_png(work / "comparison/compare.png")

    # The same seed of the bootstrap gives the same file, another one other intervals alone.
    before = (work / "comparison/compare.csv").read_bytes()
    assert compare(*words)[0] == 0
    assert (work / "comparison/compare.csv").read_bytes() == before
    assert compare(*words, "--seed", 1)[0] == 0
    assert result()["low"][1] != table["low"][1]
    pd.testing.assert_frame_equal(
        result().drop(columns=["low", "high"]), table.drop(columns=["low", "high"])
    )


def test_identical_runs_do_not_differ(work, compare):
    for name in ("a", "b"):
        make_run(work / "runs" / name, values=user_values(1))
    status, stdout, stderr = compare("a", "runs/b", "--output", "out")
    assert (status, stderr) == (0, "")
    table = pd.read_csv("out/compare.csv")
    assert table["metric"].tolist() == ["Recall@20"] * 2  # which chose the epoch
    numbers = table.loc[1, ["difference", "low", "high", "p_t", "p_wilcoxon", "d_z", "tie"]]
    assert numbers.tolist() == [0, 0, 0, 1, 1, 0, 40]
    assert "b differs from a in: no flag" in stdout
    assert "Of one seed: a, b" in stdout
    assert "The test split chose the epochs" in stdout


def test_a_study_and_its_combinations(work, compare):
    rows = ["N,seed,run_name,best_Recall@20"]
    for number in (1, 2):
        for seed in (1, 2):
            folder, words = work / f"studies/s/runs/{number}-{seed}", ("--N", number)
            make_run(folder, *words, "--seed", seed, values=user_values(10 * number + seed))
            rows.append(f"{number},{seed},{folder.name},0.5")
    write(work / "studies/s/runs.csv", "\n".join(rows) + "\n")
    assert compare("studies/s")[0] == 0
    table = result()
    assert table[["row", "seeds"]].to_numpy().tolist() == [["s/N=1", 2], ["s/N=2", 2]]
    means = [user_values(seed)[:, 0].mean() for seed in (21, 22)]
    assert table["mean"][1] == pytest.approx(np.mean(means))

    make_run(work / "runs/x", "--N", 5, values=user_values(9))
    assert compare("x", "studies/s/N=2")[0] == 0
    assert result()["row"].tolist() == ["x", "s/N=2"]
    status, _, stderr = compare("x", "studies/s/N=3")
    line = "studies/s has no combination N=3, only N=1 and N=2"
    assert (status, stderr) == (2, f"study.py compare: error: {line}\n")
    write(work / "studies/s/runs.csv", "nothing\n")
    status, _, stderr = compare("x", "studies/s")
    assert (status, stderr.count("\n")) == (2, 1)
    assert "studies/s/runs.csv is not that of a study" in stderr


def test_a_study_has_intervals_of_runs_with_metrics_of_each_user(work, caplog):
    """Of a combination alone, and only if all its runs have such a file."""
    caplog.set_level("INFO", "onebp")
    trials, values = [], {seed: user_values(seed) for seed in (1, 2)}
    for number, seed in ((1, 1), (1, 2), (2, 1), (2, 2)):
        known = values[seed] if number == 2 or seed == 1 else None
        folder = make_run(work / f"{number}-{seed}", "--seed", seed, values=known)
        summary = json.loads((folder / SUMMARY).read_text())
        trial = SimpleNamespace(
            swept={"N": number}, files=folder, summary=lambda found=summary: found
        )
        trials.append(trial)
    sweep = study.Sweep([], {"N": [1, 2]})
    sweep.headline = METRICS
    runs = pd.DataFrame({"N": [1, 1, 2, 2], "seed": [1, 2, 1, 2], "run_name": "x"})
    best = {f"{moment}_{name}": 0.5 for moment in ("best", "last") for name in METRICS}
    study.report(sweep, trials, runs.assign(**best), Path("s"), [parse_args([])])

    table = pd.read_csv("s/study.csv")
    ends = table[[f"best_{metric}_{end}" for metric in METRICS for end in ("low", "high")]]
    assert ends.iloc[0].isna().all()
    low, high = ends.iloc[1, :2]
    mean = (values[1] + values[2])[:, 0] / 2
    half = 1.96 * mean.std() / 40**0.5
    assert (low, high) == pytest.approx((mean.mean() - half, mean.mean() + half), abs=half / 5)
    assert f"{low:.4f} to {high:.4f}" in caplog.text
    assert "study.py compare s tests the differences" in caplog.text


@pytest.mark.parametrize(
    ("second", "line"),
    [
        ({"digest": "e" * 64}, "a and b have other data or splits (digests: shop dddd"),
        (
            {"protocol": {"select": "test", "ranking": "of pairs"}},
            "a and b were evaluated differently: ranking: full; of pairs",
        ),
        (
            {"values": user_values(2, 39)},
            "b lacks 1 of a's users (the first: u39); compare runs that were evaluated on the same",
        ),
        ({"values": None}, "b/users.parquet is absent: python main.py --mode evaluate"),
        ({"best": {"Recall@20": 0.9}}, "and summary.json 0.90000: python main.py --mode evaluate"),
        (
            {"metrics": ("Recall@20", "MAP@20")},
            "b/users.parquet has no NDCG@20, only Recall@20, MAP@20",
        ),
        ({"ids": ["u0"] * 40}, "b/users.parquet has a user twice"),
        ({"values": np.full((40, 2), np.nan)}, "is no table of users and numbers"),
    ],
)
def test_runs_that_cannot_be_compared(work, compare, second, line):
    make_run(work / "runs/a", values=user_values(1))
    make_run(work / "runs/b", **{"values": user_values(2)} | second)
    status, _, stderr = compare("a", "b", "--metric", "NDCG@20")
    assert (status, stderr.count("\n")) == (2, 1)
    assert line in stderr
    assert not (work / "comparison").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("a", "a is alone; give two runs or more"),
        ("a nothing", "there is no run nothing, also not in runs"),
        ("a x=none*", "there is no run x=none*"),
        ("a x=/", "there is no run x=/"),
        ("a x=**foo", "there is no run x=**foo"),
        ("a study", "study/runs.csv has no run; run the study again"),
        ("a lists", "runs/lists/users.parquet is no table of users and numbers"),
        ("a x=runs/[ab]", "x: a and b are no seeds of one row: --N is 5 and 7"),
        ("a x=[ac]", "x: a and c have the same seed 2022"),
        ("a runs/a", "two rows are a; give one a label"),
        ("a broken", "runs/broken/summary.json is damaged"),
        ("a foreign", "runs/foreign/summary.json is not the summary of a run of this program"),
        ("a list", "runs/list/summary.json is not the summary"),
        ("a empty", "runs/empty has no summary.json"),
        ("a torn", "runs/torn/users.parquet is damaged"),
        ("a --metrics X", "did you mean --metric?"),
        ("--metric X", "the following arguments are required: RUN"),
    ],
)
def test_mistakes_are_one_line(work, compare, words, line):
    make_run(work / "runs/a", values=user_values(1))
    make_run(work / "runs/c", values=user_values(1))
    make_run(work / "runs/b", "--N", 7, values=user_values(2))
    make_run(work / "runs/torn", values=user_values(1))
    (work / "runs/torn" / USERS).write_bytes((work / "runs/torn" / USERS).read_bytes()[:500])
    for name, text in {"broken": '{"seed": 1', "foreign": '{"seed": 1}', "list": "[1]"}.items():
        (work / "runs" / name).mkdir()
        (work / "runs" / name / SUMMARY).write_text(text)
    (work / "runs/empty").mkdir()
    write(work / "study/runs.csv", "N,seed,run_name\n")
    make_run(work / "runs/lists", values=user_values(1), ids=[[1]] * 40)
    status, _, stderr = compare(*words.split())
    assert (status, stderr.count("\n")) == (2, 1)
    assert stderr.startswith("study.py compare: error: ")
    assert line in stderr


def test_another_split_that_chose_is_named(work, compare):
    make_run(work / "runs/a", values=user_values(1))
    protocol = {"select": "valid, then refit for 3 epochs"}
    make_run(work / "runs/b", values=user_values(2), protocol=protocol)
    status, stdout, _ = compare("a", "b")
    assert status == 0
    assert "warning: other splits chose the epochs: a: test; b: valid, then refit" in stdout
