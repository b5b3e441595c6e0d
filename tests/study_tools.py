"""What tests of studies share."""

import contextlib
import io
import json
import logging
import time
from types import SimpleNamespace

import pytest
from tools import write

import study
from main import main
from sweeps import trials

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


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n") and path.stat().st_size > 5000


def summaries(folder):
    return [json.loads(path.read_text()) for path in folder.glob("runs/*/summary.json")]


def small_shop(work, rows=300):
    pairs = [(user, item) for user in range(30) for item in range(user % 3, 30, 3)]
    lines = [f"u{user},i{item}\n" for user, item in pairs[:rows]]
    write(work / "datasets/shop/interactions.csv", "user_id,item_id\n" + "".join(lines))
