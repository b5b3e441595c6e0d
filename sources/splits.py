"""Split interactions: at random, by the last of each user, or by time.

A split is a mask (n,) of the interactions that are held out. Shapes: U users, n interactions.
"""

import logging
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cli.errors import UserError
from sources.values import MISSING, moment, say_time

log = logging.getLogger("onebp")

BITS = 53  # of a random number
USERS = 1 << (64 - BITS)  # users whose numbers fit beside a random number into 64 bits
THREADS = 2


class Splitter:
    """Makes the test split, then the validation split of what is left in the same way.

    said: how the splits were made, one line
    """

    def __init__(self, choice, ratings, seed, parsed, sources):
        """Prepare the splits.

        choice (Choice): uses split, test_last and test_from
        ratings: whether a random split is one over all ratings, not of each user's interactions
        seed: of random splits
        parsed (Parsed): whose interactions are split
        sources: {split: file}, for messages
        """
        self.choice, self.ratings, self.parsed, self.sources = choice, ratings, parsed, sources
        self.random = np.random.default_rng(seed)
        self.said = "train and test as the files have them"
        self.how = {
            "random": f"random{'' if ratings else ', of each user'}, seed {seed}",
            "last": f"the last {choice.test_last} of each user",
            "time": "by time",
        }[choice.split]

    def split_test(self, pairs, ratio):
        """(Pairs that are left, Pairs of the test split). ratio: its share; None: the default"""
        if ratio is None:
            ratio = 0.1 if self.ratings and self.choice.split == "random" else 0.2
        self.said = self.how
        if self.choice.split == "time":
            start = self.choice.test_from
            self.said += f", test from {start} on" if start else f", the latest {ratio:g} is test"
        return self._split(pairs, "interactions", ratio, self.choice.test_from)

    def split_valid(self, pairs, ratio):
        """(Pairs that are left, Pairs of the validation split). ratio: its share; None: 0.1"""
        self.said += f"; validation: {self.how}"
        return self._split(
            pairs, "interactions" if "interactions" in self.sources else "train", ratio or 0.1, None
        )

    def _split(self, pairs, split, ratio, start):
        """(rest, held out) of Pairs, which are of the file of `split`."""
        if not len(pairs):
            return pairs, pairs
        kind = self.choice.split
        if kind != "random":
            check_times(pairs, self.sources[split], self.parsed.gaps[split].get("time", ""))
        if kind == "random" and self.ratings:
            held_out = random_overall(len(pairs), ratio, self.random)
        elif kind == "random":
            held_out = random_per_user(pairs.indptr, ratio, self.random)
        elif kind == "last":
            held_out = last_per_user(pairs, self.choice.test_last)
        elif start is None:
            held_out = latest(pairs, ratio, self.parsed.unit)
        else:
            held_out = pairs.times >= moment(start, pairs.times, self.parsed.unit)
        return pairs.take(~held_out), pairs.take(held_out)


def random_per_user(indptr, ratio, random):
    """Hold out a share of the interactions of every user, chosen at random.

    indptr (U + 1,): the interactions before each user
    ratio: share of a user's interactions, rounded to the nearest whole number; at least one
        interaction stays
    random: numpy Generator
    """
    size = int(indptr[-1])
    numbers = random.random(size)
    degree = np.diff(indptr)
    count = np.minimum(np.floor(degree * ratio + 0.5), np.maximum(degree - 1, 0)).astype(np.int64)
    held_out = np.zeros(size, bool)

    def hold_out(first):
        # The user and the 53 bits of the random number make one number: sorting these sorts the
        # interactions by user, then at random. Those up to the user's count-th are held out.
        users = slice(first, min(first + USERS, len(degree)))
        start, stop = indptr[users.start], indptr[users.stop]
        keys = (numbers[start:stop] * 2.0**BITS).astype(np.uint64)
        owners = np.arange(users.stop - first, dtype=np.uint64) << np.uint64(BITS)
        keys |= np.repeat(owners, degree[users])
        ordered = np.sort(keys)
        limits = owners.copy()  # no number of the user is below
        some = count[users] > 0
        limits[some] = ordered[(indptr[users] - start + count[users] - 1)[some]] + np.uint64(1)
        held_out[start:stop] = keys < np.repeat(limits, degree[users])

    with ThreadPoolExecutor(THREADS) as threads:
        deque(threads.map(hold_out, range(0, len(degree), USERS)), maxlen=0)
    if held_out.sum() != count.sum():  # a random number occurs twice: the first interaction counts
        users = np.repeat(np.arange(len(degree)), degree)
        order = np.lexsort((numbers, users))
        position = np.arange(size) - indptr[users]
        held_out[order] = position < count[users]
    return held_out


def random_overall(size, ratio, random):
    """Hold out a share of `size` interactions, chosen at random; at least one stays.

    ratio: the share
    random: numpy Generator
    """
    held_out = np.zeros(size, bool)
    held_out[random.permutation(size)[: min(round(size * ratio), size - 1)]] = True
    return held_out


def last_per_user(pairs, count):
    """Hold out the `count` latest interactions of every user; at least one stays.

    Of interactions at one time, those that come later in the file are later.

    pairs (Pairs): with times
    count: interactions of a user
    """
    users, times = pairs.users, pairs.times
    order = np.lexsort((pairs.places, times, users))
    degree = np.diff(pairs.indptr)
    held = np.minimum(count, np.maximum(degree - 1, 0))
    from_end = pairs.indptr[users + 1] - 1 - np.arange(len(pairs))  # of `order`, from 0
    held_out = np.zeros(len(pairs), bool)
    held_out[order] = from_end < held[users]

    # Count the users whose first interaction held out and last one that stays are of one time.
    some = np.flatnonzero(held)
    first = pairs.indptr[some + 1] - held[some]
    ties = int(np.sum(times[order[first]] == times[order[first - 1]]))
    if ties:
        text = (
            "split by time: %d of %d users have ties between the splits; the file's order decides"
        )
        log.info(text, ties, len(some))
    return held_out


def latest(pairs, ratio, unit):
    """Hold out a share of all interactions, the latest; at least one stays.

    Of interactions at one time, those that come later in the file are later.

    pairs (Pairs): with times
    ratio: the share
    unit: of the times, for messages
    """
    size = min(round(len(pairs) * ratio), len(pairs) - 1)
    held_out = np.zeros(len(pairs), bool)
    if size < 1:
        return held_out
    times = pairs.times
    boundary = np.partition(times, len(times) - size)[len(times) - size]
    held_out = times > boundary
    at_boundary = np.flatnonzero(times == boundary)
    wanted = size - int(held_out.sum())
    by_place = at_boundary[np.argsort(pairs.places[at_boundary])]
    held_out[by_place[len(by_place) - wanted :]] = True
    ties = (
        f"; of {len(by_place):,} at this time the last {wanted:,} in the file"
        if (len(by_place) > wanted)
        else ""
    )
    log.info("split by time: %d from %s on%s", size, say_time(int(boundary), times, unit), ties)
    return held_out


def check_times(pairs, source, gap):
    """Raise UserError if interactions have no times. source: their file; gap: what is missing"""
    if pairs.times is None or (pairs.times == MISSING).any():
        raise UserError(f"{source}{gap}; or take --split random")
