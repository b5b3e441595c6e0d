"""Signals that end the program: once, with a line and a status; ignored ones stay ignored."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rank_tools import children
from tools import PATIENCE, ROOT, finish, start, write

from checkpointing.files import load_checkpoint
from checkpointing.last_and_best import Checkpoints
from cli.errors import status_of
from cli.signals import ENDING, defer_interrupts

# A program that ends slowly, in its own code and when Python exits.
SLOW = """
import atexit, contextlib, sys, time
from cli.errors import status_of
from cli.signals import defer_interrupts

def say(text):
    with contextlib.suppress(OSError):  # as the log does
        print(text, flush=True)

def work():
    try:
        with defer_interrupts():
            say("deferred")
            time.sleep(0.3)
        say("working")
        time.sleep(float(sys.argv[1]))
    except KeyboardInterrupt:
        say("ending")
        time.sleep(0.3)
        raise KeyboardInterrupt("this is how to go on") from None

atexit.register(lambda: (say("exiting"), time.sleep(0.3)))
sys.exit(status_of("slow", work))
"""


def start_slow(seconds, **settings):
    command = [sys.executable, "-c", SLOW, str(seconds)]
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "preexec_fn": heed} | settings
    return subprocess.Popen(command, cwd=ROOT, text=True, **settings)


def heed():
    """Ignore nothing, also where the tests themselves run under nohup."""
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL)


def ignore(*numbers):
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
@pytest.mark.parametrize("moment", ["deferred", "working"])
def test_each_signal_ends_once_with_its_status(name, moment):
    process, number = start_slow(PATIENCE), getattr(signal, name)
    for line in process.stdout:
        if line.strip() == moment:
            process.send_signal(number)
        elif line.strip() in ("ending", "exiting"):  # impatience, or torchrun
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGTERM)
    status, _, errors = finish(process)
    assert (status, errors) == (128 + number, "this is how to go on\n")


def test_what_was_ignored_stays_ignored():
    """As under nohup, or in the background of a script."""
    numbers = (signal.SIGINT, signal.SIGHUP)
    process = start_slow(0.1, preexec_fn=lambda: ignore(*numbers))
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        for number in numbers:
            process.send_signal(number)
    assert lines == ["deferred", "working", "exiting"]
    assert finish(process)[::2] == (0, "")


def test_a_closed_terminal_is_no_other_mistake():
    controller, terminal = pty.openpty()
    streams = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
    process = start_slow(PATIENCE, start_new_session=True, **streams)
    os.close(terminal)
    said = b""
    while b"working" not in said:
        said += os.read(controller, 1000)
    os.close(controller)
    process.send_signal(signal.SIGHUP)
    assert process.wait(PATIENCE) == 128 + signal.SIGHUP


def test_deferred_signals_go_to_the_handler_that_was_there():
    numbers = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: numbers.append(number))
    try:
        with defer_interrupts(signal.SIGUSR1) as outer, defer_interrupts() as inner:
            signal.raise_signal(signal.SIGUSR1)
            assert (numbers, outer, inner) == ([], [], [signal.SIGUSR1])
        assert numbers == outer == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, before)


# Ctrl-C where the program is loaded, and where Python exits.
MOMENTS = """
import atexit, importlib.abc, runpy, signal, sys

