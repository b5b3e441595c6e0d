"""Studies: the table is what the runs say, each run is made once, an interrupted study goes on, mistakes end early."""

import contextlib
import io
import json
import logging
import signal
import statistics
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from tools import PATIENCE, ROOT, finish, start, write

import study
from checkpointing.files import load_checkpoint
from main import main
from reports.figures import Bars, Lines, save_figure
from sweeps import genres, trials
from sweeps.studies import Hyperparameters

TINY = ("--dim", 4, "--epochs", 2)


@pytest.fixture
def started(monkeypatch):
    """Run main.py in this process, which has torch loaded already. Returns the command lines so far."""
    commands = []

    def start_here(trial, running):
        commands.append(trial.command()[2:])
        log, errors = logging.getLogger("onebp"), io.StringIO()
        handlers, log.handlers[:] = log.handlers[:], []
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
            status = main(commands[-1])
        log.handlers[:] = handlers
        running[trial] = (
            SimpleNamespace(returncode=status, poll=lambda: status),
            errors,
            time.perf_counter(),
        )

    monkeypatch.setattr(trials, "start", start_here)
    return commands


@pytest.fixture
def run_study(work, capsys, started):
    """Run study.py's `main` here: returns (status, stdout, stderr)."""

    def run(*words):
        logging.getLogger(
            "onebp"
        ).handlers.clear()  # that of an earlier call holds a stdout that is gone
        try:
            status = study.main([str(word) for word in words])
        except SystemExit as exit:  # argparse
            status = exit.code
        return status, *capsys.readouterr()

    return run


