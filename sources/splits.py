"""Split interactions: at random, by the last of each user, or by time.

A split is a mask (n,) of the interactions that are held out. Shapes: U users, n interactions.
"""

import logging
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cli.errors import UserError
from sources.values import MISSING, calendar_of, moment, say_time

log = logging.getLogger("onebp")

BITS = 53  # of a random number
USERS = 1 << (64 - BITS)  # users whose numbers fit beside a random number into 64 bits
THREADS = 2
FROM_FILES = "train and test as the files have them"
BINS, BLOCK = 1 << 16, 1 << 22  # intervals, and times of a block, that `kth_latest` counts


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
        self.seed, self.said = seed, FROM_FILES

    def split_test(self, pairs, ratio):
        """(Pairs that are left, Pairs of the test split). ratio: its share; None: the default"""
        if ratio is None:
            ratio = 0.1 if self.ratings and self.choice.split == "random" else 0.2
        start = self.choice.test_from
        self.said = f"test: {say_split(self.choice, ratio, self.seed, start)}"
        return self._split(pairs, "interactions", ratio, start)

    def split_valid(self, pairs, ratio):
        """(Pairs that are left, Pairs of the validation split). ratio: its share; None: 0.1"""
        ratio, split = ratio or 0.1, "interactions" if "interactions" in self.sources else "train"
        self.said += f"; valid: {say_split(self.choice, ratio, self.seed)} of the rest"
        return self._split(pairs, split, ratio, None)

    def _split(self, pairs, split, ratio, start):
        """(rest, held out) of Pairs, which are of the file of `split`."""
        if not len(pairs):
            return pairs, pairs
        kind = self.choice.split
        if kind != "random":
            check_times(pairs, self.sources[split], self.parsed.gaps[split])
        if kind == "random" and self.ratings:
            held_out = random_overall(len(pairs), ratio, self.random)
        elif kind == "random":
            held_out = random_per_user(pairs.indptr, ratio, self.random)
        elif kind == "last":
            held_out = last_per_user(pairs, self.choice.test_last)
        elif start is None:
            held_out = latest(pairs, share_of(len(pairs), ratio), self.parsed.unit)
        else:
            held_out = pairs.times >= moment(start, pairs.times, self.parsed.unit)
        return pairs.take(~held_out), pairs.take(held_out)


def say_split(choice, ratio, seed, start=None):
    """How a split is made, in words.

    choice, ratio, seed: see Splitter
    start: the time from which all is held out, as --test_from spells it
    """
    return {
        "random": f"a random {ratio:g} (seed {seed})",
        "last": f"the last {choice.test_last} of each user",
        "time": f"all from {start} on" if start else f"the latest {ratio:g}",
    }[choice.split]


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
    count = counts_of(degree, ratio)
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
    held_out[random.permutation(size)[: share_of(size, ratio)]] = True
    return held_out


def share_of(size, ratio):
    """How many of `size` interactions are a share `ratio` of them; at least one stays."""
    return max(0, min(round(size * ratio), size - 1))


def counts_of(degree, ratio):
    """How many of each user's `degree` (U,) interactions are a share `ratio`; one stays."""
    return np.minimum(np.floor(degree * ratio + 0.5), np.maximum(degree - 1, 0)).astype(np.int64)


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
        text = "split: %d of %d users have one time on both sides; the file's order decides"
        if ties == len(some):
            log.warning("warning: " + text, ties, len(some))
        else:
            log.info(text, ties, len(some))
    return held_out


def latest(pairs, size, unit, whole=None, held=0):
    """Hold out the `size` latest of all interactions.

    Of interactions at one time, those that come later in the file are later.

    pairs (Pairs): with times
    size: from 0
    unit: of the times, for messages
    whole (Pairs): of all users, if `pairs` are of some of them; without places if the
        interactions are in the order of the file
    held: how many of them are in a split that was held out before, for messages
    """
    if size < 1:
        return np.zeros(len(pairs), bool)
    whole = pairs if whole is None else whole
    boundary, later = kth_latest(whole.times, size)
    # Of those at the boundary, hold out the last ones in the file.
    starts = range(0, len(whole.times), BLOCK)
    blocks = (np.flatnonzero(whole.times[start : start + BLOCK] == boundary) for start in starts)
    tied = np.concatenate([start + places for start, places in zip(starts, blocks, strict=True)])
    if whole.places is not None:
        tied = np.sort(whole.places[tied])
    first = tied[later - size]
    ties = f"; {len(tied):,} have this time, the file's order decides" if first > tied[0] else ""
    start = say_time(boundary, calendar_of(boundary, whole.times, unit))
    if len(tied) == len(whole.times):
        log.warning("warning: split by time: all times are %s, the file's order decides", start)
    else:
        log.info("split: %d interactions from %s on%s", size - held, start, ties)
    return (pairs.times > boundary) | ((pairs.times == boundary) & (pairs.places >= first))


def kth_latest(times, k):
    """(the k-th latest of some times, how many are later), in passes of bounded memory.

    times (n,): mapped into memory, perhaps
    k: from 1 to n
    """
    low, high = int(times.min()), int(times.max())
    later = 0  # times above `high`
    while low < high:
        # Count the times in intervals between low and high; keep that which has the k-th.
        width = (high - low) // BINS + 1
        counts = np.zeros(BINS, np.int64)
        for start in range(0, len(times), BLOCK):
            block = np.asarray(times[start : start + BLOCK])
            inside = block[(block >= low) & (block <= high)]
            counts += np.bincount((inside - low) // width, minlength=BINS)
        from_end = later + np.cumsum(counts[::-1])
        place = int(np.searchsorted(from_end, k))
        later = later if place == 0 else int(from_end[place - 1])
        low, high = (
            low + (BINS - 1 - place) * width,
            min(low + (BINS - place) * width - 1, high),
        )
    return low, later


def check_times(pairs, source, gaps):
    """Raise UserError if interactions have no times, or times of two units.

    source: their file
    gaps: what is wrong with it, see sources.readers.Rows
    """
    is_missing = pairs.times is None or (pairs.times == MISSING).any()
    if is_missing or "unit" in gaps:
        what = gaps.get("time" if is_missing else "unit", "")
        raise UserError(f"{source}{what}; or split it by --split random")
