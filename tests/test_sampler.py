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
        users = torch.full((5, draws // 20), user, device=device)
        drawn = negatives.draw(users, 4, make_generator(user, device)).cpu().numpy()
        assert drawn.shape == (5, 4, draws // 20)
        counts = np.bincount(drawn.ravel(), minlength=ITEMS)
        assert len(counts) == ITEMS  # none out of range
        unseen = sorted(set(range(ITEMS)) - seen)
        assert counts[sorted(seen)].sum() == 0
        if len(unseen) > 1:
            assert chisquare(counts[unseen]).pvalue > 1e-3
        else:
            assert counts[unseen] == draws


@pytest.mark.parametrize("shape", [(40, 30), (60, 1000)])
@pytest.mark.parametrize("runs", [False, True])  # items scattered, or next to each other
def test_negatives_against_a_slow_reference(device, shape, runs):
    random = np.random.default_rng(0)
    limit = random.random((shape[0], 1))
    seen = (np.sort(random.random(shape)) if runs else random.random(shape)) < limit
    seen[:, 3] = False  # everybody has something left
    train = matrix(set(zip(*seen.nonzero(), strict=True)), seen.shape)
    users = torch.as_tensor(random.integers(shape[0], size=(2, 500)), device=device)
    drawn = UniformNegatives(train, device).draw(users, 3, make_generator(1, device)).cpu().numpy()
    generator = make_generator(1, device)
    uniform = torch.rand(2, 3, 500, dtype=torch.float64, device=device, generator=generator).cpu().numpy()
    for (batch, place), user in np.ndenumerate(users.cpu().numpy()):
        unseen = np.flatnonzero(~seen[user])
        expected = unseen[(uniform[batch, :, place] * len(unseen)).astype(int)]
        assert drawn[batch, :, place].tolist() == expected.tolist()


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
            assert negatives.shape == (3, len(items))
            for user, row in zip(users.tolist(), negatives.T.tolist(), strict=True):
                assert not set(row) & SEEN[user]


def test_order_comes_from_the_generator_alone(device):
    def epochs(seed):
        sampler = Sampler(TRAIN, 5, 2, make_generator(seed, device))
        return [torch.cat([torch.cat([u[None], i[None], n]).T for u, i, n in sampler.epoch()]) for _ in range(2)]

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
