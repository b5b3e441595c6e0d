"""Negatives: in range, unseen, with the right odds. Epochs: each interaction once, reproducible."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from tools import matrix

from cli.errors import UserError
from cli.registry import SAMPLERS, find
from engine.negatives import UniformNegatives, WeightedNegatives
from families.clicks.batches import ImpressionBatches
from parse import parse_args
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


def sampler(name, train, device, seed, *flags, part=None):
    args = parse_args(["--sampler", name, *map(str, flags)])
    return find(SAMPLERS, name)(train, args, make_generator(seed, device), part)


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
    uniform = (
        torch.rand(2, 3, 500, dtype=torch.float64, device=device, generator=generator).cpu().numpy()
    )
    for (batch, place), user in np.ndenumerate(users.cpu().numpy()):
        unseen = np.flatnonzero(~seen[user])
        expected = unseen[(uniform[batch, :, place] * len(unseen)).astype(int)]
        assert drawn[batch, :, place].tolist() == expected.tolist()


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_an_epoch_has_every_interaction_once(device, batch_size, monkeypatch):
    monkeypatch.setattr("sampler.CHUNK", 40)  # several chunks
    uniform = sampler("uniform", TRAIN, device, 0, "--batch_size", batch_size, "--N", 3)
    for _ in range(2):
        batches = list(uniform.epoch())
        whole, rest = divmod(uniform.size, batch_size)
        assert [len(users) for users, _, _ in batches] == [batch_size] * whole + [rest] * (rest > 0)
        pairs = [
            pair
            for users, items, _ in batches
            for pair in zip(users.tolist(), items.tolist(), strict=True)
        ]
        assert sorted(pairs) == sorted(
            zip(*(axis.tolist() for axis in TRAIN.nonzero()), strict=True)
        )
        for users, items, negatives in batches:
            assert negatives.shape == (3, len(items))
            for user, row in zip(users.tolist(), negatives.T.tolist(), strict=True):
                assert not set(row) & SEEN[user]


def test_order_comes_from_the_generator_alone(device):
    def epochs(seed):
        uniform = sampler("uniform", TRAIN, device, seed, "--batch_size", 5, "--N", 2)
        return [
            torch.cat([torch.cat([u[None], i[None], n]).T for u, i, n in uniform.epoch()])
            for _ in range(2)
        ]

    first, again, other = epochs(1), epochs(1), epochs(2)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])


def test_nobody_has_a_negative(device):
    with pytest.raises(UserError, match="every user in training has every item"):
        sampler("uniform", matrix({(0, 0), (0, 1)}, (2, 2)), device, 0)


def test_a_user_with_every_item_is_left_out(device, caplog):
    caplog.set_level("INFO")
    train = matrix({(0, 0), (0, 1), (0, 2), (1, 1)}, (2, 3))
    ((users, items, negatives),) = sampler("uniform", train, device, 0).epoch()
    assert (users.tolist(), items.tolist()) == ([1], [1])
    assert not (negatives == 1).any()
    assert "3 interactions of users who have every item are left out" in caplog.text


def test_by_popularity_is_exact(device):
    """Every unseen item in proportion to its count to the power alpha, for every user.

    Items without any count as 1.
    """
    counts = np.maximum(np.bincount(TRAIN.indices, minlength=ITEMS), 1)
    drawing = sampler("popularity", TRAIN, device, 3, "--alpha", 1.5, "--N", 4)
    for user, seen in SEEN.items():
        users = torch.full((5, 1000), user, device=device)
        drawn = drawing.draw(users, users).cpu().numpy()
        assert drawn.shape == (5, 4, 1000)
        unseen = sorted(set(range(ITEMS)) - seen)
        found = np.bincount(drawn.ravel(), minlength=ITEMS)
        assert len(found) == ITEMS
        assert found[unseen].sum() == drawn.size
        if len(unseen) > 1:
            share = counts[unseen] ** 1.5
            assert chisquare(found[unseen], share / share.sum() * drawn.size).pvalue > 1e-3


def test_by_popularity_against_a_slow_reference(device, monkeypatch):
    """The r-th point that belongs to an unseen item, counted one by one."""
    weights = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8])
    # a weight is its number of points
    monkeypatch.setattr(WeightedNegatives, "RESOLUTION", weights.sum())
    negatives = WeightedNegatives(TRAIN, weights, device)
    users = torch.arange(USERS, device=device).repeat(2, 50)
    drawn = negatives.draw(users, 3, make_generator(1, device)).cpu().numpy()
    generator = make_generator(1, device)
    uniform = (
        torch.rand(2, 3, 50 * USERS, dtype=torch.float64, device=device, generator=generator)
        .cpu()
        .numpy()
    )
    for (batch, place), user in np.ndenumerate(users.cpu().numpy()):
        points = [
            item for item in range(ITEMS) if item not in SEEN[user] for _ in range(weights[item])
        ]
        assert drawn[batch, :, place].tolist() == [
            points[int(u * len(points))] for u in uniform[batch, :, place]
        ]


def test_dns_keeps_the_highest_scores(device):
    drawing = sampler("dns", TRAIN, device, 0, "--candidates", 6, "--N", 2, "--batch_size", 4)
    random = np.random.default_rng(0)
    encodings = [torch.tensor(random.normal(size=(n, 3)), device=device) for n in TRAIN.shape]
    for users, items, drawn in drawing.epoch():
        assert drawn.shape == (6, len(items))
        index = drawing.candidates(items, drawn)
        p, q = encodings[0][users], encodings[1][index]
        positive, negative = drawing.scores(p, q, drawn)
        for b, user in enumerate(users.tolist()):
            scores = [
                float(encodings[0][user] @ encodings[1][item]) for item in drawn[:, b].tolist()
            ]
            assert negative[:, b].tolist() == pytest.approx(sorted(scores)[:-3:-1])
            assert positive[b].item() == pytest.approx(float(p[b] @ encodings[1][items[b]]))


def test_in_batch_negatives_against_a_slow_reference(device):
    """The positives that the user has not in training.

    Each less the log of how often it is expected in a batch.
    """
    drawing = sampler("inbatch", TRAIN, device, 0, "--batch_size", 8)
    share = np.bincount(TRAIN.indices, minlength=ITEMS) / TRAIN.nnz
    random = np.random.default_rng(0)
    encodings = [
        torch.tensor(random.normal(size=(n, 3)), dtype=torch.float32, device=device)
        for n in TRAIN.shape
    ]
    interactions = 0
    for users, items, *drawn in map(drawing.exchange, drawing.epoch()):
        p, q = encodings[0][users], encodings[1][drawing.candidates(items, *drawn)]
        positive, negative = (part.cpu() for part in drawing.scores(p, q, *drawn))
        for b, user in enumerate(users.tolist()):
            assert positive[b] == pytest.approx(
                float(encodings[0][user] @ encodings[1][items[b]]), abs=1e-5
            )
            for n, item in enumerate(items.tolist()):
                score = float(encodings[0][user] @ encodings[1][item]) - np.log(
                    len(items) * share[item]
                )
                assert negative[n, b].item() == pytest.approx(
                    -np.inf if item in SEEN[user] else score, abs=1e-5
                )
        interactions += len(users)
    assert interactions == TRAIN.nnz


PART = {(1, 0), (3, 1), (3, 9), (4, 2), (4, 8), (5, 0)}  # of TRAIN


@pytest.mark.parametrize("name", ["uniform", "popularity", "dns", "inbatch"])
def test_a_batch_of_users_has_each_of_their_positives_equally_often(device, name):
    """User 0 has none in the split, so anybody's; negatives are known in no split."""
    drawing = sampler(name, TRAIN, device, 5, "--batch_size", 7, part=matrix(PART, TRAIN.shape))
    wanted = torch.tensor([3, 0, 1, 3, 4, 5, 0], device=device)
    counts = [dict.fromkeys(PART, 0) for _ in wanted]
    for _ in range(2000):
        users, items, drawn, *_ = drawing.positives_of(wanted)
        for count, pair in zip(
            counts, zip(users.tolist(), items.tolist(), strict=True), strict=True
        ):
            count[pair] += 1
        if name == "inbatch":
            for b, user in enumerate(users.tolist()):
                masked = [item in SEEN[user] for item in items.tolist()]
                assert (drawn[:, b] == -torch.inf).tolist() == masked
        else:
            assert drawn.shape[1] == 7
            for user, row in zip(users.tolist(), drawn.T.tolist(), strict=True):
                assert not set(row) & SEEN[user]
    for user, count in zip(wanted.tolist(), counts, strict=True):
        own = [count.pop(pair) for pair in PART if pair[0] == user or user == 0]
        assert sum(own) == 2000
        assert len(own) == 1 or chisquare(own).pvalue > 1e-3


