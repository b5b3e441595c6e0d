"""Studies: the table is what the runs say, runs are made once, studies go on after Ctrl-C."""

import json
import signal
import statistics
import subprocess
import sys
import time

import pandas as pd
import pytest
from study_tools import TINY, is_png, small_shop, summaries
from tools import PATIENCE, ROOT, finish, write

from checkpointing.files import load_checkpoint
from cli.errors import UserError
from parse import parse_args
from reports.lock import locked
from sweeps.folder import OF_STUDY, study_folder


def start_study(*words):
    command = [sys.executable, str(ROOT / "study.py"), *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


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
    # other flags
    assert (
        count("--over", "N=1,2", "--seeds", 1, "--name", "x", "--", *TINY, "--eval_every", 2) == 2
    )
    # what they were before is kept
    assert count("--over", "N=1,2", "--seeds", 1, "--name", "x", "--", *TINY) == 0
    assert (work / "studies/x/study.csv").read_bytes() == first
    (summary,) = (work / "studies/x/runs").glob("N=3*/summary.json")
    summary.write_text("{")  # damaged
    assert count("--over", "N=3", "--seeds", 1, "--name", "x", "--", *TINY) == 1
    assert "--train_mode" not in started[-1]


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
    """A notice that only the study gets is passed on to its runs; the next call continues them."""
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
        1,
        "--save_every",
        80,
    ]
    process = start_study(*flags)
    limit = time.time() + PATIENCE
    tables = "studies/*/runs/N=1*/metrics.csv"
    while not any(table.read_text().count("\n") > 1 for table in work.glob(tables)):
        assert time.time() < limit
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    status, _, stderr = finish(process)
    assert (status, stderr) == (
        138,
        "interrupted after 0 of 1 runs; the same command goes on from there\n",
    )
    (saved,) = work.glob("studies/*/checkpoints/N=1*/last.pt")
    epoch = load_checkpoint(saved)["epoch"]
    time.sleep(0.3)
    assert 0 < epoch == load_checkpoint(saved)["epoch"] < 80  # nothing goes on behind our back
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


def test_damaged_files_of_a_finished_run_start_it_anew_or_lack_its_seconds(
    work, run_study, started
):
    flags = ("--over", "N=1", "--seeds", 1, "--", *TINY)
    assert run_study(*flags)[0] == 0
    (summary,) = work.glob("studies/*/runs/*/summary.json")
    whole = json.loads(summary.read_text())
    others = ({"best": None}, {"last": 1}, {"seconds": {}}, {"peak_memory_mb": "x"})
    for damaged in ("[" * 100_000, *(json.dumps(whole | part) for part in others)):
        summary.write_text(damaged)
        before = len(started)
        status, _, stderr = run_study(*flags)
        assert (status, stderr, len(started)) == (0, "", before + 1)
    for damaged in (b"", b"a,b\n", b"epoch,train_seconds\n1,x\n", b"\xff"):
        (summary.parent / "metrics.csv").write_bytes(damaged)
        assert run_study(*flags)[::2] == (0, "")
        (table,) = work.glob("studies/*/runs.csv")
        assert pd.read_csv(table)["epoch_seconds"].isna().all()


def test_long_names_of_runs_are_cut(work, run_study, started):
    cutoffs = f"cutoffs={' '.join(map(str, range(1, 100)))}"
    flags = ("--over", cutoffs, "--name", "s", "--seeds", 1)
    status, _, stderr = run_study(*flags, "--", *TINY)
    assert (status, stderr) == (0, "")
    (run,) = work.glob("studies/s/runs/*")
    assert len(run.name) == 230
    assert parse_args(["--run_name", run.name]).run_name == run.name
    assert run_study(*flags, "--", *TINY)[0] == 0
    assert len(started) == 1


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


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux ends a run with the study that started it"
)
def test_a_killed_study_leaves_no_run_behind(work):
    process = start_study(
        "--over",
        "N=1",
        "--seeds",
        1,
        "--name",
        "k",
        "--",
        "--dim",
        4,
        "--epochs",
        100_000,
        "--compile",
        "off",
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


def test_a_study_has_one_process_and_clears_what_a_kill_left(tmp_path):
    folder, left = tmp_path / "s", ".runs.csv.node.12.tmp"
    for name in ("runs/.done.lock", "runs/.busy.lock", left):
        write(folder / name, "node 12 1a2b")
    with locked(folder / "runs/.busy.lock"):
        with study_folder(folder, OF_STUDY):
            with pytest.raises(UserError, match=r"study s is under way .* another --name"):
                study_folder(folder, OF_STUDY).__enter__()
            assert not (folder / left).exists()
            assert not (folder / "runs/.done.lock").exists()
        assert (folder / "runs/.busy.lock").exists()  # a run that somebody started alone
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