def start_study(*words):
    command = [sys.executable, str(ROOT / "study.py"), *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n") and path.stat().st_size > 5000


def summaries(folder):
    return [json.loads(path.read_text()) for path in folder.glob("runs/*/summary.json")]


def test_the_table_is_what_the_runs_say(work, run_study, started):
    status, stdout, stderr = run_study("--over", "N=1,2", "--seeds", 3, "--", *TINY)
    assert (status, stderr, len(started)) == (0, "", 6)
    folder = work / "studies/N-demo"
    table = pd.read_csv(folder / "study.csv")
    assert table["N"].tolist() == [1, 2]
    assert table["n_seeds"].tolist() == [3, 3]
    for row in table.itertuples():
        of_row = [summary for summary in summaries(folder) if summary["flags"]["N"] == row.N]
        assert sorted(summary["seed"] for summary in of_row) == [1, 2, 3]
        for moment in ("best", "last"):
            values = [summary[moment]["Recall@20"] for summary in of_row]
            found = table.loc[
                row.Index, [f"{moment}_Recall@20_mean", f"{moment}_Recall@20_std"]
            ].tolist()
            assert found == pytest.approx([statistics.mean(values), statistics.stdev(values)])
            assert f"{found[0]:.4f} ± {found[1]:.4f}" in stdout
    runs = pd.read_csv(folder / "runs.csv")
    for row in runs.to_dict("records"):
        summary = json.loads((folder / "runs" / row["run_name"] / "summary.json").read_text())
        assert (row["N"], row["seed"]) == (summary["flags"]["N"], summary["seed"])
        assert (row["best_epoch"], row["last_epoch"]) == (
            summary["best"]["epoch"],
            summary["last"]["epoch"],
        )
        assert row["last_NDCG@20"] == pytest.approx(summary["last"]["NDCG@20"])
        assert row["peak_memory_mb"] == summary["peak_memory_mb"]
        metrics = pd.read_csv(folder / "runs" / row["run_name"] / "metrics.csv")
        assert row["epoch_seconds"] == metrics["train_seconds"][1]
    assert is_png(folder / "study.png")


def test_each_run_is_made_once(work, run_study, started):
    def count(*words):
        before = len(started)
        assert run_study(*words)[0] == 0
        return len(started) - before

    assert count("--over", "N=1,2", "--seeds", 1, "--name", "x", "--", *TINY) == 2
    first = (work / "studies/x/study.csv").read_bytes()
    assert (
        count("--over", "N=1,2", "--seeds", 1, "--name", "x", "--", *TINY, "--save_every", 1) == 0
    )
    assert (work / "studies/x/study.csv").read_bytes() == first
    assert count("--over", "N=1,2,3", "--seeds", 1, "--name", "x", "--", *TINY) == 1  # of three
    assert (
        count("--over", "N=1,2", "--seeds", 1, "--name", "x", "--", *TINY, "--eval_every", 2) == 2
    )  # other flags
    assert (
        count("--over", "N=1,2", "--seeds", 1, "--name", "x", "--", *TINY) == 0
    )  # what they were before is kept
    assert (work / "studies/x/study.csv").read_bytes() == first
    (summary,) = (work / "studies/x/runs").glob("N=3*/summary.json")
    summary.write_text("{")  # damaged
    assert count("--over", "N=3", "--seeds", 1, "--name", "x", "--", *TINY) == 1
    assert "--train_mode" not in started[-1]


def small_shop(work, rows=300):
    pairs = [(user, item) for user in range(30) for item in range(user % 3, 30, 3)]
    lines = [f"u{user},i{item}\n" for user, item in pairs[:rows]]
    write(work / "datasets/shop/interactions.csv", "user_id,item_id\n" + "".join(lines))


def test_other_data_are_other_runs(work, run_study, started):
    small_shop(work)
    flags = ("--over", "N=1", "--seeds", 1, "--", "--dataset", "SHOP", *TINY)
    assert run_study(*flags)[0] == run_study(*flags)[0] == 0
    assert len(started) == 1
    assert (work / "studies/N-shop/study.csv").exists()
    small_shop(work, rows=299)
    assert run_study(*flags)[0] == 0
    assert len(started) == 2


def test_interrupted_it_goes_on(work, run_study, started):
    """Ctrl-C that only the study gets ends its runs too; the next call continues them."""
    flags = [
        "--over",
        "N=1",
        "--seeds",
        1,
        "--",
        "--dim",
        4,
        "--epochs",
        80,
        "--eval_every",
        80,
        "--save_every",
        1,
    ]
    process = start_study(*flags)
    limit = time.time() + PATIENCE
    while not (saved := list(work.glob("studies/*/checkpoints/N=1*/last.pt"))):
        assert time.time() < limit
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    status, _, stderr = finish(process)
    assert (status, stderr) == (
        130,
        "interrupted after 0 of 1 runs; the same command goes on from there\n",
    )
    epoch = load_checkpoint(saved[0])["epoch"]
    time.sleep(0.3)
    assert 0 < epoch == load_checkpoint(saved[0])["epoch"] < 80  # nothing goes on behind our back
    assert run_study(*flags)[0] == 0
    assert started[0][-2:] == ["--train_mode", "continue"]
    (log,) = work.glob("studies/*/runs/*/log.txt")
    assert f"continuing after epoch {epoch}" in log.read_text()


def test_what_cannot_go_on_starts_anew(work, run_study, started):
    flags = ("--over", "N=1", "--seeds", 1, "--", *TINY)
    assert run_study(*flags)[0] == 0
    (summary,) = work.glob("studies/*/runs/*/summary.json")
    (checkpoint,) = work.glob("studies/*/checkpoints/*/last.pt")
    summary.unlink()
    checkpoint.write_bytes(b"damaged")
    assert run_study(*flags)[0] == 0
    assert "--train_mode" not in started[-1]
    summary.unlink()
    assert run_study(*flags)[0] == 0
    assert started[-1][-2:] == ["--train_mode", "continue"]


def test_a_failing_run_does_not_stop_the_others(work):
    """In new processes, two at a time."""
    flags = ("--over", "lr=1e30,1e-2", "--seeds", 1, "--jobs", 2, "--", *TINY)
    status, stdout, stderr = finish(start_study(*flags))
    assert status == 2
    assert stderr.count("\n") == 1
    assert stderr.startswith("study.py: error: 1 of 2 runs failed, lr=1e+30,seed=1,")
    assert "main.py: error: the loss is nan in epoch 1" in stderr
    assert "failed: main.py: error: the loss is nan in epoch 1" in stdout
    for name, column in (("runs.csv", "lr"), ("study.csv", "lr")):
        assert pd.read_csv(work / "studies/lr-demo" / name)[column].tolist() == [0.01]
    assert is_png(work / "studies/lr-demo/study.png")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("", "give either --over or a study"),
        ("encoders --over N=1", "give either --over or a study"),
        ("encoder", "no study 'encoder', only encoders"),
        ("--over N", "'N' is not a flag with its values"),
        ("--over N=1,,2", "'N=1,,2' is not a flag with its values"),
        ("--over N=1 N=2", "--over has a flag twice"),
        ("--over N=1,01", "N=01 makes the same run as N=1"),
        (
            "--over beta=0.9,2 N=1",
            "beta=2 N=1: argument --beta: '2' is not a number from 0 up to 1",
        ),
        ("--over model=OneBP,EASE -- --N 3", "model=EASE: --N does nothing with --model EASE"),
        ("--over betta=1", "betta=1: unrecognized arguments: --betta 1; did you mean --beta?"),
        (
            "--over N=1 -- --epoch 3",
            "N=1: unrecognized arguments: --epoch 3; did you mean --epochs?",
        ),
        ("--over seed=1,2", "--seed is for the study itself to set; give --seeds"),
        ("--over N=1 -- --N 3", "--N is for the study itself to set; leave it out"),
        (
            "--over N=1 -- --l2_grid 1 0",
            "--l2_grid is for the study itself to set; give --over l2=...",
        ),
        ("encoders -- --run_name=x", "--run_name is for the study itself to set"),
        ("hyperparameters --beta 7", "argument --beta: '7' is not"),
        ("efficiency --jobs 2", "leave --jobs 2 out"),
        ("clusters", "demo has no genres of its items"),
        ("clusters --dim 1", "give --dim 2 or more"),
        ("encoders --dataset nothing", "no data set 'nothing'"),
    ],
)
def test_mistakes_end_before_the_first_run(work, run_study, started, flags, words):
    status, _, stderr = run_study(*flags.split())
    assert (status, stderr.count("\n"), started) == (2, 1, [])
    assert stderr.startswith("study.py: error: ")
    assert words in stderr
    assert not (work / "studies").exists()


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
    assert Hyperparameters(["--dataset", "100k"]).fixed[2:] == ["--preset", "fast"]
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
    assert table["epoch_seconds_mean"][0] == pytest.approx(
        metrics["train_seconds"][1:].mean()
    )  # of two: the median
    assert f"{table['epoch_seconds_mean'][0]:.4f}" in stdout
    assert is_png(work / "studies/efficiency-shop/study.png")


