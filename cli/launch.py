"""What torchrun tells each of the processes that it starts, in its environment. Read before torch is loaded."""

import math
import os

NUMBERS = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT")


def world_size():
    """How many processes it started, this one among them; 1 without it."""
    return max(1, _number("WORLD_SIZE"))


def rank():
    """The number of this process, from 0; also 0 where the environment has none that can be."""
    rank = _number("RANK")
    return rank if rank < world_size() else 0


def local_rank():
    """The number of this process among those of its machine, from 0."""
    return _number("LOCAL_RANK") if world_size() > 1 else 0


def local_world_size():
    """How many of the processes are on this machine."""
    return _number("LOCAL_WORLD_SIZE") if world_size() > 1 else 1


def is_main_process():
    """Whether this is the process that prints and writes."""
    return rank() == 0


def mistakes():
    """Yield what is wrong with the environment, a line."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return
    limits = {"RANK": world_size(), "LOCAL_RANK": local_world_size(), "MASTER_PORT": 1 << 16}
    for name in (*NUMBERS, "MASTER_ADDR"):
        value = os.environ.get(name, "")
        fits = value.isdecimal() and int(value) < limits.get(name, math.inf)
        if not (fits if name in NUMBERS else value):
            what = f"{name}={value}" if value else f"no {name}"
            yield f"the environment has WORLD_SIZE, as of several processes, and {what}; start them with torchrun"


def _number(name):
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else 0
