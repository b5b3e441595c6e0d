"""Negatives: in range, never a training item, uniform over the rest. Epochs: every interaction once, reproducible."""

import numpy as np
import pytest
import torch
from conftest import matrix
from scipy.stats import chisquare

from errors import UserError
from sampler import Sampler, UniformNegatives
from utils import make_generator

USERS, ITEMS = 6, 12
SEEN = {
    0: set(),
    1: {0},
    2: {ITEMS - 1},
    3: {0, 1, 2, 5, 9, 10, 11},
    4: set(range(0, ITEMS, 2)),
    5: set(range(ITEMS)) - {7},  # one item left
}
TRAIN = matrix({(user, item) for user, items in SEEN.items() for item in items}, (USERS, ITEMS))


def test_negatives_are_unseen_and_uniform(device):
    draws = 20_000
    negatives = UniformNegatives(TRAIN, device)
    for user, seen in SEEN.items():
        users = torch.full((draws // 4,), user, device=device)
        drawn = negatives.draw(users, 4, make_generator(user, device)).cpu().numpy()
        assert drawn.shape == (draws // 4, 4)
        counts = np.bincount(drawn.ravel(), minlength=ITEMS)
        assert len(counts) == ITEMS  # none out of range
        unseen = sorted(set(range(ITEMS)) - seen)
        assert counts[sorted(seen)].sum() == 0
        if len(unseen) > 1:
            assert chisquare(counts[unseen]).pvalue > 1e-3
        else:
            assert counts[unseen] == draws


def test_negatives_against_a_slow_reference(device):
    random = np.random.default_rng(0)
    seen = random.random((40, 30)) < random.random((40, 1))
    seen[:, 3] = False  # everybody has something left
    train = matrix(set(zip(*seen.nonzero(), strict=True)), seen.shape)
    users = torch.as_tensor(random.integers(40, size=500), device=device)
    drawn = UniformNegatives(train, device).draw(users, 3, make_generator(1, device)).cpu().numpy()
    uniform = torch.rand(500, 3, dtype=torch.float64, device=device, generator=make_generator(1, device)).cpu().numpy()
    for row, user in enumerate(users.tolist()):
        unseen = np.flatnonzero(~seen[user])
        assert drawn[row].tolist() == unseen[(uniform[row] * len(unseen)).astype(int)].tolist()


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_an_epoch_has_every_interaction_once(device, batch_size, monkeypatch):
    monkeypatch.setattr("sampler.CHUNK", 40)  # several chunks
    sampler = Sampler(TRAIN, batch_size, 3, make_generator(0, device))
    for _ in range(2):
        batches = list(sampler.epoch())
        assert len(batches) == len(sampler)
        assert {len(users) for users, _, _ in batches[:-1]} <= {batch_size}
        pairs = [pair for users, items, _ in batches for pair in zip(users.tolist(), items.tolist(), strict=True)]
        assert sorted(pairs) == sorted(zip(*(axis.tolist() for axis in TRAIN.nonzero()), strict=True))
        for users, items, negatives in batches:
            assert negatives.shape == (len(items), 3)
            for user, row in zip(users.tolist(), negatives.tolist(), strict=True):
                assert not set(row) & SEEN[user]


def test_order_comes_from_the_generator_alone(device):
    def epochs(seed):
        sampler = Sampler(TRAIN, 5, 2, make_generator(seed, device))
        return [torch.cat([torch.cat([u[:, None], i[:, None], n], 1) for u, i, n in sampler.epoch()]) for _ in range(2)]

    first, again, other = epochs(1), epochs(1), epochs(2)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])


def test_nobody_has_a_negative(device):
    with pytest.raises(UserError, match="every user in training has every item"):
        Sampler(matrix({(0, 0), (0, 1)}, (2, 2)), 2, 5, make_generator(0, device))


def test_a_user_with_every_item_is_left_out(device, caplog):
    caplog.set_level("INFO")
    train = matrix({(0, 0), (0, 1), (0, 2), (1, 1)}, (2, 3))
    sampler = Sampler(train, 2, 5, make_generator(0, device))
    ((users, items, negatives),) = sampler.epoch()
    assert (users.tolist(), items.tolist()) == ([1], [1])
    assert not (negatives == 1).any()
    assert "3 interactions of users who have every item are left out" in caplog.text