def test_memory_is_that_of_the_run(work):
    """Not of the process that started it."""
    ballast = np.ones(125_000_000)  # 1 GB
    assert finish(start(*TINY))[0] == 0
    del ballast
    (summary,) = summaries(work)
    assert 100 < summary["peak_memory_mb"] < 900


def test_clusters(work, run_study, started):
    """Two genres that never share a user: training pulls them apart."""
    rows = [
        f"u{user},i{item:02}\n"
        for user in range(60)
        for item in range(user % 2, 40, 2)
        if (user + item) % 3
    ]
    write(work / "datasets/shop/interactions.csv", "user_id,item_id\n" + "".join(rows))
    titles = [
        f"i{item:02},T{item},{'even' if item % 2 == 0 else 'odd|uneven'}\n" for item in range(38)
    ]
    write(
        work / "datasets/shop/items.csv",
        "item_id,title,genres\n" + "".join(titles) + "i38,T38,unknown\n",
    )
    status, stdout, _ = run_study(
        "clusters", "--dataset", "shop", "--epochs", 60, "--dim", 8, "--batch_size", 64
    )
    assert status == 0
    table = pd.read_csv(work / "studies/clusters-shop/genres.csv")
    assert set(table["genre"]) == {"even", "odd", "uneven", "(mean)"}
    assert set(table["k"]) == {5, 10, 20}  # 38 items have a genre
    means = table[(table["genre"] == "(mean)") & (table["k"] == 10)].set_index("encodings")[
        "precision"
    ]
    assert means["before training"] < 0.9
    assert means["OneBP"] == means["TwoBP"] == 1
    assert "before training" in stdout
    assert is_png(work / "studies/clusters-shop/study.png")