def test_a_batch_of_users_comes_from_the_generator_alone(device):
    users = torch.tensor([1, 3, 4], device=device)

    def batches(seed):
        drawing = sampler("uniform", TRAIN, device, seed, "--batch_size", 5, "--N", 2)
        return torch.stack(
            [
                torch.cat([u[None], i[None], n])
                for u, i, n in (drawing.positives_of(users) for _ in range(40))
            ]
        )

    assert torch.equal(batches(1), batches(1))
    assert not torch.equal(batches(1), batches(2))


def test_an_epoch_of_a_part_has_its_interactions_once(device):
    drawing = sampler(
        "uniform", TRAIN, device, 0, "--batch_size", 4, part=matrix(PART, TRAIN.shape)
    )
    batches = list(drawing.epoch())
    pairs = [
        pair
        for users, items, _ in batches
        for pair in zip(users.tolist(), items.tolist(), strict=True)
    ]
    assert sorted(pairs) == sorted(PART)


def impressions(device, seed, span, batch_size=7):
    """Of rows like clicks.Clicks has them, where ids and label tell the row's number."""

    def rows_at(numbers):
        assert (np.diff(numbers) > 0).all()  # the disk is read in order
        ids = np.stack([numbers, numbers + 1000], axis=1).astype(np.int32)
        return ids, (numbers % 3 == 0).astype(np.uint8)

    data, args = SimpleNamespace(rows_at=rows_at, width=1), SimpleNamespace(batch_size=batch_size)
    return ImpressionBatches(data, span, args, make_generator(seed, device))


