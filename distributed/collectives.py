"""Several processes that train one model, as torchrun starts them; the words are torch.distributed's.

Each of the `count()` ranks has its share of the users, see shards.py, and all items, see instep.py. In one process
there is one rank, and nothing to exchange.
"""

import torch
import torch.distributed as dist

PIECES = "pieces"  # in a rank's state, what it has of tables of which each rank keeps a piece
# As they are called up to PyTorch 2.12.
all_gather_single = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
reduce_scatter_single = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def world_size():
    """How many ranks there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank():
    """The number of this one, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def all_reduce_(tensor):
    """The sum of the ranks' tensors, in place of this one's."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


# What starts an exchange returns a function that waits for its end, and returns what arrived.


def start_all_reduce(tensor):
    """Begin to put the sum of the ranks' tensors in place of this one's, which arrives."""
    return completion([dist.all_reduce(tensor, async_op=True)], tensor)


def start_all_gather(whole):
    """Begin to fill `whole` (W * n, ...), where this rank's n rows are in place, with the others'. It arrives."""
    pieces = whole.chunk(world_size())
    if whole.is_cuda:
        works = [all_gather_single(whole, pieces[rank()], async_op=True)]
    else:
        works = start_send_receive([pieces[rank()]] * world_size(), pieces)
    return completion(works, whole)


def start_all_gather_padded(rows, width):
    """Begin to gather the ranks' rows (M, ...), each followed by zeros up to `width` (W * width, ...), which arrive."""
    whole = rows.new_zeros(world_size() * width, *rows.shape[1:])
    whole[rank() * width :][: len(rows)] = rows
    return start_all_gather(whole)


def start_reduce_scatter(whole):
    """Begin to sum the ranks' tensors (W * n, ...); of this rank's n rows there arrive (any number, n, ...) to sum."""
    pieces = whole.chunk(world_size())
    if whole.is_cuda:
        parts = torch.empty_like(pieces[0])[None]
        works = [reduce_scatter_single(parts[0], whole, async_op=True)]
    else:
        parts = whole.new_empty(world_size(), *pieces[0].shape)
        works = start_send_receive(pieces, parts)
        parts[rank()] = pieces[rank()]
    return completion(works, parts)


def start_send_receive(outgoing, incoming):
    """Begin to send outgoing[r] to each other rank r, and to receive its in incoming[r].

    gloo's own collectives take twice as long.
    """
    others = [number for number in range(world_size()) if number != rank()]
    works = [dist.irecv(incoming[other], other) for other in others]
    return works + [dist.isend(outgoing[other], other) for other in others]


def completion(works, tensor):
    """A function that waits until all of `works` are done and returns the tensor."""

    def arrived():
        for work in works:
            work.wait()
        return tensor

    return arrived


def all_reduce_int(number):
    """The sum of the ranks' whole numbers."""
    return int(all_reduce_(torch.tensor(number)))


def all_gather_ints(number):
    """The ranks' whole numbers, a list."""
    if world_size() == 1:
        return [number]
    numbers = torch.empty(world_size(), dtype=torch.int64)
    all_gather_single(numbers, torch.tensor([number]))
    return numbers.tolist()


def all_gather_texts(text):
    """The ranks' texts, a list."""
    if world_size() == 1:
        return [text]
    own = torch.tensor(list(text.encode()), dtype=torch.uint8)
    sizes = all_gather_ints(len(own))
    parts = start_all_gather_padded(own, max(sizes))().view(world_size(), -1)  # (W, the longest)
    return [bytes(part[:size].tolist()).decode() for part, size in zip(parts, sizes, strict=True)]


def agree(flag):
    """Whether `flag` is true on all ranks."""
    return all_reduce_int(int(flag)) == world_size()


def first_rank_says(flag):
    """Whether `flag` is true on the first rank."""
    return all_gather_ints(int(flag))[0] == 1


def gather_to_first(piece):
    """On the first rank the ranks' pieces (any number, ...), one after the other and on the CPU; None on the others."""
    sizes, piece = all_gather_ints(len(piece)), piece.cpu().contiguous()
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


def broadcast_(tensors):
    """Overwrite the tensors by rank 0's."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def own_portion(number):
    """This rank's part of a whole number: as much as any other's, or one less."""
    return number // world_size() + (rank() < number % world_size())
