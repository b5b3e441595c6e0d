"""The search: its space, what it refuses, a kill at any moment, pruning, what it leaves."""

import argparse
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import optuna
import pandas as pd
import pytest
from study_tools import TINY, is_png
from tools import PATIENCE, ROOT, finish

from evaluate import Ranking
from reports.lock import locked
from sweeps import trials
from sweeps.search import load_optuna
from sweeps.search_report import write_trials
from sweeps.search_trials import Candidate, Search
from sweeps.space import Choice, Range, space_of

SHORT = ("--", "--dim", 4, "--epochs", 3, "--device", "cpu", "--compile", "off")
# lr 1e30 diverges.
SPACE = ("search", "--space", "lr=1e-2,5e-3,1e30", "N=1:4", "--name", "s", "--seeds", 1)


@pytest.fixture(scope="module", autouse=True)
def quiet():
    load_optuna()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("lr=log:1e-4:1e-1", ("lr", Range(("1e-4", "1e-1"), log=True))),
        ("beta=0:1", ("beta", Range(("0", "1")))),
        ("beta=lin:-1:.5", ("beta", Range(("-1", ".5")))),
        ("N=int:1:20", ("N", Range(("1", "20"), whole=True))),
        ("dim=32, 64", ("dim", Choice(("32", "64")))),
        ("loss=lin,int", ("loss", Choice(("lin", "int")))),
        ("test_from=2003-01-31T18:00:00", ("test_from", Choice(("2003-01-31T18:00:00",)))),
    ],
)
def test_a_space_is_what_its_text_says(text, found):
    assert space_of(text) == found


@pytest.mark.parametrize(
    "text",
    ["lr", "lr=", "=1:2", "lr=1,,2", "lr=log:1", "lr=log:a:b", "lr=lin:1:2:3", "lr=2:1", "lr=1:1",
     "lr=log:0:1", "N=int:1.5:3", "lr=1:inf"],
)  # fmt: skip
def test_wrong_spaces(text):
    if text == "lr=1:inf":  # not a range, so a word for the flag's own converter
        assert space_of(text) == ("lr", Choice(("1:inf",)))
        return
    with pytest.raises(argparse.ArgumentTypeError):
        space_of(text)


def test_values_of_a_range_are_rounded_and_inside():
    """A whole range of a logarithm has whole numbers; the ends are never left by rounding."""
    low, high = "0.12345678", "0.12345679"
    for value in (0.12345678, 0.123456785, 0.12345679):
        trial = optuna.trial.FixedTrial({"lr": value})
        word = Range((low, high)).suggest(trial, "lr")
        assert float(low) <= float(word) <= float(high)
    assert Range(("0", "1")).suggest(optuna.trial.FixedTrial({"lr": 1 / 3}), "lr") == "0.333333"
    trial = optuna.trial.FixedTrial({"dim": 24})
    assert Range(("16", "64"), log=True, whole=True).suggest(trial, "dim") == "24"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("", "give --space"),
        ("--space lr=log:0:1", "has a logarithm, so it begins above 0"),
        ("--space lr=1:0.1", "begins at 1, which is not below 0.1"),
        ("--space lr=1e-3:1e-2 lr=1,2", "--space has a flag twice"),
        ("--space beta=0.5:2", "beta=2: argument --beta: '2' is not a number from 0 up to 1"),
        ("--space N=0.5:2", "N=0.5: argument --N: '0.5' is not a whole number"),
        ("--space betta=0:1", "unrecognized arguments: --betta 0; did you mean --beta?"),
        ("--space lr=0.1:1 -- --epoch 3", "did you mean --epochs?"),
        ("--space model=OneBP,EASE N=1,2", "model=EASE N=1: --N does nothing with --model EASE"),
        ("--space lr=0.1:1 layers=1,2", "--layers does nothing with --encoder MF"),
        ("--space seed=1,2", "--seed is for the search itself to set; give --seed before"),
        ("--space lr=0.1:1 -- --lr 1", "--lr is for the search itself to set; leave it out"),
        ("--space lr=0.1:1 -- --refit", "--refit is for the search itself to set"),
        ("--space lr=0.1:1 -- --select test", "leave --select test out"),
        ("--space select=test,valid", "leave --select test out"),
        ("--space valid_ratio=0.1:0.3", "--valid_ratio changes the data"),
        ("--space save_every=1,2", "--save_every has no influence on the result"),
        ("--space model=OneBP,SVD", "different metrics"),
        ("--space lr=0.1:1 --minutes 0", "argument --minutes: '0' is not a number above 0"),
        ("--space lr=0.1:1 -- --dataset nothing", "no data set 'nothing'"),
    ],
)
def test_mistakes_end_before_the_first_trial(work, run_study, started, flags, words):
    status, _, stderr = run_study("search", *flags.split())
    assert (status, stderr.count("\n"), started) == (2, 1, [])
    assert stderr.startswith("study.py search: error: ")
    assert words in stderr
    assert not (work / "studies").exists()


