"""Long runs that nobody watches: a full disk, a clock that is set back, folders that go away.

Each ends, if it cannot go on, with a line, and its continuation with the bytes of a run that
nothing happened to.
"""

import errno
import os
import shutil
import time
from pathlib import Path

import pandas as pd
import pytest
from tools import write

from reports.run import Run

RUN = ("--epochs", 4, "--dim", 4, "--compile", "off", "--save_every", 1, "--run_name", "r")
LAST = "checkpoints/r/last.pt"


@pytest.fixture(scope="module")
def undisturbed():
    """{flags: the bytes of last.pt} of runs that nothing happened to."""
    return {}


@pytest.fixture
def goes_on(cli, work, undisturbed):
    """Continue the run `r`, and compare it with one that nothing happened to."""

    def check(*flags):
        status, _, stderr = cli(*RUN, *flags, "--train_mode", "continue")
        assert (status, stderr) == (0, "")
        rows = pd.read_csv("runs/r/metrics.csv")
        assert rows["epoch"].tolist() == [1, 2, 3, 4]
        if flags not in undisturbed:
            others = ("--log_root", "other", "--checkpoint_dir", "other")
            assert cli(*RUN, *flags, *others)[0] == 0
            undisturbed[flags] = (work / "other/r/last.pt").read_bytes()
        assert (work / LAST).read_bytes() == undisturbed[flags]

    return check


@pytest.fixture
def in_epoch(monkeypatch):
    """Let something happen once, after the row of an epoch is written."""
    add_row = Run.add_row

    def at(epoch, happen):
        def add_row_then(self, values):
            add_row(self, values)
            if values[0] == epoch:
                monkeypatch.setattr(Run, "add_row", add_row)
                happen()

        monkeypatch.setattr(Run, "add_row", add_row_then)

    return at


@pytest.mark.parametrize(
    ("name", "number", "words"),
    [
        ("metrics.csv", 3, "put its folder back, then run again with --train_mode continue"),
        ("best.next.pt", 3, "last.pt holds epoch 2; go on from there with --train_mode continue"),
        ("last.pt", 1, "last.pt (No space left on device); free disk space or set"),
        ("users.parquet", 1, "make room there"),
        ("curves.png", 1, "make room there"),
        ("summary.json", 1, "make room there"),
    ],
)
def test_a_disk_that_is_full_from_some_moment_on(
    cli, work, monkeypatch, goes_on, name, number, words
):
    """From the `number`-th time that a file of this name is written, nothing gets on the disk."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("the system does not tell which file a descriptor is of")
    fsync, times = os.fsync, []

    def full(descriptor):
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        times.extend([path] if f"/r/{name}" in path or f"/r/.{name}" in path else [])
        if len(times) >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    status, _, stderr = cli(*RUN)
    assert status == 2
    assert stderr.startswith("main.py: error: cannot write ")
    assert words in stderr
    assert stderr.count("\n") == 1
    assert not list(work.glob("*/r/.*"))
    monkeypatch.setattr(os, "fsync", fsync)
    if (work / LAST).exists():
        goes_on()
    else:
        assert cli(*RUN)[0] == 0


def test_a_clock_that_is_set_back_changes_nothing(cli, monkeypatch, goes_on):
    now = [2e9]

    def earlier_each_time():
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr(time, "time", earlier_each_time)
    status, _, stderr = cli(*RUN, "--epochs", 2)
    assert (status, stderr) == (0, "")
    goes_on()
    seconds = pd.read_csv("runs/r/metrics.csv")[["train_seconds", "eval_seconds"]]
    assert (seconds >= 0).all(axis=None)
    assert (seconds < 100).all(axis=None)


def test_interactions_that_go_away_during_a_run_are_not_missed(cli, work, in_epoch):
    text = "".join(f"u{n % 30},i{n * 7 % 40}\n" for n in range(400))
    write(work / "datasets/shop/ratings.csv", f"user,item\n{text}")
    in_epoch(2, lambda: shutil.rmtree("datasets"))
    status, _, stderr = cli("--dataset", "shop", *RUN)
    assert (status, stderr) == (0, "")
    assert (work / "runs/r/summary.json").exists()
    status, _, stderr = cli("--dataset", "shop", *RUN, "--train_mode", "continue")
    assert status == 2
    assert "datasets/shop is absent" in stderr


def test_clicks_that_go_away_during_a_run_are_told(cli, work, in_epoch, goes_on):
    """They are read from their copy on disk in each epoch."""
    text = "".join(f"{n * n % 7 % 2},u{n % 30},i{n * 7 % 40}\n" for n in range(900))
    write(work / "datasets/shop/clicks.csv", f"label,user,item\n{text}")
    flags = "--dataset", "shop", "--model", "FM", "--select", "test"
    in_epoch(2, lambda: (work / "datasets").rename("away"))
    status, _, stderr = cli(*RUN, *flags)
    assert status == 2
    assert "No such file or directory; check the path" in stderr
    assert stderr.count("\n") == 1
    (work / "away").rename("datasets")
    goes_on(*flags)


def test_a_folder_of_a_run_that_goes_away_is_told(cli, work, in_epoch, goes_on):
    in_epoch(2, lambda: shutil.rmtree("runs"))
    status, _, stderr = cli(*RUN)
    assert status == 2
    assert "cannot write runs/r/metrics.csv (No such file or directory); make room or put" in stderr
    goes_on()


def test_a_run_that_another_machine_started_again_ends(cli, work, in_epoch, goes_on):
    """On a file system whose locks do not reach other machines: the lock names the other owner."""
    in_epoch(2, lambda: write(work / "runs/.r.lock", "node7 12 ab"))
    status, _, stderr = cli(*RUN)
    assert status == 2
    assert "run r was started again by process 12 of node7, which holds runs/.r.lock" in stderr
    assert stderr.count("\n") == 1
    assert (work / "runs/.r.lock").read_text() == "node7 12 ab"
    assert pd.read_csv("runs/r/metrics.csv")["epoch"].tolist() == [1, 2]
    (work / "runs/.r.lock").unlink()
    goes_on()
