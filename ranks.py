"""Several processes that train one model, as torchrun starts them; the words are torch.distributed's.

Each of the `count()` ranks has its share of the users, see shards.py, and all items, see instep.py. In one process,
every function here gives back what it got.
"""

import os
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from errors import UserError

OWN = "user"  # of the tables of weights, the one of which a rank has its users' rows; it has all of the others
all_gather_single = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # up to PyTorch 2.12
BLOCK = 1 << 20  # numbers that `fingerprint` looks at together
ODD = 0x1E3779B97F4A7C15  # of the golden ratio: neighbours' multiples have nothing in common


@contextmanager
def joined(device, seconds):
    """In the block this process is one of those that torchrun started, if it is. seconds: to wait for another."""
    if launched() == 1:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    timeout = timedelta(seconds=seconds)
    store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
    # torchrun keeps the store when it restarts the processes, with the addresses of those that are gone.
    store = dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    try:
        yield
    finally:
        dist.destroy_process_group()


def launched():
    """How many processes torchrun started, this one among them."""
    return int(os.environ.get("WORLD_SIZE", 1))


def restarted():
    """Whether torchrun started the processes again, after one of them had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


def count():
    """How many ranks there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank():
    """The number of this one, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def leads():
    """Whether this is the rank that prints and writes."""
    return int(os.environ.get("RANK", 0)) == 0


def summed(tensor):
    """The sum of the ranks' tensors, in place of this one's."""
    if count() > 1:
        _sum(tensor)
    return tensor


# Operators of their own: what the compiler makes of a collective copies the tensor, and in each step into new memory.
@torch.library.custom_op("onebp::sum", mutates_args={"tensor"})
def _sum(tensor: torch.Tensor) -> None:
    dist.all_reduce(tensor)


@torch.library.custom_op("onebp::gather", mutates_args=())
def _gather(tensor: torch.Tensor) -> torch.Tensor:
    whole = _room(tensor)
    all_gather_single(whole, tensor.contiguous())
    return whole


@_gather.register_fake
def _room(tensor):
    return tensor.new_empty(count() * len(tensor), *tensor.shape[1:])


def total(number):
    """The sum of the ranks' whole numbers."""
    return int(summed(torch.tensor(number)))


def gathered(tensor):
    """The ranks' tensors (n, ...), all of one shape, one after the other: (W * n, ...)."""
    if count() == 1:
        return tensor
    return _gather(tensor)


def all_of(number):
    """The ranks' whole numbers, a list."""
    return gathered(torch.tensor([number])).tolist()


def agree(flag):
    """Whether `flag` is true on all ranks."""
    return total(int(flag)) == count()


def copy_from_first(tensors):
    """Overwrite the tensors by rank 0's."""
    if count() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def wait():
    """Go on when all ranks are here."""
    if count() > 1:
        dist.barrier()


def part_of(number):
    """This rank's part of a whole number: as much as any other's, or one less."""
    return number // count() + (rank() < number % count())


def check_same(tables):
    """Raise UserError where a table of weights, {name: tensor}, is not the same on all ranks, bit by bit."""
    if count() == 1:
        return
    for name, table in tables.items():
        if len(set(all_of(fingerprint(table)))) > 1:
            raise UserError(
                f"the weights {name!r} are no longer the same on all {count()} ranks, so the run stops; "
                "are they the same machines, with the same versions? Go on with --train_mode continue"
            )


def fingerprint(table):
    """A number (int64) that tells tables apart by their bits, and where these are."""
    found = 0
    for number, block in enumerate(table.flatten().view(torch.int32).split(BLOCK)):
        place = torch.arange(1, 1 + len(block), device=table.device) + number * BLOCK
        mixed = (block.long() + place) * (place * ODD | 1)
        found += int((mixed ^ (mixed >> 29)).sum())
    return (found + (1 << 63)) % (1 << 64) - (1 << 63)