@pytest.mark.parametrize("batch_size", [1, 7, 30, 1000])
@pytest.mark.parametrize(("pool", "piece"), [(1 << 21, 1 << 14), (40, 8), (5, 5), (16, 1)])
def test_an_epoch_of_clicks_has_every_row_once(device, pool, piece, batch_size, monkeypatch):
    """In pools of several pieces, of one, and where a pool is smaller than a batch."""
    monkeypatch.setattr("families.clicks.batches.POOL", pool)
    monkeypatch.setattr("families.clicks.batches.PIECE", piece)
    drawing = impressions(device, 0, (20, 143), batch_size)
    assert drawing.size == 123
    for _ in range(2):
        batches = list(drawing.epoch())
        sizes = [len(labels) for _, labels in batches]
        assert sizes == [batch_size] * (123 // batch_size) + [123 % batch_size] * (
            123 % batch_size > 0
        )
        ids, labels = (torch.cat(column) for column in zip(*batches, strict=True))
        assert (ids.dtype, labels.dtype) == (torch.int64, torch.float32)
        assert sorted(ids[:, 0].tolist()) == list(range(20, 143))
        assert torch.equal(ids[:, 1], ids[:, 0] + 1000)
        assert torch.equal(labels, (ids[:, 0] % 3 == 0).float())


def test_clicks_are_in_an_order_of_the_generator_alone(device, monkeypatch):
    """Rows of far away pieces come together, and pools are of other pieces in every epoch."""
    monkeypatch.setattr("families.clicks.batches.POOL", 40)
    monkeypatch.setattr("families.clicks.batches.PIECE", 8)

    def epochs(seed):
        drawing = impressions(device, seed, (0, 400))
        return [torch.cat([ids[:, 0] for ids, _ in drawing.epoch()]) for _ in range(2)]

    first, again, other = epochs(1), epochs(1), epochs(2)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])
    pools = [set((order[:40] // 8).tolist()) for order in first]
    assert [len(pool) for pool in pools] == [5, 5]
    assert pools[0] != pools[1]
    assert (first[0].diff().abs() > 40).float().mean() > 0.3


@pytest.mark.parametrize("block", [1, 2, 7, 40])
def test_negatives_made_ready_by_blocks_of_users_are_the_same(monkeypatch, block):
    """Users without interactions are there, at both ends too, and one with more than a block."""
    random = np.random.default_rng(block)
    taken = random.random((30, 50)) < random.random(30)[:, None] ** 3
    taken[[0, 1, 9, 29]] = False
    taken[28] = random.random(50) < 0.9
    train = matrix(zip(*taken.nonzero(), strict=True), taken.shape)
    whole = UniformNegatives(train, torch.device("cpu"))
    monkeypatch.setattr("engine.negatives.BLOCK", block)
    parts = UniformNegatives(train, torch.device("cpu"))
    for name, value in vars(whole).items():
        other = getattr(parts, name)
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, (
            name
        )
