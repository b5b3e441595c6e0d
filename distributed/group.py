"""Join and leave the group of processes that torchrun started; restarts of a group."""

import os
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

# torch.compile loads this later, and that is too late: its functions take the group that there is then as a default
# argument, so the group would live on, and its threads can abort a process that has done its work and exits.
import torch.distributed.nn

from cli import launch
from cli.errors import UserError, first_line

restart_store = None  # torchrun's store, which outlives the processes that it starts again


@contextmanager
def process_group(device, seconds):
    """In the block this process is one of those that torchrun started, if it is. seconds: to wait for another.

    Raises UserError where they do not find each other.
    """
    global restart_store
    if launch.world_size() == 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    timeout = timedelta(seconds=seconds)
    with explain_joining():
        restart_store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
    if size == 1:
        yield
        return
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    # torchrun keeps the store when it restarts the processes, with the addresses of those that are gone.
    store = dist.PrefixStore(
        f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", restart_store
    )
    with explain_joining():
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def explain_joining():
    """A UserError for what goes wrong in the block, where the ranks look for each other."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        advice = (
            "is each started, once and within --timeout seconds, and can they reach each other?"
        )
        raise UserError(f"cannot join the other ranks ({first_line(error)}); {advice}") from None


def note_run_started():
    """Note that the run has begun: from now on, what lies in its folders is its own."""
    if restart_store and launch.is_main_process():
        restart_store.set("begun", "")


def restarted_run():
    """Whether torchrun started the processes again, and the run had begun before one of them died."""
    return bool(restart_store) and restart_store.check(["begun"])
