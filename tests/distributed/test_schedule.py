"""Batches of several ranks: every interaction once, and empty batches at the end."""

import numpy as np
import pytest
import torch
from rank_tools import CPU, FLAGS, IN_BATCH, made_model, own_flags
from tools import (
    interactions,
    on_ranks,
    toy_data,
)

from distributed import collectives
from model import OneBP
from parse import parse_args
from sources.share import own_share


def uneven_epoch(*flags):
    model = made_model("OneBP", 5, "--batch_size", 5, *flags)
    sizes = [len(batch[0]) for batch in model.schedule.batches()]
    loss = model.train_epoch(0.05, lambda: None)
    model.evaluate("test")  # compares the items of the ranks
    return sizes, loss


@pytest.mark.parametrize(
    "flags",
    [("--regularizer", "l2", "--l2", 0.1), (*IN_BATCH, "--loss", "BSL"), ("--encoder", "MLP")],
)
def test_a_rank_may_have_no_interactions_left(flags):
    found = on_ranks(uneven_epoch, *flags, count=3)
    assert any(0 in sizes for sizes, _ in found)
    losses = [loss for _, loss in found]
    assert losses == [losses[0]] * 3
    assert np.isfinite(losses[0])


def train_beside_who_has_every_item():
    """The sizes of this rank's batches where the first user has every item.

    That user alone is the first rank's.
    """
    train = {(0, item) for item in range(20)} | {(user, user) for user in range(1, 20)}
    data = interactions(train, {(user, 0) for user in range(1, 20)}, (20, 20))
    model = OneBP(
        own_share(data), own_flags(parse_args([*map(str, FLAGS), "--batch_size", "6"])), CPU
    )
    model.start_training()
    sizes = [len(batch[0]) for batch in model.schedule.batches()]
    return sizes, model.train_epoch(0.05, lambda: None)


def test_a_rank_may_have_nothing_to_train_on():
    (first, one), (second, other) = on_ranks(train_beside_who_has_every_item)
    assert first == [0] * 7
    assert second == [3] * 6 + [1]
    assert one == other
    assert np.isfinite(one)


def steps(batch_size):
    """Of this rank the pairs of each step, and how many were announced."""
    model = made_model("OneBP", 4, "--batch_size", batch_size)
    batches = [
        torch.stack([users + model.data.first, items])
        for users, items, _ in model.schedule.batches()
    ]
    return batches, [
        model.schedule.sizes(number)[collectives.rank()] for number in range(len(model.schedule))
    ]


@pytest.mark.parametrize("batch_size", [2, 9, 31, 500])
def test_every_interaction_is_in_one_batch(batch_size):
    found = on_ranks(steps, batch_size, count=3 if batch_size > 2 else 2)
    # (ranks, steps)
    sizes = np.array([[pairs.shape[1] for pairs in batches] for batches, _ in found])
    assert sizes.tolist() == [announced for _, announced in found]
    pairs = torch.cat([pairs for batches, _ in found for pairs in batches], dim=1)
    assert sorted(pairs.T.tolist()) == np.argwhere(toy_data().train.toarray()).tolist()
    together, uneven = sizes.sum(0), 2 + 7 * len(found) // batch_size
    assert (together[:-uneven] == batch_size).all()
    assert together.max() <= batch_size


def too_small():
    made_model("OneBP", 4, "--batch_size", 2)


def test_a_batch_is_at_least_one_interaction_for_each_rank():
    for error in on_ranks(too_small, count=3):
        assert "--batch_size 2 is too small for 3 ranks" in str(error)
