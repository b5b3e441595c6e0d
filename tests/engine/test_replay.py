"""Which examples an update learns: every new one once, and a share of old ones in any batch."""

import pytest
import torch
from tools import matrix

from engine.replay import Replay
from families.all_items import Histories
from parse import parse_args
from sampler import InBatch, Uniform


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("share", [0, 0.2, 1, 3])
def test_an_epoch_has_all_new_examples_and_a_share_of_old_ones(share):
    is_new = torch.arange(100) % 5 == 0
    replay = Replay(is_new, share)
    order, again = replay.order(generator()), replay.order(generator())
    assert torch.equal(order, again)
    assert not torch.equal(order, replay.order(generator(2)))
    assert len(order.unique()) == len(order) == replay.size == 20 + round(20 * share)
    assert set(range(0, 100, 5)) <= set(order.tolist())
    # in any batch, to within one example
    old = (~is_new[order]).float()
    for size in (6, 11, 20):
        for batch in old.unfold(0, size, 1):
            assert abs(batch.sum() - size * share / (1 + share)) <= 1


def test_it_draws_no_more_old_examples_than_there_are():
    replay = Replay(torch.tensor([True, False, True]), 10)
    assert sorted(replay.order(generator()).tolist()) == [0, 1, 2]
    assert replay.frequency(3).tolist() == [1, 1, 1]


def test_samplers_find_the_new_interactions():
    """User 0 has every item, so the uniform sampler leaves the user out."""
    known = matrix([(0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 1)], (3, 3))
    new = matrix([(0, 1), (1, 2)], (3, 3))
    args = parse_args(["--batch_size", "2"])
    for kind, pairs in ((Uniform, {(1, 2)}), (InBatch, {(0, 1), (1, 2)})):
        sampler = kind(known, args, generator())
        sampler.learn(new, 0)
        batches = list(sampler.epoch())
        found = {
            pair
            for users, items, *_ in batches
            for pair in zip(users.tolist(), items.tolist(), strict=True)
        }
        assert found == pairs
        assert sampler.size == len(pairs)
    histories = Histories(known, args, generator())
    histories.learn(new, 0)
    ((users, _, items, _),) = histories.epoch()
    assert sorted(users.tolist()) == [0, 1]
    assert len(items) == 5  # all that these users have


def test_in_batch_corrects_by_what_an_update_samples():
    known = matrix([(user, item) for user in range(6) for item in range(2)], (6, 3))
    new = matrix([(user, 0) for user in range(6)], (6, 3))
    sampler = InBatch(known, parse_args([]), generator())
    sampler.learn(new, 0.5)
    share = sampler.log_share.exp()
    assert torch.allclose(share[:2], torch.tensor([6 / 9, 3 / 9]))
