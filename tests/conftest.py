"""Fixtures: the program in this process, an empty folder, devices, the real data where present."""

import contextlib
import io
import logging
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tools import ROOT, pools

import study
from main import main
from sweeps import trials

# The sizes here are too small for more than one thread, and there is a process of tests for each
# core. The environment is for the processes that tests start; what it has already is kept.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

# In the background of a script, or after nohup, SIGINT is ignored, also by processes started
# there. One with a handler of its own starts others with what is usual: the signal ends them.
signal.signal(signal.SIGINT, signal.default_int_handler)

REAL_DATA = Path(os.environ.get("ONEBP_TEST_DATA", ROOT.parent / "shared" / "datasets"))


@pytest.fixture(scope="session", autouse=True)
def pools_end():
    """End the processes of `on_ranks` with the tests."""
    yield
    for pool in pools.values():
        pool.terminate()


@pytest.fixture(params=["cpu", "cuda"])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


@pytest.fixture
def real_data():
    """The folder of the real data sets.

    They may not be redistributed, so they are not in the repository.
    """
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real data sets at {REAL_DATA} (ONEBP_TEST_DATA names another folder)")
    return REAL_DATA


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cli(work, capsys):
    """Run main.py's `main` here: returns (status, stdout, stderr)."""

    def run(*words):
        logging.getLogger(
            "onebp"
        ).handlers.clear()  # that of an earlier call holds a stdout that is gone
        try:
            status = main([str(word) for word in words])
        except SystemExit as exit:  # argparse
            status = exit.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def started(monkeypatch):
    """Run main.py in this process, which has torch loaded; returns the command lines so far."""
    commands = []

    def start_here(trial, running):
        commands.append(trial.command()[2:])
        log, errors = logging.getLogger("onebp"), io.StringIO()
        handlers, log.handlers[:] = log.handlers[:], []
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
            status = main(commands[-1])
        log.handlers[:] = handlers
        ended = SimpleNamespace(returncode=status, poll=lambda: status)
        ended.terminate = ended.wait = lambda: None
        ended.send_signal = lambda number: None
        running[trial] = ended, errors, time.perf_counter()

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