def test_without_optuna_one_line_says_how_to_get_it(run_study, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    status, _, stderr = run_study("search", "--space", "lr=0.1:1")
    assert (status, stderr.count("\n")) == (2, 1)
    assert "pip install 'optuna>=4'" in stderr


def result(folder):
    """trials.csv without what the clock says."""
    return pd.read_csv(folder / "trials.csv").drop(columns="seconds")


@pytest.fixture(scope="module")
def cache():
    """What tests of this file make once."""
    return {}


@pytest.fixture
def whole_search(work, run_study, started, cache):
    """A search with 5 trials that nothing interrupted, made once: status, folder, ..."""
    if "search" not in cache:
        words = [*SPACE, "--study_root", "whole", "--trials", 5, *SHORT]
        status = run_study(*words)
        folder, commands = work / "whole/s", list(started)
        cache["search"] = {"status": status, "folder": folder, "words": words, "started": commands}
    return cache["search"]


def test_what_a_search_leaves(whole_search, cli):
    (status, stdout, stderr), folder = whole_search["status"], whole_search["folder"]
    assert (status, stderr) == (0, "")
    table = pd.read_csv(folder / "trials.csv", dtype={"lr": str})
    assert table["number"].tolist() == list(range(5))
    assert set(table["state"]) <= {"complete", "pruned", "failed"}
    assert table["N"].between(1, 4).all()

    # Divergence survives as a failed trial, with its reason.
    failed = table[table["state"] == "failed"]
    assert set(failed["lr"]) == {"1e30"}
    assert failed["error"].str.contains("the loss is nan in epoch 1").all()
    assert set(table.loc[table["lr"] != "1e30", "state"]) <= {"complete", "pruned"}

    # The trials see the validation split alone, and leave no weights.
    for command in whole_search["started"][:5]:
        assert command[command.index("--select") + 1] == "valid"
    for trial in table.itertuples():
        names = {path.name for path in (folder / f"runs/trial-{trial.number}").iterdir()}
        assert names == {"metrics.csv"} | ({"log.txt"} if trial.state == "failed" else set())
    assert not list((folder / "checkpoints").glob("*trial*"))

    # The best is that of the table; flags.toml repeats its metric; then it is refitted.
    best = table[table["state"] == "complete"].sort_values("valid_Recall@20").iloc[-1]
    assert f"trial {best['number']}, Recall@20 {best['valid_Recall@20']:.4f}" in stdout
    where = ("--config", folder / "flags.toml", "--run_name", "again", "--device", "cpu")
    assert cli(*where)[0] == 0
    again = json.loads(Path("runs/again/summary.json").read_text())["best"]
    assert again["valid"]["Recall@20"] == best["valid_Recall@20"]
    assert again["epoch"] == best["best_epoch"]
    assert "--refit" in whole_search["started"][5]
    assert len(whole_search["started"]) == 6
    runs = pd.read_csv(folder / "runs.csv")
    assert runs["run_name"].str.endswith("-refit").all()  # `compare` takes the folder
    assert f"test Recall@20 {runs['best_Recall@20'].mean():.4f}, seeds: 1" in stdout
    assert is_png(folder / "search.png")


FINISHED = {
    "dataset": {"name": "x", "digest": "y"},
    "seconds": {"train": 1},
    "peak_memory_mb": 1,
    **{part: {} for part in ("protocol", "best", "last", "flags")},
}


class Process:
    """Stands for a training: each poll writes some rows of metrics.csv, then it has ended.

    The metric is best at lr 0.01 and N 8, and grows with the epochs. Above lr 0.1 it fails.
    """

    def __init__(self, run, rows_at_once):
        self.run, self.rows_at_once, self.epoch, self.returncode = run, rows_at_once, 0, None
        run.files.mkdir(parents=True)
        (run.files / "metrics.csv").write_text("epoch,train_seconds,eval_seconds,Recall@20\n")

    def poll(self):
        args = self.run.args
        for _ in range(self.rows_at_once):
            if args.lr > 0.1 and self.epoch == 3:
                self.returncode = 2
            elif self.epoch == args.epochs:
                (self.run.files / "summary.json").write_text(json.dumps(FINISHED))
                self.returncode = 0
            else:
                self.epoch += 1
                distance = abs(math.log10(args.lr) + 2) + abs(args.N - 8) / 8
                value = (1 - 0.2 * distance) * self.epoch / (self.epoch + 5)
                with (self.run.files / "metrics.csv").open("a") as file:
                    file.write(f"{self.epoch},1,1,{value}\n")
        return self.returncode

    def terminate(self):
        self.returncode = -15

    def send_signal(self, number):
        self.returncode = -number

    wait = terminate


TRIALS = 16


@pytest.fixture
def made_search(tmp_path, monkeypatch):
    """Search with made trainings: function(name, rows at once) -> trials.csv without seconds."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)

    def run(name, rows_at_once, jobs=1):
        def start(run, running):
            errors = io.StringIO("main.py: error: the loss is nan\n")
            running[run] = Process(run, rows_at_once), errors, 0

        monkeypatch.setattr(trials, "start", start)
        space = {"lr": Range(("1e-4", "1"), log=True), "N": Choice(("1", "8", "16"))}
        fixed = ["--epochs", "8", "--select", "valid"]
        (tmp_path / name).mkdir(exist_ok=True)
        search = Search(tmp_path / name, fixed, space, Ranking, 1)
        search.open({}, warmup=2)
        search.run(TRIALS, None, jobs)
        write_trials(search)
        return result(tmp_path / name)

    return run


def test_the_trials_do_not_depend_on_how_quick_they_are(made_search):
    table = made_search("slow", 1)
    pd.testing.assert_frame_equal(made_search("quick", 20), table)

    # They show what the comparison is about: each kind of end, and a search that finds the optimum.
    assert {"complete", "pruned", "failed"} == set(table["state"])
    assert set(table.loc[table["state"] == "failed", "error"]) == {
        "main.py: error: the loss is nan"
    }
    assert table.loc[table["state"] == "pruned", "epochs"].between(2, 9).all()
    best = table.loc[table["valid_Recall@20"].idxmax()]
    assert best["N"] == 8
    assert 2e-3 < best["lr"] < 5e-2

    # Several at a time: as many trials, each once.
    table = made_search("together", 1, jobs=3)
    assert table["number"].tolist() == list(range(TRIALS))
    assert "running" not in set(table["state"])


class Killed(BaseException):
    """Stands for kill -9: nothing of the search handles it."""


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (optuna.Study, "enqueue_trial", 1),
        (optuna.Study, "ask", 9),
        (optuna.trial.Trial, "set_user_attr", 12),
        (optuna.trial.Trial, "report", 66),
        (optuna.trial.Trial, "should_prune", 66),
        (optuna.Study, "tell", 9),
        (Candidate, "remove_files", 9),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_kill_changes_no_trial(made_search, cache, monkeypatch, owner, name, call, before):
    """The same trials come, with the same metrics, wherever it was killed."""
    original, calls = getattr(owner, name), []

    def killed(*arguments, **settings):
        calls.append(name)
        if before and len(calls) == call:
            raise Killed
        value = original(*arguments, **settings)
        if len(calls) == call:
            raise Killed
        return value

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed)
        with pytest.raises(Killed):
            made_search("killed", 1)
    assert len(calls) == call
    if "whole" not in cache:
        cache["whole"] = made_search("whole", 1)
    pd.testing.assert_frame_equal(made_search("killed", 20), cache["whole"])


def test_a_journal_that_is_cut_anywhere_is_read(made_search, tmp_path):
    """A power cut may leave the first half of what was written last: the search goes on."""
    whole = made_search("cut", 20)
    file = tmp_path / "cut/optuna.log"
    content = file.read_bytes()
    for share in (0.001, 0.95):
        file.write_bytes(content[: int(share * len(content))])
        for name in ("optuna.log.lock", "optuna.log.lock1a2b.rename"):  # a kill leaves them
            file.with_name(name).symlink_to(file)
        shutil.rmtree(tmp_path / "cut/runs")
        table = made_search("cut", 20)
        assert table["number"].tolist() == list(range(TRIALS))
        assert not [*file.parent.glob("optuna.log.lock*")]
        pd.testing.assert_frame_equal(table.head(10), whole.head(10), check_dtype=False)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends runs with their study")
def test_killed_processes_go_on(work, whole_search):
    """kill -9 of the whole group while a trial runs; the same command goes on."""
    command = [sys.executable, str(ROOT / "study.py"), *map(str, whole_search["words"])]
    command[command.index("whole")] = "studies"
    command[command.index("5")] = "2"  # the first two trials are the same
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, start_new_session=True, **pipes)
    limit = time.time() + PATIENCE
    while not (work / "studies/s/runs/trial-1/metrics.csv").exists():
        assert time.time() < limit
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    status, _, stderr = finish(subprocess.Popen(command, **pipes))
    assert (status, stderr) == (0, "")
    expected = result(whole_search["folder"]).head(2)
    pd.testing.assert_frame_equal(result(work / "studies/s"), expected, check_dtype=False)


def test_one_folder_is_one_search_of_one_process(work, run_study, started):
    """Other flags, another space, another process are refused; more trials go on."""

    def run(*words, n=1, flags=SHORT):
        space = ("search", "--space", "lr=1e-3:1e-2", "--name", "s", "--seeds", 1)
        return run_study(*space, "--trials", n, *words, *flags)

    assert run()[0] == 0
    assert (len(started), len(result(work / "studies/s"))) == (2, 1)
    assert run()[0] == 0  # nothing to do
    assert len(started) == 2
    for words, what in (
        (("--seed", 2), "is a search with --seed 1, not 2"),
        (("--space", "lr=1e-3:2e-2"), "with --space lr lin:0.001:0.01, not lin:0.001:0.02"),
        (("--space", "lr=1e-3:1e-2", "beta=0:1"), "--beta 0.99, not absent"),
    ):
        status, _, stderr = run(*words)
        assert (status, stderr.count("\n")) == (2, 1)
        assert what in stderr
    status, _, stderr = run(flags=("--", *TINY))
    assert "is a search with --compile off, not auto" in stderr
    with locked(work / "studies/.s.lock"):
        status, _, stderr = run()
    assert (status, stderr.count("\n")) == (2, 1)
    assert "study s is under way in another process, which holds studies/.s.lock" in stderr
    assert stderr.endswith("give another --name\n")
    assert len(started) == 2
    status, stdout, _ = run("--minutes", 1e-6, n=3)  # the time of the first call counts
    assert (status, len(started)) == (0, 2)
    assert "the time is over after 1 of 3 trials" in stdout


def test_a_smaller_error_is_better(work, run_study, started):
    """Of ratings; and a model that is not trained by epochs."""
    flags = ("--trials", 3, "--seeds", 2, "--name", "s", "--", "--model")
    status, stdout, stderr = run_study(
        "search", "--space", "lr=1e-4:1e-2", *flags, "SVD", "--epochs", 2, "--dim", 4
    )
    assert (status, stderr) == (0, "")
    table = pd.read_csv(work / "studies/s/trials.csv")
    assert f"RMSE {table['valid_RMSE'].min():.4f} in epoch" in stdout.split("best on the")[1]


def test_no_trial_is_complete(run_study, started):
    words = ("--space", "lr=1e30,1e31", "--trials", 2)
    status, _, stderr = run_study("search", *words, *SHORT)
    assert (status, stderr.count("\n")) == (2, 1)
    assert "none of the 2 trials is complete; the first failed with: main.py: error" in stderr


def test_a_search_whose_journal_is_wrong_is_refused(work, run_study, started):
    """It may not go on with checkpoints of trials that it does not know."""
    words = ("search", "--space", "lr=1e-3:1e-2", "--name", "s", "--seeds", 1, "--trials", 1)
    assert run_study(*words, *SHORT)[0] == 0
    journal = work / "studies/s/optuna.log"
    whole, before = journal.read_bytes(), len(started)
    damaged = (whole + b"garbage\n", b"{}\n" + whole, b"\xff" + whole)
    for content, line in (*((bad, "optuna.log is damaged") for bad in damaged), (None, "trial-0")):
        journal.unlink() if content is None else journal.write_bytes(content)
        status, _, stderr = run_study(*words, *SHORT)
        assert (status, stderr.count("\n")) == (2, 1)
        assert line in stderr
        assert "--name" in stderr
    assert len(started) == before


FULL_DISK = "cannot write x (No space left on device); free disk space or set --checkpoint_dir"


@pytest.mark.parametrize(
    ("status", "said", "line"),
    [
        (143, "interrupted after epoch 1", "trial 0 was asked to end; the same command goes on"),
        (-15, "", "trial 0 was asked to end; the same command goes on"),
        (2, FULL_DISK, "device); the same command goes on"),
        (-9, "", None),
        (2, "the loss is nan", None),
    ],
)
def test_a_trial_that_ended_for_another_reason_goes_on(
    run_study, started, monkeypatch, status, said, line
):
    """A signal and a full disk are no failure of the values."""
    start = trials.start

    def end(trial, running):
        ended = SimpleNamespace(returncode=status, poll=lambda: status)
        running[trial] = ended, io.StringIO(f"main.py: error: {said}\n" if said else ""), 0.0

    monkeypatch.setattr(trials, "start", end)
    words = ("search", "--space", "lr=1e-3:1e-2", "--name", "s", "--seeds", 1, "--trials", 1)
    status, _, stderr = run_study(*words, *SHORT)
    assert (status, stderr.count("\n")) == (2, 1)
    assert (line or "none of the 1 trials is complete") in stderr
    if not line and not said:
        assert "killed by the system, or by somebody; was there too little memory?" in stderr
    monkeypatch.setattr(trials, "start", start)
    assert run_study(*words, *SHORT)[0] == (0 if line else 2)


def test_damaged_rows_of_a_trial_are_left_out(tmp_path):
    folder = tmp_path / "runs/t"
    folder.mkdir(parents=True)
    rows = b"epoch,Recall@20,train_seconds\n1,0.5,\n2,x,1\n\xff,0.5,1\n3\n4,0.7,1\n5,0.8"
    (folder / "metrics.csv").write_bytes(rows)
    run = SimpleNamespace(files=folder)
    assert [row["epoch"] for row in Candidate(None, run, 0).rows()] == ["1", "4"]
