"""Exchange tensors and numbers between the processes that train one model.

The words are torch.distributed's: each of the `world_size()` processes is a rank. torchrun starts
them, see group.py. A rank has its share of the users, see sources/share.py, and a copy of all
items, see optimizer.py. A single process is the only rank and has nothing to exchange.
Before the processes have joined their group, use the functions of cli/launch.py instead.
Shapes: W ranks, n rows of one rank.
"""

import torch
import torch.distributed as dist

# Key in the state of a rank's optimizer: the moments of this rank's pieces of tables.
PIECES = "pieces"
# The names up to PyTorch 2.12, if this version does not have the new ones.
all_gather_single = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
reduce_scatter_single = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def world_size():
    """Number of ranks; 1 before the group is joined, see cli.launch.world_size."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank():
    """Index of this rank, from 0; 0 before the group is joined, see cli.launch.rank."""
    return dist.get_rank() if dist.is_initialized() else 0


def all_reduce_(tensor):
    """Replace a tensor by the sum of all ranks' tensors, and return it."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


# A function start_... starts an exchange. It returns a function without arguments that waits for
# the end of the exchange and returns its result. Only start_send_receive, which the others use,
# returns torch.distributed's handles instead.


def start_all_reduce(tensor):
    """Start to replace a tensor by the sum of all ranks' tensors. Result: the tensor."""
    if world_size() == 1:
        return lambda: tensor
    return completion([dist.all_reduce(tensor, async_op=True)], tensor)


def start_sum(tensors):
    """Start to sum {name: tensor} over all ranks, in one exchange. Result: {name: sum}."""
    if world_size() == 1 or not tensors:
        return lambda: tensors
    sizes = [tensor.numel() for tensor in tensors.values()]
    wait = start_all_reduce(torch.cat([tensor.flatten() for tensor in tensors.values()]))

    def summed():
        pieces = zip(tensors.items(), wait().split(sizes), strict=True)
        return {name: piece.view_as(tensor) for (name, tensor), piece in pieces}

    return summed


def start_all_gather(whole):
    """Start to fill in the other ranks' rows of a tensor. Result: the tensor.

    whole (W * n, ...): has the n rows of this rank in their place
    """
    pieces = whole.chunk(world_size())
    if whole.is_cuda:
        works = [all_gather_single(whole, pieces[rank()], async_op=True)]
    else:
        works = start_send_receive([pieces[rank()]] * world_size(), pieces)
    return completion(works, whole)


def start_all_gather_padded(rows, width):
    """Start to gather the rows of all ranks, padded with zeros. Result: (W * width, ...).

    rows (n, ...): of this rank; n may differ between ranks
    width: rows per rank in the result, n or more
    """
    whole = rows.new_zeros(world_size() * width, *rows.shape[1:])
    whole[rank() * width :][: len(rows)] = rows
    return start_all_gather(whole)


def start_all_gather_sized(rows, sizes):
    """Start to gather the rows of all ranks. Result: a list, a tensor (size, ...) of each rank.

    On a CPU no rank sends more rows than it has. NCCL gathers equal sizes only, so on a GPU rows
    are padded.

    rows (n, ...): of this rank
    sizes: n of each rank
    """
    if rows.is_cuda:
        wait = start_all_gather_padded(rows, max(sizes))
        return lambda: without_padding(wait(), sizes)
    pieces = [rows.new_zeros(size, *rows.shape[1:]) for size in sizes]
    works = start_send_receive([rows] * world_size(), pieces)
    pieces[rank()] = rows
    return completion(works, pieces)


def without_padding(padded, sizes):
    """The rows of each rank in what `start_all_gather_padded` gathered: a list of (size, ...).

    sizes: rows of each rank; the largest is the width
    """
    by_rank = padded.view(len(sizes), max(sizes), *padded.shape[1:])  # (W, width, ...)
    return [rows[:size] for rows, size in zip(by_rank, sizes, strict=True)]


