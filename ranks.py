"""Several processes that train one model, as torchrun starts them; the words are torch.distributed's.

Each of the `count()` ranks has its share of the users, see shards.py, and all items, see instep.py. In one process
there is one rank, and nothing to exchange.
"""

import json
import os
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

# torch.compile loads this later, and that is too late: its functions take the group that there is then as a default
# argument, so the group would live on, and its threads can abort a process that has done its work and exits.
import torch.distributed.nn

import launch
from errors import OfAll, UserError, explain, gist

PIECES = "pieces"  # in a rank's state, what it has of tables of which each rank keeps a piece
OWN = "user"  # of the tables of weights, the one of which a rank has its users' rows; it has all of the others
# As they are called up to PyTorch 2.12.
all_gather_single = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
reduce_scatter_single = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
kept = None  # torchrun's store, which outlives the processes that it starts again
BLOCK = 1 << 20  # numbers that `fingerprint` looks at together
GOLDEN = 0x9E3779B1  # odd, so that its multiples by different ranks differ in 32 bits
ODD = 0x1E3779B97F4A7C15  # of the golden ratio: neighbours' multiples have nothing in common


@contextmanager
def joined(device, seconds):
    """In the block this process is one of those that torchrun started, if it is. seconds: to wait for another.

    Raises UserError where they do not find each other.
    """
    global kept
    if launch.launched() == 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    timeout = timedelta(seconds=seconds)
    with joining():
        kept, rank, size = next(dist.rendezvous("env://", timeout=timeout))
    if size == 1:
        yield
        return
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    # torchrun keeps the store when it restarts the processes, with the addresses of those that are gone.
    store = dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", kept)
    with joining():
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def joining():
    """A UserError for what goes wrong in the block, where the ranks look for each other."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        advice = "is each started, once and within --timeout seconds, and can they reach each other?"
        raise UserError(f"cannot join the other ranks ({gist(error)}); {advice}") from None


def note_begun():
    """Note that the run has begun: from now on, what lies in its folders is its own."""
    if kept and launch.leads():
        kept.set("begun", "")


def begun():
    """Whether torchrun started the processes again, and the run had begun before one of them died."""
    return bool(kept) and kept.check(["begun"])


def count():
    """How many ranks there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank():
    """The number of this one, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def summed(tensor):
    """The sum of the ranks' tensors, in place of this one's."""
    if count() > 1:
        dist.all_reduce(tensor)
    return tensor


# What starts an exchange returns a function that waits for its end, and returns what arrived.


def start_sum(tensor):
    """Begin to put the sum of the ranks' tensors in place of this one's, which arrives."""
    return waiting([dist.all_reduce(tensor, async_op=True)], tensor)


def start_gather(whole):
    """Begin to fill `whole` (W * n, ...), where this rank's n rows are in place, with the others'. It arrives."""
    pieces = whole.chunk(count())
    if whole.is_cuda:
        works = [all_gather_single(whole, pieces[rank()], async_op=True)]
    else:
        works = swap([pieces[rank()]] * count(), pieces)
    return waiting(works, whole)


def start_rows(rows, width):
    """Begin to gather the ranks' rows (M, ...), each followed by zeros up to `width` (W * width, ...), which arrive."""
    whole = rows.new_zeros(count() * width, *rows.shape[1:])
    whole[rank() * width :][: len(rows)] = rows
    return start_gather(whole)


def start_scatter(whole):
    """Begin to sum the ranks' tensors (W * n, ...); of this rank's n rows there arrive (any number, n, ...) to sum."""
    pieces = whole.chunk(count())
    if whole.is_cuda:
        parts = torch.empty_like(pieces[0])[None]
        works = [reduce_scatter_single(parts[0], whole, async_op=True)]
    else:
        parts = whole.new_empty(count(), *pieces[0].shape)
        works = swap(pieces, parts)
        parts[rank()] = pieces[rank()]
    return waiting(works, parts)


def swap(outgoing, incoming):
    """Begin to send outgoing[r] to each other rank r, and to receive its in incoming[r].

    gloo's own collectives take twice as long.
    """
    others = [number for number in range(count()) if number != rank()]
    works = [dist.irecv(incoming[other], other) for other in others]
    return works + [dist.isend(outgoing[other], other) for other in others]


def waiting(works, tensor):
    """A function that waits until all of `works` are done and returns the tensor."""

    def arrived():
        for work in works:
            work.wait()
        return tensor

    return arrived


def total(number):
    """The sum of the ranks' whole numbers."""
    return int(summed(torch.tensor(number)))


def all_of(number):
    """The ranks' whole numbers, a list."""
    if count() == 1:
        return [number]
    numbers = torch.empty(count(), dtype=torch.int64)
    all_gather_single(numbers, torch.tensor([number]))
    return numbers.tolist()


def texts(text):
    """The ranks' texts, a list."""
    if count() == 1:
        return [text]
    own = torch.tensor(list(text.encode()), dtype=torch.uint8)
    sizes = all_of(len(own))
    parts = start_rows(own, max(sizes))().view(count(), -1)  # (W, the longest)
    return [bytes(part[:size].tolist()).decode() for part, size in zip(parts, sizes, strict=True)]


def agree(flag):
    """Whether `flag` is true on all ranks."""
    return total(int(flag)) == count()


def of_first(flag):
    """Whether `flag` is true on the first rank."""
    return all_of(int(flag))[0] == 1


@contextmanager
def together():
    """Where a rank meets a mistake in the block, all raise it: OfAll. Inside, ranks do not wait for each other."""
    mistake = ""
    try:
        yield
    except Exception as error:
        mistake = explain(error)
        if mistake is None or count() == 1:
            raise
    for number, text in enumerate(texts(mistake)):
        if text:
            raise OfAll(f"rank {number}: {text}" if number else text)


def check_alike(facts):
    """Raise OfAll where one of {name: value}, all of them plain, is not the same on all ranks."""
    first, *others = (json.loads(text) for text in texts(json.dumps(facts)))
    for number, other in enumerate(others, 1):
        for name, value in first.items():
            if other[name] != value:
                raise OfAll(f"rank {number} has {name} {other[name]}, the first one {value}; all of them need the same")


def collected(piece):
    """On the first rank the ranks' pieces (any number, ...), one after the other and on the CPU; None on the others."""
    sizes, piece = all_of(len(piece)), piece.cpu().contiguous()
    if rank():
        if len(piece):
            dist.send(piece, 0)
        return None
    whole = piece.new_empty(sum(sizes), *piece.shape[1:])
    for number, part in enumerate(whole.split(sizes)):
        if not number:
            part.copy_(piece)
        elif len(part):
            dist.recv(part, number)
    return whole


def copy_from_first(tensors):
    """Overwrite the tensors by rank 0's."""
    if count() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def part_of(number):
    """This rank's part of a whole number: as much as any other's, or one less."""
    return number // count() + (rank() < number % count())


def own_seed(seed):
    """A seed for this rank's random numbers: that of rank 0 is `seed`, and no two are the same.

    Ranks differ in the low 32 bits, since PyTorch's generator on a CPU takes no others.
    """
    return seed ^ (rank() * GOLDEN & 0xFFFFFFFF)


def check_same(tables):
    """Raise UserError where a table of weights, {name: tensor}, is not the same on all ranks, bit by bit."""
    if count() == 1:
        return
    for name, table in tables.items():
        if len(set(all_of(fingerprint(table)))) > 1:
            raise OfAll(
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
