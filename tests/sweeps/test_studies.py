"""The studies by name, and the figures of a sweep."""

import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from study_tools import TINY, is_png, small_shop, summaries
from tools import finish, start, write

import study
from reports.figures import Bars, Lines, save_figure
from sweeps import trials
from sweeps.studies import Hyperparameters, with_folder_of_like


def test_encoders(work, run_study, started):
    status, stdout, _ = run_study("encoders", "--seeds", 1, *TINY)
    assert status == 0
    pairs = set(
        pd.read_csv(work / "studies/encoders-demo/study.csv")[["encoder", "model"]].itertuples(
            index=False
        )
    )
    assert pairs == {
        (encoder, model) for encoder in ("MF", "LightGCN", "MLP") for model in ("OneBP", "TwoBP")
    }
    assert "LightGCN TwoBP" in stdout
    assert is_png(work / "studies/encoders-demo/study.png")


def test_hyperparameters(work, run_study, started):
    assert run_study("hyperparameters", "--seeds", 1, "--dim", 4, "--epochs=1")[0] == 0
    pairs = list(
        pd.read_csv(work / "studies/hyperparameters-demo/study.csv")[["N", "beta"]].itertuples(
            index=False
        )
    )
    assert pairs == [(n, 0.99) for n in (1, 5, 10, 20, 40)] + [
        (5, beta) for beta in (0.5, 0.9, 0.999)
    ]
    assert is_png(work / "studies/hyperparameters-demo/study.png")


def test_hyperparameters_are_quick_where_they_can_be():
    assert Hyperparameters(["--dataset", "100k"]).fixed[2:] == ["--preset", "cosine"]
    for flags in (
        ["--dataset", "100k", "--epochs=3"],
        ["--dataset", "100k", "--preset", "paper"],
        ["--dataset", "1M"],
    ):
        assert Hyperparameters(flags).fixed == flags


def test_efficiency(work, run_study, started):
    small_shop(work)
    status, stdout, _ = run_study("efficiency", "--dataset", "shop", "--seeds", 1, "--epochs", 3)
    assert status == 0
    table = pd.read_csv(work / "studies/efficiency-shop/study.csv")
    assert table["dim"].tolist() == [dim for dim in (32, 64, 128, 256, 512, 1024) for _ in "12"]
    assert table["model"].tolist() == ["OneBP", "TwoBP"] * 6
    metrics = pd.read_csv(next(work.glob("studies/*/runs/dim=32,model=OneBP*/metrics.csv")))
    # of two: the median
    assert table["epoch_seconds_mean"][0] == pytest.approx(metrics["train_seconds"][1:].mean())
    assert f"{table['epoch_seconds_mean'][0]:.4f}" in stdout
    assert is_png(work / "studies/efficiency-shop/study.png")


def test_memory_is_that_of_the_run(work):
    """Not of the process that started it."""
    ballast = np.ones(125_000_000)  # 1 GB
    assert finish(start(*TINY))[0] == 0
    del ballast
    (summary,) = summaries(work)
    assert 100 < summary["peak_memory_mb"] < 900


@pytest.mark.parametrize(
    ("values", "scale", "ticks"),
    [
        ([40, 1, 5], "log", [1, 5, 40]),
        ([1, 10], "linear", [0, 1]),
        ([0.999, 0.5], "linear", [0, 1]),
        ([0, 100], "linear", [0, 1]),
        (["MF", "MLP"], "linear", [0, 1]),
    ],
)
def test_axis_of_values(values, scale, ticks):
    """Logarithmic where positive values span more than a decade; else side by side, in order."""
    rows = pd.DataFrame(
        {"flag": values, "m_mean": [float(len(str(value))) for value in values], "m_std": 0.5}
    )
    axes = Figure().subplots()
    Lines("flag", [("one", rows, "m"), ("two", rows, "m")], "metric").draw(axes)
    assert axes.get_xscale() == scale
    assert axes.get_xticks().tolist() == ticks
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == [
        str(value) for value in (values if isinstance(values[0], str) else sorted(values))
    ]
    one, two = (container.lines[0] for container in axes.containers)
    assert one.get_marker() != two.get_marker()
    assert one.get_ydata().tolist() == [len(label) for label in labels]
    segment = axes.containers[0].lines[2][0].get_segments()[0]
    assert segment[:, 1].tolist() == [len(labels[0]) - 0.5, len(labels[0]) + 0.5]


def test_three_flags_are_bars(work):
    over = {"N": [1, 2], "beta": [0.5, 0.9], "dim": [4]}
    runs = pd.DataFrame(study.Sweep([], over).combinations()).assign(seed=1, run_name="x")
    runs = runs.assign(
        **{
            f"{moment}_{metric}": 0.5
            for moment in ("best", "last")
            for metric in ("Recall@20", "NDCG@20")
        }
    )
    sweep = study.Sweep([], over)
    sweep.headline = ("Recall@20", "NDCG@20")
    panels = sweep.panels(trials.summarise(runs, over))
    assert all(isinstance(panel, Bars) for panel in panels)
    assert panels[0].labels == ["1, 0.5, 4", "1, 0.9, 4", "2, 0.5, 4", "2, 0.9, 4"]
    save_figure(work / "bars.png", "title", panels)
    assert is_png(work / "bars.png")


def test_a_study_takes_over_the_flags_of_a_run(work, run_study, started):
    """Its name is that of a run in --log_root, also for the study's runs, which lie elsewhere."""
    write(work / "runs/a/flags.toml", "dim = 4\nepochs = 1\nrefit = false\n")
    assert run_study("--over", "N=1,2", "--seeds", 1, "--", "--like", "a")[0] == 0
    assert started[0][:2] == ["--like", "runs/a"]
    runs = [json.loads(path.read_text()) for path in work.glob("studies/*/runs/*/summary.json")]
    assert sorted((run["flags"]["N"], run["flags"]["dim"]) for run in runs) == [(1, 4), (2, 4)]
    write(work / "f.toml", "select = 'valid'\nrefit = true\n")
    status, _, stderr = run_study("--over", "N=1,2", "--", "--config=f.toml")
    assert (status, stderr.count("\n")) == (2, 1)
    assert "--refit is for the study itself to set; it compares runs by the split" in stderr
    words = ["--like=a", "--lr", "1", "--like", "b/c"]
    assert with_folder_of_like(words) == ["--like", "runs/a", "--lr", "1", "--like", "b/c"]
