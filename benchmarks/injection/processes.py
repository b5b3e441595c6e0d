"""The program in a process of its own, which may be killed, or limited in memory and time.

The process is forked from this one, where torch is loaded already: that takes 20 ms, a new one 3 s.
"""

import atexit
import importlib
import logging
import os
import resource
import shlex
import signal
import socket
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import main
import study
from cli.signals import ENDING
from sweeps import trials
from sweeps.trials import end_with_parent


def on_two_ranks(words):
    """main.py on two ranks, with the environment that torchrun gives them. Returns a status."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    rank = 0 if (other := os.fork()) else 1
    own |= {"RANK": rank, "LOCAL_RANK": rank}
    os.environ.update({name: str(value) for name, value in own.items()})
    if rank:
        end_with_parent()
        os._exit(main.main(words))
    status = main.main(words)
    return status or os.waitstatus_to_exitcode(os.waitpid(other, 0)[1])


TORCHRUN = "torchrun --nproc_per_node=2 main.py"
PROGRAMS = {"main.py": main.main, "study.py": study.main, TORCHRUN: on_two_ranks}
# fmt: off
LOADED = (
    "checkpointing.update", "families.all_items", "families.clicks.description",
    "families.clicks.stream", "families.ratings.svd", "inference.export", "inference.lists",
    "inference.recommend", "inference.use", "pyarrow.csv", "pyarrow.parquet",
    "regularizers.lambdaopt", "reports.figures", "sources.demo", "sources.description",
    "sources.split_files", "sweeps.compare", "sweeps.l2_grid", "sweeps.search",
    "sweeps.search_trials", "sweeps.table", "torch._inductor", "torch.distributed.nn",
    "matplotlib.backends.backend_agg", "matplotlib.figure",
)
# fmt: on
PATIENCE = 120  # seconds until a process is taken to hang, also when it was asked to end
END = signal.SIGTERM, PATIENCE
MEMORY = 1 << 30  # bytes that a process may have more than this one
LARGEST_FILE = 1 << 28  # bytes
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "fcntl.flock"}


@dataclass
class Ended:
    """How a process ended. status: as of a shell's command; negative: the signal that killed it."""

    status: int
    output: str
    errors: str

    @property
    def asked_to_end(self):
        """Whether it ended as a program does that a signal asks to, such as Ctrl-C."""
        return (self.status or 0) - 128 in ENDING

    def fault(self):
        """What is wrong with this end, a text; None if it worked or refused in one line."""
        lines = self.errors.splitlines()
        if "Traceback" in self.errors:
            return f"traceback: {lines[-1]}"
        if self.status in (0, 2) or self.asked_to_end:
            wanted = self.status > 0
            return None if len(lines) == wanted else f"{len(lines)} lines on stderr: {lines[:2]}"
        return f"status {self.status}: {' '.join(lines[-1:])}"

    @property
    def out_of_memory(self):
        """Whether the limit of memory ended it, with or without the program's line for that."""
        return any(words in self.errors for words in ("out of memory", "bad_alloc", "allocate"))


def load():
    """Load what the program loads late, so that not each process has to."""
    for module in LOADED:
        importlib.import_module(module)


class Fork:
    """What a study needs of subprocess.Popen, for main.py in a fork, in a group of its own."""

    def __init__(self, command, stdout, stderr, preexec_fn):
        with open(os.devnull, "w") as nowhere:
            self.process = _fork(Path.cwd(), command[2:], "main.py", (nowhere, stderr))
        self.returncode = None

    def poll(self):
        if self.returncode is None:
            self.returncode = _wait(self.process, 0)
        return self.returncode

    def wait(self):
        while self.poll() is None:
            time.sleep(0.001)

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.process, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)


def run(folder, words, program="main.py", end=END, event=None, count=None):
    """Run the program in `folder`, in a process group of its own. Returns Ended.

    words: its command line
    program: one of PROGRAMS
    end: (signal, seconds): the signal that it gets after so long
    event: number of a change of files, from 1, before which it gets SIGKILL
    count: a file that is to hold the number of those changes
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = _fork(folder, words, program, (output, errors), event, count)
        for number, seconds in (end, (signal.SIGKILL, PATIENCE), (signal.SIGKILL, PATIENCE)):
            if (status := _wait(process, seconds)) is not None:
                break
            os.killpg(process, number)
        texts = []
        for file in (output, errors):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
        return Ended(status, *texts)


def _wait(process, seconds):
    """The exit status of a process; None if it has not ended after so long."""
    limit, pause = time.monotonic() + seconds, 0.001
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        left = limit - time.monotonic()
        if ended:
            return os.waitstatus_to_exitcode(status)
        if left <= 0:
            return None
        time.sleep(min(pause, left))
        pause = min(2 * pause, 0.05)


def _fork(*what):
    """Start a process for `_be`. Returns its number.

    What asks it to end waits until it is no longer like this one, which a signal would unwind.
    """
    sys.stdout.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    process = os.fork()
    if not process:
        _be(*what)
    with suppress(ProcessLookupError):  # here, too, so that its group can be killed at once
        os.setpgid(process, process)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    return process


def _be(folder, words, program, streams, event=None, count=None):
    """Be the new process, to its end."""
    status = 1
    try:
        os.setpgid(0, 0)
        for number, file in enumerate(streams, start=1):
            os.dup2(file.fileno(), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        sys.argv = [program, *words]
        for number in ENDING:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        end_with_parent()
        log = logging.getLogger("onebp")
        log.handlers.clear()
        log.filters.clear()
        atexit._clear()  # what the other process wanted to do
        temporary = Path(folder).parent / "tmp"
        temporary.mkdir(exist_ok=True)
        os.environ["TMPDIR"], tempfile.tempdir = str(temporary), None
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what has begun to use one cannot be forked
        trials.subprocess = SimpleNamespace(Popen=Fork, DEVNULL=None)
        os.chdir(folder)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
        if Path("/proc/self/statm").exists():  # on Linux, where the limit has an effect
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + MEMORY
            resource.setrlimit(
                resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1])
            )
        if event or count:
            _watch(event, count)
        status = PROGRAMS[program](list(words))
    except SystemExit as exit:
        status = exit.code
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status if isinstance(status, int) else 1)


def _watch(last, count):
    """Count the changes of files from now on; kill this process group before number `last`.

    A fork counts on from there, and kills this process, too.
    """
    number, first = 0, os.getpid()

    def note(event, arguments):
        nonlocal number
        if event in CHANGES or (event == "open" and (arguments[2] or 0) & WRITING):
            number += 1
            if number == last:
                with suppress(ProcessLookupError):
                    os.kill(first, signal.SIGKILL)
                os.killpg(0, signal.SIGKILL)

    sys.addaudithook(note)
    if count:
        atexit.register(lambda: Path(count).write_text(str(number)))


def spelled(words, program="main.py"):
    """A command line as a user types it."""
    start = program if program == TORCHRUN else f"python {program}"
    return f"{start} {shlex.join(words)}"
