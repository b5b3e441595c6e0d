"""Mistakes of the user, reported in one line; how a command ends."""

import errno
import logging
import os
import re
import resource
import signal
import sys
from contextlib import suppress

from cli import launch
from cli.signals import ending_signals
from cli.text import escaped

# What torch.distributed says if another process is gone, or does not answer.
LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Timed out",
    "timeout",
    "timed out",
)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a disk, a quota, a limit of sizes
# What torch says, on a GPU and on a CPU, and C++, if there is no memory left.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "bad_alloc")


class UserError(Exception):
    """A mistake of the user or of the machine. Its text says what, where and what to do."""


class RaisedByAllRanks(UserError):
    """A UserError that every process raises; only the first one reports it.

    distributed.agreement.raise_on_all_ranks turns a UserError into this.
    """


class Diverged(RaisedByAllRanks):
    """The loss of a run is no longer finite.

    All processes see the same summed loss, so all raise it.
    """


def status_of(program, action, *arguments):
    """Call action(*arguments) for `program`. Returns the exit status of a command.

    0: success; 2: a mistake of the user, reported in one line on stderr; 128 + its number: a signal
    of cli.signals, as Ctrl-C (130), with a line on stderr. Other exceptions are bugs, and are
    raised.
    """
    received = []
    try:
        with ending_signals(received):
            return _status_of(program, action, *arguments)
    except (KeyboardInterrupt, Exception) as error:
        # C++ code that calls Python may make another error of a signal's exception.
        if not (received or isinstance(error, KeyboardInterrupt)):
            raise
        how = escaped(error) if isinstance(error, KeyboardInterrupt) else ""
        # A terminal that was closed takes no line, and must not turn the status into another.
        with suppress(OSError, UserError):
            finish_output()
        with suppress(OSError):
            if launch.is_main_process():
                print(how or "interrupted", file=sys.stderr)
        return 128 + (received or [signal.SIGINT])[0]


def _status_of(program, action, *arguments):
    rank = launch.rank()
    try:
        action(*arguments)
        finish_output()
    except Exception as error:
        message = message_of(error)
        if message is None:
            raise
        if should_report(error):
            where = f"[rank {rank}] " if rank else ""
            message = escaped(" ".join(message.split("\n")))
            print(f"{where}{program}: error: {message}", file=sys.stderr)
        return 2
    return 0


class Console(logging.StreamHandler):
    """Writes the log to a stream. If that fails, the work goes on, and `finish_output` tells it."""

    failed = None

    def handleError(self, record):
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self.failed = self.failed or error


class LogFile(Console, logging.FileHandler):
    """Writes the log to a file. If that fails, the work goes on; `failed` has the OSError."""

    def close(self):
        try:
            super().close()
        except OSError as error:
            self.failed = self.failed or error


def finish_output(error=None):
    """Flush stdout. Raises UserError if what was printed could not be written.

    error: OSError of writing, if there was one already

    A reader that went away (`| head`) is no mistake.
    """
    for handler in logging.getLogger("onebp").handlers:
        error = error or getattr(handler, "failed", None)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as flushing:
        error = error or flushing
    if error:
        with suppress(OSError):  # else Python would try again at exit, and print a traceback
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if error and not isinstance(error, BrokenPipeError):
        raise UserError(
            f"cannot write to standard output ({error.strerror or error}); files are written"
        )


def message_of(error):
    """The line for an error that a user can do something about; None for a bug of this program."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in FULL:
        return f"cannot write {error.filename or 'a file'} ({error.strerror}); make room there"
    if is_out_of_memory(error):
        asked = re.search(r"allocate ([\d.]+) (\w+)", str(error))
        size, unit = asked.groups() if asked else ("", "")
        size, unit = (f"{int(size) / 1e6:,.0f}", "MB") if unit == "bytes" else (size, unit)
        more = f" ({size} {unit} more)" if asked else ""
        return f"out of memory{more}; lower --dim, --batch_size, --N or --hidden, or use less data"
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}; check the path, its permissions and the free disk space"
    if launch.world_size() > 1 and says_rank_is_lost(error):
        what = f"another process failed ({first_sentence(error)})"
        return f"{what}; see its own message. Resume with --train_mode continue"
    return None


def is_out_of_memory(error):
    """Whether an error says that there is no memory left: of Python, NumPy, PyTorch, the system."""
    of_system = isinstance(error, OSError) and error.errno == errno.ENOMEM
    words = any(words in str(error) for words in OUT_OF_MEMORY)
    # Under `ulimit -v` a library may not be loaded; without it the reason is another one.
    limited = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    unloaded = isinstance(error, ImportError) and limited and "failed to map" in str(error)
    return isinstance(error, MemoryError) or of_system or words or unloaded


def says_rank_is_lost(error):
    """Whether an error says that another process is gone, or does not answer."""
    of_torch = type(error).__name__.startswith("Dist")
    words = any(words in str(error) for words in LOST)
    return isinstance(error, RuntimeError) and (of_torch or words)


def first_sentence(error):
    """The first sentence of an error of PyTorch, without the place in PyTorch's source code."""
    line = (str(error) or type(error).__name__).splitlines()[0]
    return re.sub(r"\[/\S+\] ", "", line).split(". ")[0]


def should_report(error):
    """Whether this process reports an error, or leaves it to another one."""
    if isinstance(error, RaisedByAllRanks):
        return launch.is_main_process()
    return not says_rank_is_lost(error) or launch.local_rank() == 0
