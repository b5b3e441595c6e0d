"""What torchrun sets in the environment of each process that it starts. Loads without torch.

Use `world_size` and `rank` of this module before the process has joined its group, where torch may
not be loaded yet: flags, errors, logs. Use those of distributed.collectives in all that follows.
"""

import math
import os

NUMBERS = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT")


def world_size():
    """Number of processes that torchrun started; 1 without torchrun."""
    return max(1, _number("WORLD_SIZE"))


def rank():
    """Rank of this process, from 0; 0 if the environment has no valid one."""
    rank = _number("RANK")
    return rank if rank < world_size() else 0


def local_rank():
    """Rank of this process among those of its machine, from 0."""
    return _number("LOCAL_RANK") if world_size() > 1 else 0


def local_world_size():
    """Number of the processes on this machine."""
    return _number("LOCAL_WORLD_SIZE") if world_size() > 1 else 1


def is_main_process():
    """Whether this process prints and writes the files of a run."""
    return rank() == 0


def mistakes():
    """Yield a line for each variable of the environment that is absent or impossible."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return
    limits = {"RANK": world_size(), "LOCAL_RANK": local_world_size(), "MASTER_PORT": 1 << 16}
    for name in (*NUMBERS, "MASTER_ADDR"):
        value = os.environ.get(name, "")
        if name in NUMBERS:
            fits = value.isdecimal() and int(value) < limits.get(name, math.inf)
        else:
            fits = bool(value)
        if not fits:
            what = f"{name}={value}" if value else f"no {name}"
            yield (
                f"the environment has WORLD_SIZE, as of several processes, and {what}; "
                "start them with torchrun"
            )


def _number(name):
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else 0
