"""A user's mistakes, told in one line, and Ctrl-C, held back where it would do harm."""

import re
import signal
import sys
from contextlib import contextmanager

from cli import launch


def status_of(program, action, *arguments):
    """Call `action` for `program`. Returns the exit status, see main."""
    rank = launch.rank()  # of several processes
    try:
        action(*arguments)
    except KeyboardInterrupt as interrupt:
        if not rank:
            print(str(interrupt) or "interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        line = message_of(error)
        if line is None:
            raise
        if should_report(error):
            print(
                f"[rank {rank}] " * bool(rank) + f"{program}: error:",
                " ".join(line.split("\n")),
                file=sys.stderr,
            )
        return 2
    return 0


# What torch.distributed says when another process is gone, or does not answer.
LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Timed out",
    "timeout",
    "timed out",
)


class UserError(Exception):
    """A mistake of the user or of the machine: its text says what, where and what to do. Exit status 2."""


class RaisedByAllRanks(UserError):
    """A UserError that all ranks raise, of which the first one tells."""


class Diverged(RaisedByAllRanks):
    """The loss of a run is no longer finite."""


def message_of(error):
    """The line for an error that a user can do something about; None for what is a bug of this program."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}; check the path, its permissions and the free disk space"
    if (
        isinstance(error, MemoryError)
        or "out of memory" in str(error)
        or "can't allocate memory" in str(error)
    ):
        return "out of memory; lower --dim, --batch_size or --N"
    if launch.world_size() > 1 and is_lost_rank(error):
        how = "its own line, if it left one, says why; from a checkpoint --train_mode continue goes on"
        return f"lost another rank ({first_line(error)}); {how}"
    return None


def is_lost_rank(error):
    """Whether an error says that another process is gone, or does not answer."""
    own = type(error).__name__.startswith("Dist")  # torch.distributed's
    return isinstance(error, RuntimeError) and (own or any(sign in str(error) for sign in LOST))


def first_line(error):
    """What an error of PyTorch's says first, less the place in its source."""
    line = (str(error) or type(error).__name__).splitlines()[0]
    return re.sub(r"\[/\S+\] ", "", line).split(". ")[0]


def should_report(error):
    """Whether this process tells of an error: of what all have in common, only one does."""
    if isinstance(error, RaisedByAllRanks):
        return launch.is_main_process()
    return not is_lost_rank(error) or launch.local_rank() == 0


@contextmanager
def defer_interrupts():
    """Let Ctrl-C wait until the block ends: an exception out of C++ code that calls back into Python would abort it."""
    received = []
    handler = signal.signal(signal.SIGINT, lambda *arguments: received.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if received:
        raise KeyboardInterrupt