def test_nearest_items_by_hand(monkeypatch):
    """By cosine to x's mean (1, 1): 2, then 0 and 1 alike, 3, 4; y's (1.5, 2.5): 2, 1, 0, 3, 4; z's: 3, 0, 2, 1, 4."""
    monkeypatch.setattr(genres, "NEAREST", (2, 3, 6))  # there are no 6
    encodings = np.array([[1.0, 0], [0, 2], [3, 3], [5, -1], [-1, 0]])
    member = pd.DataFrame(
        {"x": [1, 0, 1, 0, 1], "y": [0, 1, 1, 0, 0], "z": [0, 0, 0, 1, 0]}
    ).astype(bool)
    table = genres.nearest_items(encodings, member).set_index(["k", "genre"])[
        ["precision", "recall", "F1"]
    ]
    expected = {
        (2, "x"): (1, 2 / 3, 4 / 5),
        (2, "y"): (1, 1, 1),
        (2, "z"): (1 / 2, 1, 2 / 3),
        (2, "(mean)"): (5 / 6, 8 / 9, 37 / 45),
        (3, "x"): (2 / 3, 2 / 3, 2 / 3),
        (3, "y"): (2 / 3, 1, 4 / 5),
        (3, "z"): (1 / 3, 1, 1 / 2),
        (3, "(mean)"): (5 / 9, 8 / 9, 59 / 90),
    }
    assert list(table.index) == list(expected)
    np.testing.assert_allclose(table.to_numpy(), list(expected.values()))


def test_projection():
    """Points in a plane keep their distances; genres come by frequency, the rare ones are left out."""
    plane = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 2)))[0]  # (5, 2)
    encodings = np.random.default_rng(1).normal(size=(40, 2)) @ plane.T
    names = pd.Series(
        [genre for number, genre in enumerate("gfedcba") for _ in range(number + 1)] + ["a"] * 12
    )
    points, shares = genres.project(encodings, names)
    assert "".join(points) == "abcdef"
    assert sum(shares) == pytest.approx(1)
    own = genres.directions(encodings[names == "a"])
    for found, expected in zip(points["a"][:-1] - points["a"][1:], own[:-1] - own[1:], strict=True):
        assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(expected))


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


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux ends a run with the study that started it"
)
def test_a_killed_study_leaves_no_run_behind(work):
    process = start_study(
        "--over", "N=1", "--seeds", 1, "--name", "k", "--", "--dim", 4, "--epochs", 100_000
    )
    limit = time.time() + PATIENCE
    while not any(path.stat().st_size > 2000 for path in work.glob("studies/k/runs/*/metrics.csv")):
        assert time.time() < limit
        time.sleep(0.05)
    process.kill()
    finish(process)
    time.sleep(0.5)
    (rows,) = work.glob("studies/k/runs/*/metrics.csv")
    before = rows.read_bytes()
    time.sleep(1)
    assert rows.read_bytes() == before


def test_sweep_over_models_of_ratings(run_study):
    flags = ("--", "--epochs", 2, "--dim", 4, "--device", "cpu")
    status, stdout, stderr = run_study("--over", "model=SVD,SVDpp", "--seeds", 1, *flags)
    assert (status, stderr) == (0, "")
    table = pd.read_csv("studies/model-demo/study.csv")
    assert table["best_RMSE_mean"].between(0.5, 1.2).all()
    assert "RMSE, best" in stdout
    assert "MAE, last" in stdout
    status, _, stderr = run_study("--over", "model=SVD,OneBP", *flags)
    assert status == 2
    assert "the runs have different metrics; compare models of rankings, or of ratings" in stderr


def test_sweep_with_ranking_of_pairs(run_study):
    flags = ("--seeds", 1, "--", *TINY, "--ranking", "pairs")
    status, stdout, stderr = run_study("--over", "N=1", *flags)
    assert (status, stderr) == (0, "")
    best = pd.read_csv("studies/N-demo/study.csv").loc[0]
    assert (
        f"  NDCG@100 {best['best_NDCG@100_mean']:.4f} in epoch {best['best_epoch_mean']:.0f}, "
        in stdout
    )
    assert "HR@100, best" in stdout
    status, _, stderr = run_study("--over", "ranking=users,pairs", "--", *TINY)
    assert status == 2
    assert "and one --ranking" in stderr
