"""Check that all processes have the same flags, data and weights; raise an error on all of them."""

import json
from contextlib import contextmanager

import torch

from cli.errors import RaisedByAllRanks, message_of
from distributed.collectives import all_gather_ints, all_gather_texts, rank, world_size

BLOCK = 1 << 20  # numbers hashed at a time by `fingerprint`
# `rank_seed` multiplies a rank by it. It is odd, so the products differ in their low 32 bits.
RANK_FACTOR = 0x9E3779B1
# `fingerprint` multiplies a position by it. It is from the golden ratio, so the products of
# neighbouring positions are unrelated.
POSITION_FACTOR = 0x1E3779B97F4A7C15


@contextmanager
def raise_on_all_ranks():
    """If any rank raises a user's error in the block, raise that error on all ranks.

    The error is a RaisedByAllRanks. No collectives inside the block.
    """
    mistake = ""
    try:
        yield
    except Exception as error:
        mistake = message_of(error)
        if mistake is None or world_size() == 1:
            raise
    for other_rank, text in enumerate(all_gather_texts(mistake)):
        if text:
            raise RaisedByAllRanks(f"rank {other_rank}: {text}" if other_rank else text)


def check_equal_on_ranks(facts):
    """Raise RaisedByAllRanks if a value differs between ranks. facts: {name: plain value}"""
    first, *others = (json.loads(text) for text in all_gather_texts(json.dumps(facts)))
    for other_rank, other in enumerate(others, 1):
        for name, value in first.items():
            if other[name] != value:
                raise RaisedByAllRanks(
                    f"rank {other_rank} has {name} {other[name]}, the first one {value}; "
                    "all of them need the same"
                )


def rank_seed(seed):
    """Return the seed of this rank's random numbers: `seed` for rank 0, another one for each rank.

    The seeds differ in the low 32 bits, as PyTorch's generator on a CPU uses no others.
    """
    return seed ^ (rank() * RANK_FACTOR & 0xFFFFFFFF)


def check_tables_equal(tables):
    """Raise RaisedByAllRanks if a table differs between ranks in any bit.

    tables: {name: tensor} of weights
    """
    if world_size() == 1:
        return
    for name, table in tables.items():
        if len(set(all_gather_ints(fingerprint(table)))) > 1:
            raise RaisedByAllRanks(
                f"the weights {name!r} are no longer the same on all {world_size()} ranks, "
                "so the run stops; are they the same machines, with the same versions? "
                "Go on with --train_mode continue"
            )


def fingerprint(table):
    """Hash the bits of a table and their positions into an int64."""
    total = 0
    for number, block in enumerate(table.flatten().view(torch.int32).split(BLOCK)):
        position = torch.arange(1, 1 + len(block), device=table.device) + number * BLOCK
        mixed = (block.long() + position) * (position * POSITION_FACTOR | 1)
        total += int((mixed ^ (mixed >> 29)).sum())
    # Wrap into the range of int64.
    return (total + (1 << 63)) % (1 << 64) - (1 << 63)
