"""log.txt: a disk that is full is told, also where there is room again in the end."""

import os
from pathlib import Path

import pytest

import reports.run
from cli.errors import LogFile

TRAIN = ("--dim", 4, "--run_name", "r")


@pytest.fixture
def run(cli):
    """A run of one epoch."""
    assert cli(*TRAIN, "--epochs", 1)[0] == 0
    return Path("runs/r")


def test_a_full_disk_is_told(cli, run):
    (run / "log.txt").unlink()
    (run / "log.txt").symlink_to("/dev/full")
    status, stdout, stderr = cli(*TRAIN, "--epochs", 2, "--train_mode", "continue")
    line = "cannot write runs/r/log.txt (No space left on device): it lacks lines"
    assert (status, stderr.count("\n"), line in stderr) == (2, 1, True)
    assert "Metrics on the test split" in stdout
    assert "2,0." in (run / "metrics.csv").read_text()
    assert (run / "summary.json").exists()
    assert not list(Path().rglob("*.lock"))


def test_a_disk_that_was_full_is_told(cli, run, monkeypatch):
    """Python keeps what it could not write, and drops what comes to more than its buffer."""

    class Full(LogFile):
        def emit(self, record):
            if "epoch 1" in record.getMessage():
                self.full = os.dup(self.stream.fileno())
                device = os.open("/dev/full", os.O_WRONLY)
                os.dup2(device, self.stream.fileno())
                os.close(device)
                for _ in range(3):
                    record.msg = "lost " * 2000
                    super().emit(record)
                os.dup2(self.full, self.stream.fileno())
                os.close(self.full)
            super().emit(record)

    monkeypatch.setattr(reports.run, "LogFile", Full)
    status, _, stderr = cli(*TRAIN, "--epochs", 1)
    assert (status, "it lacks lines" in stderr) == (2, True)


def test_another_error_comes_first(cli, run):
    (run / "log.txt").unlink()
    (run / "log.txt").symlink_to("/dev/full")
    words = ("--epochs", 9, "--lr", 1e30, "--train_mode", "continue")
    status, _, stderr = cli(*TRAIN, *words)
    assert (status, stderr.count("\n"), "the loss is" in stderr) == (2, 1, True)
