"""A step of several ranks against that of one process."""

from unittest import mock

import pytest
import torch
from rank_tools import IN_BATCH, OWN, PIECES, ROWS, TOUCHED, made_model, trained_and_loaded, whole
from tools import (
    on_ranks,
)

from distributed import collectives
from distributed.optimizer import ShardedOptimizer
from engine import adam, tables


def first_places(mark, rows):
    """Like tables.shared_places on one thread, but of equal rows the first is their place."""
    mark[rows.flip(0)] = torch.arange(len(rows)).flip(0)
    return mark.index_select(0, rows)


# Adam's first step is lr g / (|g| + eps): where the gradient g is all but 0, rounding decides its
# sign, and with eps = 1e-8 the step. With this eps a step tells how large g is, everywhere.
SMOOTH = 1e-3


def one_step(*made):
    """This rank's weights before and after a step, its batch, its loss, how tables are shared."""
    model = made_model(*made)
    before = {name: table.clone() for name, table in model.weights.items()}
    batch = next(iter(model.schedule.batches()))
    model.optimizer.prepare(0.05)
    # Which of equal rows is the place of all is chance on several threads, and on a GPU.
    places = first_places if collectives.rank() else tables.shared_places
    with mock.patch.multiple(adam, shared_places=places, EPS=SMOOTH):
        loss = (model.compiled_step if model.compiled else model.step)(batch)
    model.optimizer.finish()
    batch = batch[0] + model.data.first, *batch[1:3]
    return before, dict(model.weights), batch, loss, (model.optimizer.ways, model.optimizer.by_row)


SUMS = dict.fromkeys(("item_matrices", "item_biases"), "sum")


ALL_SUMS = dict.fromkeys(("user_matrices", "user_biases"), "sum") | SUMS


@pytest.mark.parametrize(
    ("kind", "groups", "flags", "ways"),
    [
        ("OneBP", 4, (), (PIECES, False)),
        ("OneBP", 4, ("--compile", "on", "--l2", 0.1, "--regularizer", "l2"), (PIECES, False)),
        ("OneBP", 60, ("--l2", 0.1, "--sampler", "popularity", "--loss", "BSL"), (TOUCHED, False)),
        (
            "OneBP",
            4,
            ("--encoder", "MLP", "--sampler", "dns", "--optimizer", "SGD"),
            (PIECES | SUMS, False),
        ),
        ("OneBP", 60, ("--compile", "on", "--l2", 0), (ROWS, True)),
        ("OneBP", 5, (*IN_BATCH, "--loss", "BSL"), (PIECES, False)),
        ("OneBP", 60, (*IN_BATCH, "--compile", "on", "--l2", 0), (ROWS, True)),
        ("TwoBP", 4, ("--loss", "BPR", "--regularizer", "l2", "--l2", 0.1), (PIECES, False)),
        ("TwoBP", 60, ("--loss", "BPR", "--regularizer", "l2", "--l2", 0.1), (TOUCHED, False)),
        (
            "TwoBP",
            60,
            ("--encoder", "MLP", "--loss", "BCE", "--similarity", "cosine"),
            (TOUCHED | ALL_SUMS, False),
        ),
    ],
)
def test_a_step_is_that_of_one_process(kind, groups, flags, ways):
    """The weights move as by one batch of all interactions.

    The ranks have 7 and 6 (or 5, 4 and 4) interactions of a batch of 13.
    """
    count = 3 if "dns" in flags else 2
    found = on_ranks(one_step, kind, groups, "--batch_size", 13, *flags, count=count)
    befores, afters, batches, losses, found_ways = zip(*found, strict=True)
    sizes = [len(users) for users, *_ in batches]
    assert sizes == ([5, 4, 4] if count == 3 else [7, 6])
    assert list(found_ways) == [ways] * count
    model = made_model(kind, groups, "--batch_size", 13, *flags, "--compile", "off")
    for name, table in model.weights.items():
        table.copy_(whole(name, befores))
    users, items, drawn = zip(*batches, strict=True)
    drawn = None if "inbatch" in flags else torch.cat(drawn, dim=-1)
    batch = model.sampler.exchange((torch.cat(users), torch.cat(items), drawn))
    model.optimizer.prepare(0.05)
    with mock.patch.object(adam, "EPS", SMOOTH):
        loss = model.train_step(batch)
    assert loss.item() == pytest.approx(sum(own.item() for own in losses), rel=1e-5)
    for name, table in model.weights.items():
        torch.testing.assert_close(
            whole(name, afters), table, rtol=1e-5, atol=1e-7 if "SGD" in flags else 1e-6
        )


def two_epochs(folder, *made):
    """This rank's weights after two epochs, and after one, a checkpoint, and another."""
    model, again = trained_and_loaded(folder, 0.05, *made)
    for one in (model, again):
        one.train_epoch(0.05, lambda: None)
    return dict(model.weights), dict(again.weights), model.optimizer.ways


@pytest.mark.parametrize(
    ("made", "ways"),
    [
        (("OneBP", 4, "--optimizer", "SGD"), PIECES),
        (("TwoBP", 60, "--batch_size", 13), TOUCHED),
        (("OneBP", 60, "--batch_size", 13, "--compile", "on", "--l2", 0), ROWS),
        (("OneBP", 60, *IN_BATCH, "--batch_size", 13), ROWS),
        (("OneBP", 4, "--loss", "ELSA", "--batch_size", 13, "--beta", 0.5), OWN),
    ],
)
def test_however_tables_are_exchanged_a_continuation_is_exact(tmp_path, made, ways):
    for weights, again, found in on_ranks(two_epochs, tmp_path, *made):
        assert found == ways
        assert all(torch.equal(weights[name], again[name]) for name in weights)


def exchanged():
    """This rank's gradients before they are exchanged, the sum of rows, and the sums of others."""
    generator = torch.Generator().manual_seed(collectives.rank())
    index = torch.randint(9, (4 * collectives.rank(),), generator=generator)  # the first reads none
    table = torch.zeros(9, 2).index_fill_(0, index, 1) * torch.randn(9, 2, generator=generator)
    small = {"a": torch.randn(3, generator=generator), "b": torch.randn(2, 2, generator=generator)}
    before = table.clone(), *(gradient.clone() for gradient in small.values())
    summed = ShardedOptimizer._start_touched(table, index)()
    return before, (summed, *collectives.start_sum(small)().values())


@pytest.mark.parametrize("count", [2, 3])
def test_summed_gradients_have_equal_bits_on_all_ranks(count):
    befores, sums = zip(*on_ranks(exchanged, count=count), strict=True)
    for gradients, found in zip(zip(*befores, strict=True), zip(*sums, strict=True), strict=True):
        torch.testing.assert_close(found[0], torch.stack(gradients).sum(0))
        assert all(torch.equal(other, found[0]) for other in found)
