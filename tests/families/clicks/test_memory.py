"""Memories of errors against brute force and dictionaries; SimHash's odds; corrections by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cli.registry import find
from families.clicks.family import MEMORIES
from families.clicks.memory import Similar, correct, recall

KINDS = [name for name in MEMORIES if name != "none"]


def memory(kind, device, width=8, **given):
    flags = {"memory_k": 5, "memory_size": 40, "memory_bits": 4, "seed": 3} | given
    return find(MEMORIES, kind)(width, SimpleNamespace(**flags), device)


def examples(count, device, width=8, seed=0):
    """Keys (count, width), labels and predictions (count,) each."""
    random = np.random.default_rng(seed)
    columns = random.normal(size=(count, width)), random.random(count) < 0.4, random.random(count)
    return [torch.tensor(column, dtype=torch.float32, device=device) for column in columns]


def write(built, keys, labels, predictions):
    built.write(built.address(keys), labels, predictions)


def assert_equal_reads(first, second, keys):
    """Two memories have the same for these keys, to the bit."""
    for part, other in zip(
        first.read(first.address(keys)), second.read(second.address(keys)), strict=True
    ):
        assert torch.equal(part, other)


def numpy_neighbours(query, stored, count):
    """The `count` stored (key, label, prediction) of largest cosine, largest first: (k, 3) each."""
    found = []
    for key in query.cpu().double().numpy():
        cosine = [
            key @ other / np.linalg.norm(key) / np.linalg.norm(other) for other, _, _ in stored
        ]
        order = np.argsort(cosine)[::-1][:count]
        found.append([(cosine[place], *stored[place][1:]) for place in order])
    return np.array(found)


@pytest.mark.parametrize("block", [64, 1 << 23])  # similarities held at a time
@pytest.mark.parametrize(
    "sizes", [[3], [17, 17], [40], [39, 1, 1], [25, 25, 25], [7] * 20, [130], [5, 130, 11]]
)
def test_knn_is_brute_force_over_the_latest(device, sizes, block, monkeypatch):
    """Before and after the ring is full, with fewer than --memory_k stored, with larger writes."""
    monkeypatch.setattr("families.clicks.memory.BLOCK_SIMILARITIES", block)
    built, stored = memory("knn", device), []
    for number, size in enumerate(sizes):
        columns = examples(size, device, seed=number)
        write(built, *columns)
        stored += zip(*(column.cpu().double().numpy() for column in columns), strict=True)
        query = examples(12, device, seed=100 + number)[0]
        found = torch.stack(built.read(built.address(query)), dim=2).cpu()  # (m, k, 3)
        np.testing.assert_allclose(found, numpy_neighbours(query, stored[-40:], 5), atol=1e-5)
    assert len(built.keys) == min(sum(sizes), 40)


def test_knn_of_many_searches_in_groups(device):
    """So many examples that grouped_topk searches by groups, of which the last has to be padded."""
    built, columns = memory("knn", device, memory_size=5000, memory_k=9), examples(4001, device)
    write(built, *columns)
    query = examples(20, device, seed=1)[0]
    found = torch.stack(built.read(built.address(query)), dim=2).cpu()
    stored = list(zip(*(column.cpu().double().numpy() for column in columns), strict=True))
    np.testing.assert_allclose(found, numpy_neighbours(query, stored, 9), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_memory_corrects_nothing(device, kind):
    built = memory(kind, device)
    keys, _, predictions = examples(6, device)
    for _ in range(2):
        similar = built.read(built.address(keys))
        assert (similar.similarity == -math.inf).all()
        assert torch.equal(correct(predictions, *recall(similar, 0.1), 1.0, 1.0), predictions)
        write(built, *(column[:0] for column in examples(1, device)))  # nothing, still


@pytest.mark.parametrize("degrees", [5, 30, 60, 90, 120, 170])
def test_simhash_agrees_in_a_bit_with_probability_one_less_angle_over_pi(device, degrees):
    """160,000 bits, directions of ten seeds: standard error 0.00125, of which 4.5 are allowed."""
    angle, bits = math.radians(degrees), []
    for seed in range(10):
        built = memory("lsh", device, memory_k=16_000, memory_bits=1, seed=seed)
        keys = torch.zeros(2, 8, device=device)
        keys[0, 2], keys[1, 2], keys[1, 5] = 3.0, 0.1 * math.cos(angle), 0.1 * math.sin(angle)
        first, second = built.address(keys)
        bits.append((first == second).double().mean().item())
    assert np.mean(bits) == pytest.approx(1 - angle / math.pi, abs=4.5 * 0.00125)


def test_buckets_of_simhash(device):
    """A bucket's number is made of all bits of its array.

    It is equal with the probability of one equal bit to the power of their number.
    """
    built = memory("lsh", device, width=16, memory_k=4000, memory_bits=6)
    keys, angle = torch.zeros(2, 16, device=device), math.radians(20)
    keys[0, 0], keys[1, 0], keys[1, 1] = 1, math.cos(angle), math.sin(angle)
    address = built.address(torch.cat([keys, examples(200, device, width=16)[0]]))
    # each array has its own
    assert torch.equal(address >> 6, torch.arange(4000, device=device).expand(202, -1))
    assert len((address & 63).unique()) == 64
    expected = (1 - angle / math.pi) ** 6
    error = math.sqrt(expected * (1 - expected) / 4000)
    assert (address[0] == address[1]).double().mean().item() == pytest.approx(
        expected, abs=4 * error
    )


def test_lsh_by_a_dictionary(device):
    """Sums by loops; a read gives the bucket's means and, as similarity, its share of all."""
    built = memory("lsh", device, memory_k=7, memory_bits=5)
    sums, total = {}, 0
    for number, size in enumerate([30, 1, 100]):
        keys, labels, predictions = examples(size, device, seed=number)
        address = built.address(keys)
        built.write(address, labels, predictions)
        total += size
        for places, label, prediction in zip(
            address.tolist(), labels.tolist(), predictions.tolist(), strict=True
        ):
            for place in places:
                before = sums.get(place, (0, 0, 0))
                sums[place] = [
                    old + new for old, new in zip(before, (1, label, prediction), strict=True)
                ]
    table = np.zeros((7 << 5, 3))
    for place, values in sums.items():
        table[place] = values
    np.testing.assert_allclose(built.sums.cpu(), table, rtol=1e-5)

    address = built.address(examples(50, device, seed=9)[0])
    similar, empty = [part.cpu() for part in built.read(address)], 0
    for query, places in enumerate(address.tolist()):
        for array, place in enumerate(places):
            count, label, prediction = sums.get(place, (0, 0, 0))
            found = [part[query, array].item() for part in similar]
            if count:
                assert found == pytest.approx(
                    [count / total, label / count, prediction / count], rel=1e-5
                )
            else:
                empty += 1
                assert found[0] == -math.inf
    assert empty  # the example has some


