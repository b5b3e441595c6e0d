"""What all processes must have in common: flags, data, weights; and errors that all of them raise."""

import json
from contextlib import contextmanager

import torch

from cli.errors import RaisedByAllRanks, message_of
from distributed.collectives import all_gather_ints, all_gather_texts, rank, world_size

BLOCK = 1 << 20  # numbers that `fingerprint` looks at together
GOLDEN = 0x9E3779B1  # odd, so that its multiples by different ranks differ in 32 bits
ODD = 0x1E3779B97F4A7C15  # of the golden ratio: neighbours' multiples have nothing in common


@contextmanager
def raise_on_all_ranks():
    """Where a rank meets a mistake in the block, all raise it: OfAll. Inside, ranks do not wait for each other."""
    mistake = ""
    try:
        yield
    except Exception as error:
        mistake = message_of(error)
        if mistake is None or world_size() == 1:
            raise
    for number, text in enumerate(all_gather_texts(mistake)):
        if text:
            raise RaisedByAllRanks(f"rank {number}: {text}" if number else text)


def check_equal_on_ranks(facts):
    """Raise OfAll where one of {name: value}, all of them plain, is not the same on all ranks."""
    first, *others = (json.loads(text) for text in all_gather_texts(json.dumps(facts)))
    for number, other in enumerate(others, 1):
        for name, value in first.items():
            if other[name] != value:
                raise RaisedByAllRanks(
                    f"rank {number} has {name} {other[name]}, the first one {value}; all of them need the same"
                )


def rank_seed(seed):
    """A seed for this rank's random numbers: that of rank 0 is `seed`, and no two are the same.

    Ranks differ in the low 32 bits, since PyTorch's generator on a CPU takes no others.
    """
    return seed ^ (rank() * GOLDEN & 0xFFFFFFFF)


def check_tables_equal(tables):
    """Raise UserError where a table of weights, {name: tensor}, is not the same on all ranks, bit by bit."""
    if world_size() == 1:
        return
    for name, table in tables.items():
        if len(set(all_gather_ints(fingerprint(table)))) > 1:
            raise RaisedByAllRanks(
                f"the weights {name!r} are no longer the same on all {world_size()} ranks, so the run stops; "
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