class Loading(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "families":
            signal.raise_signal(signal.SIGINT)

_, program, moment = sys.argv
if moment == "loaded":
    sys.meta_path.insert(0, Loading())
else:
    atexit.register(signal.raise_signal, signal.SIGINT)
sys.argv = [program, "--help"]
runpy.run_path(program, run_name="__main__")
"""


@pytest.mark.parametrize("program", ["main.py", "study.py"])
@pytest.mark.parametrize("moment", ["loaded", "exits"])
def test_a_signal_beside_the_work_leaves_no_traceback(program, moment):
    command = [sys.executable, "-c", MOMENTS, ROOT / program, moment]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, preexec_fn=heed)
    assert (found.returncode, found.stderr) == (-signal.SIGINT, "")
    assert ("--help" in found.stdout) == (moment == "exits")


@pytest.mark.parametrize("edge", range(2 * len(ENDING) + 2))
def test_a_signal_at_the_edges_of_the_work(edge, monkeypatch, capsys):
    """Where a handler is set, before the work, and where it is put back."""
    real, calls = signal.signal, []

    def install(number, handler):
        calls.append(real(number, handler))
        if len(calls) == edge + 1:
            signal.raise_signal(signal.SIGINT)
        return calls[-1]

    monkeypatch.setattr(signal, "signal", install)
    assert status_of("slow", lambda: None) == 130
    monkeypatch.undo()
    heed_as_tests_do()
    assert capsys.readouterr().err == "interrupted\n"


class Destructor:
    """Python drops what is raised here, with a warning on stderr."""

    def __del__(self):
        signal.raise_signal(signal.SIGTERM)


def dropped(error=None):
    """As C code does that calls Python."""
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    if error:
        raise error


@pytest.mark.parametrize("drop", [Destructor, dropped])
def test_a_signal_whose_exception_is_dropped_comes_again(drop, capfd):
    done = []

    def work():
        drop()
        time.sleep(20)
        done.append(True)

    hook = sys.unraisablehook
    assert status_of("slow", work) == 143
    assert (done, capfd.readouterr().err) == ([], "interrupted\n")
    assert sys.unraisablehook is hook
    heed_as_tests_do()


def test_a_signal_whose_exception_becomes_another_one(capfd):
    assert status_of("slow", dropped, ValueError("Invalid bounding box")) == 143
    assert capfd.readouterr().err == "interrupted\n"
    heed_as_tests_do()
    with pytest.raises(ValueError, match="a bug"):
        status_of("slow", int, "a bug")


def heed_as_tests_do():
    """After a signal its handlers stay, to ignore further ones while Python exits."""
    for number in (*ENDING, signal.SIGALRM):
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, default)


def wait_for_rows(rows=4):
    metrics, limit = Path("runs/long/metrics.csv"), time.time() + PATIENCE
    while not metrics.exists() or metrics.read_text().count("\n") < rows:
        assert time.time() < limit
        time.sleep(0.01)


def saved_epoch():
    return load_checkpoint(Path("checkpoints/long/last.pt"))["epoch"]


def test_a_run_says_how_to_go_on(work):
    flags = ("--epochs", 5000, "--dim", 8, "--compile", "off", "--save_every", 1)
    process = start(*flags, "--run_name", "long")
    wait_for_rows()
    process.terminate()
    status, _, errors = finish(process)
    assert (status, errors.count("\n")) == (143, 1)
    assert f"go on from epoch {saved_epoch()} with: " in errors
    assert errors.endswith(" --save_every 1 --run_name long --train_mode continue\n")


def test_a_signal_during_a_checkpoint_waits_for_it(tmp_path, monkeypatch):
    """So the epoch that the program then names is the one that was saved."""
    monkeypatch.setattr("checkpointing.shards.save", lambda *_: signal.raise_signal(signal.SIGINT))
    checkpoints = Checkpoints(tmp_path, save_every=1)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.update({"epoch": 3, "best_epoch": 3}, improved=False, final=False)
    assert checkpoints.saved_epoch == 3


def test_the_job_file_of_the_docs_goes_on(work, monkeypatch):
    """The notice waits for the epoch's end, and saves it, also where no checkpoint was due."""
    page = (ROOT / "docs/training.md").read_text()
    job = page[page.index("#!/bin/bash\n#SBATCH") :].split("```")[0]
    run = (
        f"{sys.executable} {ROOT}/main.py --dim 8 --compile off --save_every 5000 --epochs $EPOCHS"
    )
    write(work / "job", job.replace("python main.py --dataset 1M", run))
    for program, what in (("srun", 'exec "$@"'), ("scontrol", 'echo "$@"')):
        write(work / "bin" / program, f"#!/bin/sh\n{what}\n")
        (work / "bin" / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{work / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")

    def start_job(epochs):
        monkeypatch.setenv("EPOCHS", str(epochs))
        outputs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(["bash", "job"], text=True, **outputs)

    process = start_job(5000)
    wait_for_rows()
    (run,) = children(process.pid)
    os.kill(run, signal.SIGUSR1)
    status, output, errors = finish(process)
    epoch = saved_epoch()
    assert (status, output.splitlines()[-1]) == (138, "requeue 7")
    assert f"interrupted after epoch {epoch}; go on from epoch {epoch} with: " in errors
    status, output, _ = finish(start_job(epoch + 1))
    assert status == 0
    assert f"continuing after epoch {epoch}" in output
    assert "requeue" not in output
