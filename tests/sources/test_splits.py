"""Splits against slow references; nothing is lost, nothing is in two, no training after a test."""

import logging

import numpy as np
import pytest
from data_tools import slow_last, slow_latest
from hypothesis import given, settings
from hypothesis import strategies as st
from tools import matrix, random_matrix, split_per_user

from sources.pairs import Pairs
from sources.splits import last_per_user, latest, random_overall, random_per_user, share_of


def test_random_split_is_per_user_seeded_and_loses_nothing():
    whole = random_matrix()
    rest, held_out = split_per_user(whole, 0.2, np.random.default_rng(0))
    assert ((rest + held_out) != whole).nnz == 0
    assert rest.multiply(held_out).nnz == 0
    degree = np.diff(whole.indptr)
    expected = np.minimum(np.floor(degree * 0.2 + 0.5), np.maximum(degree - 1, 0))
    assert (np.diff(held_out.indptr) == expected).all()
    again = split_per_user(whole, 0.2, np.random.default_rng(0))[1]
    other = split_per_user(whole, 0.2, np.random.default_rng(1))[1]
    assert (again != held_out).nnz == 0
    assert (other != held_out).nnz > 0


def test_random_split_keeps_an_interaction_of_every_user():
    whole = matrix({(0, 0), (1, 0), (1, 1), (2, 2)}, (4, 3))
    rest, held_out = split_per_user(whole, 0.9, np.random.default_rng(0))
    assert np.diff(rest.indptr).tolist() == [1, 1, 1, 0]
    assert np.diff(held_out.indptr).tolist() == [0, 1, 0, 0]


class Numbers:
    """A generator whose random numbers are given."""

    def __init__(self, numbers):
        self.numbers = np.array(numbers, float)

    def random(self, size):
        assert size == len(self.numbers)
        return self.numbers


@pytest.mark.parametrize("users_at_once", [1, 2, 2048])
def test_random_split_holds_out_the_smallest_numbers(monkeypatch, users_at_once):
    monkeypatch.setattr("sources.splits.USERS", users_at_once)
    random = np.random.default_rng(0)
    degree = random.integers(0, 12, size=50)
    indptr = np.concatenate([[0], np.cumsum(degree)])
    numbers = random.integers(2**53, size=indptr[-1]) / 2**53
    numbers[::7] = 0.25  # ties: the first interaction counts
    expected = np.zeros(indptr[-1], bool)
    for user in range(50):
        own = range(indptr[user], indptr[user + 1])
        count = min(int(0.3 * len(own) + 0.5), max(len(own) - 1, 0))
        expected[sorted(own, key=lambda place: numbers[place])[:count]] = True
    assert (random_per_user(indptr, 0.3, Numbers(numbers)) == expected).all()


@pytest.mark.parametrize(
    ("size", "ratio", "count"), [(40, 0.1, 4), (5, 0.5, 2), (2, 0.9, 1), (1, 0.9, 0)]
)
def test_random_split_over_all(size, ratio, count):
    assert random_overall(size, ratio, np.random.default_rng(0)).sum() == count


# Rows of a file: (user, item, time). Few times make many ties; a pair occurs more than once.
ROWS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 6)), min_size=1, max_size=30
)
EXAMPLES = settings(max_examples=100, deadline=None, derandomize=True, database=None)


def pairs_of(rows):
    users, items, times = (np.array(column) for column in zip(*rows, strict=True))
    return Pairs.of(users.astype(np.int32), items.astype(np.int32), (5, 6), None, times)


def places(pairs):
    """The places in the file of some interactions, as a set."""
    return set(pairs.places.tolist())


@EXAMPLES
@given(ROWS, st.integers(1, 4))
def test_last_equals_the_slow_reference_and_never_tests_what_is_earlier(rows, count):
    pairs = pairs_of(rows)
    held_out = last_per_user(pairs, count)
    assert places(pairs.take(held_out)) == slow_last(rows, count)
    assert places(pairs.take(~held_out)) == set(range(len(rows))) - slow_last(rows, count)
    for user in range(5):
        own = pairs.users == user
        if (own & held_out).any():
            order = np.stack([pairs.times, pairs.places])
            kept, tested = order[:, own & ~held_out].T.tolist(), order[:, own & held_out].T.tolist()
            assert max(kept) < min(tested)
        assert (own & ~held_out).any() or not own.any()


@EXAMPLES
@given(ROWS, st.floats(0.01, 0.99))
def test_time_equals_the_slow_reference_and_never_trains_on_what_is_later(rows, ratio):
    pairs = pairs_of(rows)
    held_out = latest(pairs, share_of(len(pairs), ratio), "number")
    assert places(pairs.take(held_out)) == slow_latest(rows, ratio)
    rest, test = pairs.take(~held_out), pairs.take(held_out)
    assert len(rest) + len(test) == len(rows)
    assert len(rest) >= 1
    if len(test):
        assert rest.times.max() <= test.times.min()
        order = [sorted(zip(part.times, part.places, strict=True)) for part in (rest, test)]
        assert order[0][-1] < order[1][0]  # ties: the file's order


def test_ties_are_counted(caplog):
    caplog.set_level(logging.INFO)
    last_per_user(pairs_of([(0, 0, 5), (0, 1, 5), (1, 0, 1), (1, 1, 2), (2, 1, 7)]), 1)
    assert "1 of 2 users have one time on both sides; the file's order decides" in caplog.text
    latest(pairs_of([(0, 0, 3), (0, 1, 5), (1, 0, 5), (1, 1, 5), (2, 1, 7)]), 2, "number")
    assert "split: 2 interactions from 5 on; 3 have this time, the file's order" in caplog.text
    assert "warning" not in caplog.text


@pytest.mark.parametrize("block", [2, 1 << 22])
def test_times_that_are_all_equal_are_a_warning(caplog, monkeypatch, block):
    monkeypatch.setattr("sources.splits.BLOCK", block)
    pairs = pairs_of([(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0), (2, 1, 0)])
    assert latest(pairs, 2, "number").tolist() == [False, False, False, True, True]
    last_per_user(pairs, 1)
    assert caplog.messages == [
        "warning: split by time: all times are 0, the file's order decides",
        "warning: split: 2 of 2 users have one time on both sides; the file's order decides",
    ]