def start_reduce_scatter(whole):
    """Start a reduce-scatter of (W * n, ...). Result: a tensor to sum over axis 0.

    The result is (1, n, ...) on a GPU, which sums already, and (W, n, ...) on a CPU. Its sum is the
    sum of all ranks' tensors, in the n rows of this rank.
    """
    pieces = whole.chunk(world_size())
    if whole.is_cuda:
        received = torch.empty_like(pieces[0])[None]
        works = [reduce_scatter_single(received[0], whole, async_op=True)]
    else:
        received = whole.new_empty(world_size(), *pieces[0].shape)
        works = start_send_receive(pieces, received)
        received[rank()] = pieces[rank()]
    return completion(works, received)


def start_send_receive(outgoing, incoming):
    """Start to send outgoing[r] to each other rank r, and to receive incoming[r] from it.

    Returns torch.distributed's handles, for `completion`. gloo's own collectives take twice as
    long.
    """
    others = [other for other in range(world_size()) if other != rank()]
    works = [dist.irecv(incoming[other], other) for other in others]
    return works + [dist.isend(outgoing[other], other) for other in others]


def completion(works, result):
    """Return a function that waits for all handles `works` and returns the result."""

    def arrived():
        for work in works:
            work.wait()
        return result

    return arrived


def all_reduce_int(number):
    """Return the sum of an integer over all ranks."""
    return int(all_reduce_(torch.tensor(number)))


def all_gather_ints(number):
    """Return the integers of all ranks, a list."""
    if world_size() == 1:
        return [number]
    numbers = torch.empty(world_size(), dtype=torch.int64)
    all_gather_single(numbers, torch.tensor([number]))
    return numbers.tolist()


def all_gather_texts(text):
    """Return the texts of all ranks, a list."""
    if world_size() == 1:
        return [text]
    encoded = torch.tensor(list(text.encode()), dtype=torch.uint8)
    sizes = all_gather_ints(len(encoded))
    padded = start_all_gather_padded(encoded, max(sizes))()  # (W * longest,)
    return [bytes(row.tolist()).decode() for row in without_padding(padded, sizes)]


def all_true(flag):
    """Whether `flag` is true on all ranks."""
    return all_reduce_int(int(flag)) == world_size()


def first_rank_says(flag):
    """Whether `flag` is true on the first rank."""
    return all_gather_ints(int(flag))[0] == 1


def all_gather_rows(rows):
    """Concatenate the rows (n, ...) of all ranks, in the order of the ranks; n may differ."""
    sizes = all_gather_ints(len(rows))
    if world_size() == 1 or not sum(sizes):
        return rows
    return torch.cat(without_padding(start_all_gather_padded(rows, max(sizes))(), sizes))


def all_to_all(pieces):
    """Send piece r of pieces (W, ...) to rank r. Returns the pieces of all ranks for this one."""
    if world_size() == 1:
        return pieces
    received = torch.empty_like(pieces)
    dist.all_to_all_single(received, pieces)
    return received


def gather_to_first(piece):
    """Concatenate the tensors of all ranks on the first rank. Returns None on the others.

    piece (n, ...): of this rank; n may differ between ranks

    Returns a tensor on the CPU.
    """
    sizes, piece = all_gather_ints(len(piece)), piece.cpu().contiguous()
    if rank():
        if len(piece):
            dist.send(piece, 0)
        return None
    whole = piece.new_empty(sum(sizes), *piece.shape[1:])
    for sender, rows in enumerate(whole.split(sizes)):
        if not sender:
            rows.copy_(piece)
        elif len(rows):
            dist.recv(rows, sender)
    return whole


def broadcast_(tensors):
    """Overwrite tensors by those of rank 0."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def own_piece(count):
    """This rank's slice of `count` rows, of W equal slices. The last ones may reach beyond them."""
    size = -(-count // world_size())
    return slice(rank() * size, (rank() + 1) * size)


def own_portion(number):
    """Return this rank's portion of an integer. The ranks' portions differ by 1 at most."""
    return number // world_size() + (rank() < number % world_size())
