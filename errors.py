"""A user's mistakes, told in one line, and Ctrl-C, held back where it would do harm."""

import re
import signal
from contextlib import contextmanager

import launch

# What torch.distributed says when another process is gone, or does not answer.
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out", "timeout", "timed out")


class UserError(Exception):
    """A mistake of the user or of the machine: its text says what, where and what to do. Exit status 2."""


class OfAll(UserError):
    """A UserError that all ranks raise, of which the first one tells."""


class Diverged(OfAll):
    """The loss of a run is no longer finite."""


def explain(error):
    """The line for an error that a user can do something about; None for what is a bug of this program."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}; check the path, its permissions and the free disk space"
    if isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error):
        return "out of memory; lower --dim, --batch_size or --N"
    if launch.launched() > 1 and lost(error):
        how = "its own line, if it left one, says why; from a checkpoint --train_mode continue goes on"
        return f"lost another rank ({gist(error)}); {how}"
    return None


def lost(error):
    """Whether an error says that another process is gone, or does not answer."""
    own = type(error).__name__.startswith("Dist")  # torch.distributed's
    return isinstance(error, RuntimeError) and (own or any(sign in str(error) for sign in LOST))


def gist(error):
    """What an error of PyTorch's says first, less the place in its source."""
    line = (str(error) or type(error).__name__).splitlines()[0]
    return re.sub(r"\[/\S+\] ", "", line).split(". ")[0]


def tells(error):
    """Whether this process tells of an error: of what all have in common, only one does."""
    if isinstance(error, OfAll):
        return launch.leads()
    return not lost(error) or launch.local_number() == 0


@contextmanager
def interrupts_held_back():
    """Let Ctrl-C wait until the block ends: an exception out of C++ code that calls back into Python would abort it."""
    received = []
    handler = signal.signal(signal.SIGINT, lambda *arguments: received.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if received:
        raise KeyboardInterrupt
