"""Join and leave torchrun's group of processes; tell whether torchrun restarted it."""

import os
import time
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

# The functions of this module keep the group that exists at import; imported now, they keep none.
# torch.compile would import it later. The group would then live on, and its threads can abort a
# process that exits after its work.
import torch.distributed.nn

from cli import launch
from cli.errors import UserError, first_sentence

FREEING = 0.1  # seconds
restart_store = None  # torchrun's store, which it keeps when it restarts the processes
group_store = None  # the part of it that is of this group


@contextmanager
def process_group(device, seconds):
    """Join torchrun's group of processes for the block; do nothing without torchrun.

    device: device of this process
    seconds: how long to wait for another process

    Raises UserError if the processes do not find each other.
    """
    global restart_store, group_store
    if launch.world_size() == 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return

    # Find torchrun's store. One process needs only the store.
    timeout = timedelta(seconds=seconds)
    with explain_joining():
        restart_store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
    if size == 1:
        yield
        return

    # Join the group. Each restart gets keys of its own in the store, as the store still holds the
    # addresses of the processes that are gone.
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    attempt = f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
    store = group_store = dist.PrefixStore(attempt, restart_store)
    with explain_joining():
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    try:
        yield
    finally:
        # torch 2.6 joins gloo's threads while it holds Python's lock. A thread that still has to
        # free a tensor of Python waits for that lock: give it the time.
        time.sleep(FREEING)
        dist.destroy_process_group()


@contextmanager
def explain_joining():
    """Raise a UserError if the ranks fail to find each other in the block."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        advice = (
            "is each started, once and within --timeout seconds, and can they reach each other?"
        )
        raise UserError(
            f"cannot join the other ranks ({first_sentence(error)}); {advice}"
        ) from None


@contextmanager
def wait_for_all():
    """At the end of the block, wait until all processes are there, however long that takes.

    A collective would give up after --timeout seconds.
    """
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    try:
        yield
    finally:
        number = group_store.add("arrived", 1) if ranks > 1 else 1
    # The number of arrivals when all are there; the block may be entered more than once.
    expected = -(-number // ranks) * ranks
    while number < expected:
        time.sleep(0.05)
        number = group_store.add("arrived", 0)


def note_run_started():
    """Note for `restarted_run`: from now on last.pt is of this run; a restart may continue it."""
    if restart_store and launch.is_main_process():
        restart_store.set("begun", "")


def restarted_run():
    """Whether torchrun restarted the processes after the run had started. Call in process_group."""
    return bool(restart_store) and restart_store.check(["begun"])