@pytest.mark.parametrize("kind", KINDS)
def test_a_write_is_that_of_its_parts(device, kind):
    columns = examples(90, device)
    columns[2] = (columns[2] * 256).round() / 256  # sums without rounding, in any order
    whole, halves = memory(kind, device), memory(kind, device)
    write(whole, *columns)
    for part in (slice(0, 33), slice(33, 90)):
        write(halves, *(column[part] for column in columns))
    assert_equal_reads(whole, halves, examples(30, device, seed=1)[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, 11, 100])
def test_state_dict(device, kind, count):
    """A memory that took the state over goes on like the other, but by itself.

    Whatever its directions were before.
    """
    built, other = memory(kind, device), memory(kind, device, seed=4)
    for seed, part in enumerate((count, count // 4)):
        write(built, *examples(part, device, seed=seed))
    other.load_state_dict(built.state_dict())
    query = examples(20, device, seed=9)[0]
    assert_equal_reads(built, other, query)
    before = [part.clone() for part in built.read(built.address(query))]
    write(other, *examples(35, device, seed=2))
    assert all(map(torch.equal, before, built.read(built.address(query))))
    write(built, *examples(35, device, seed=2))
    assert_equal_reads(built, other, query)


def similar_examples(device):
    """Two queries: three examples; one example and two that are none."""
    similarity = torch.tensor([[0.9, 0.8, 0.5], [0.3, -math.inf, -math.inf]], device=device)
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]], device=device)
    predictions = torch.tensor([[0.6, 0.2, 0.9], [0.7, 0.5, 0.5]], device=device)
    return Similar(similarity, labels, predictions)


def test_recall_by_hand(device):
    label, base = recall(similar_examples(device), 0.2)
    weights = [math.exp(s / 0.2) for s in (0.9, 0.8, 0.5)]
    assert label.tolist() == pytest.approx([(weights[0] + weights[2]) / sum(weights), 0.0])
    expected = sum(w * p for w, p in zip(weights, (0.6, 0.2, 0.9), strict=True)) / sum(weights)
    assert base.tolist() == pytest.approx([expected, 0.7])
    label, base = recall(similar_examples(device).first(2), 0.2)
    assert label[0].item() == pytest.approx(weights[0] / sum(weights[:2]))
    assert base[0].item() == pytest.approx((0.6 * weights[0] + 0.2 * weights[1]) / sum(weights[:2]))


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_correct_by_hand(device, gamma):
    y, label, base = (
        torch.tensor(values, device=device)
        for values in ([0.2, 0.9, 0.1], [0.5, 0.9, 0.0], [0.4, 0.1, 0.8])
    )
    found = correct(y, label, base, 0.5, gamma)
    errors = [gamma * 0.3 + (1 - gamma) * 0.1, (1 - gamma) * 0.8, gamma * -0.1 + (1 - gamma) * -0.8]
    expected = [min(max(v + 0.5 * e, 0), 1) for v, e in zip((0.2, 0.9, 0.1), errors, strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=1e-7)
    if gamma == 1:
        assert found.tolist() == pytest.approx((0.5 * y + 0.5 * label).tolist())
    if gamma == 0:
        assert found[1:].tolist() == [1.0, 0.0]  # clamped at both ends


def test_no_correction(device):
    """Of strength 0, and where there is no similar example."""
    y = torch.tensor([0.3, 0.6], device=device)
    nothing = torch.tensor([0.7, math.nan], device=device)
    assert correct(y, nothing, nothing, 0.9, 1.0).tolist() == pytest.approx([0.03 + 0.63, 0.6])
    assert torch.equal(correct(y, nothing, nothing, 0.0, 1.0), y)
