"""A user's mistakes, told in one line, and Ctrl-C, held back where it would do harm."""

import re
import signal
from contextlib import contextmanager

# What torch.distributed says when another process is gone, or does not answer.
LOST = ("Connection closed by peer", "Connection reset by peer", "Timed out", "wait timeout")
LOST += ("Broken pipe", "NCCL", "Gloo")


class UserError(Exception):
    """A mistake of the user or of the machine: its text says what, where and what to do. Exit status 2."""


class Diverged(UserError):
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
    if any(sign in str(error) for sign in LOST):
        reason = re.sub(r"\[/\S+\] ", "", str(error).splitlines()[0]).split(". ")[0]  # less the place in its source
        return f"lost another rank ({reason}); go on from the last checkpoint with --train_mode continue"
    return None


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
