"""Split a data set of arrays: this process's users, as one process would split all of them.

Shapes: U users, n users of this process, N interactions of all users.
"""

from itertools import pairwise

import numpy as np

from cli.errors import UserError
from sources.files import map_array
from sources.pairs import Pairs
from sources.splits import (
    BLOCK,
    FROM_FILES,
    counts_of,
    last_per_user,
    latest,
    moment,
    random_per_user,
    say_split,
    share_of,
)

LARGEST = 2**62  # time, as of files
UNIT = "number"  # of times, see sources.values.times_of


class OwnSplitter:
    """Makes the splits that a folder does not hold; see sources.splits.Splitter.

    said: how the splits were made, one line
    """

    def __init__(self, folder, choice, test_ratio, valid_ratio, seed):
        """Prepare the splits.

        folder (Path): of the data set
        choice (Choice): uses split, test_last and test_from
        test_ratio, valid_ratio: shares; None: 0.2 and 0.1
        seed: of random splits
        """
        self.folder, self.choice = folder, choice
        self.test_ratio, self.valid_ratio = test_ratio or 0.2, valid_ratio or 0.1
        self.random = np.random.default_rng(seed)
        self.seed, self.said = seed, FROM_FILES

    def split(self, name, matrix, indptr, span, parts):
        """Divide a split.

        name: of the split in the folder
        matrix: csr_array (n, I) of this process's users
        indptr (U + 1,): the interactions before each user
        span: (first user, user after the last) of this process
        parts: names of the splits to make, the first of what is left of all others

        Returns {name: csr_array (n, I)}. Raises UserError if times are needed and wrong.
        """
        said = [] if "test" in parts else [FROM_FILES]
        start, stop = int(indptr[span[0]]), int(indptr[span[1]])
        times = self._times(name, int(indptr[-1])) if self.choice.split != "random" else None
        rest = Pairs(
            matrix.indptr,
            matrix.indices,
            matrix.shape[1],
            np.arange(start, stop),
            times=None if times is None else times[start:stop],
        )
        splits, held = {}, 0
        for part in parts[1:]:
            ratio = self.test_ratio if part == "test" else self.valid_ratio
            begin = self.choice.test_from if part == "test" else None
            rest_of = "" if part == "test" else " of the rest"
            said.append(f"{part}: {say_split(self.choice, ratio, self.seed, begin)}{rest_of}")
            if self.choice.split == "random":
                mask, indptr = self._random(indptr, span, ratio)
            elif self.choice.split == "last":
                mask = last_per_user(rest, self.choice.test_last)
            else:
                before, held = held, held + self._late(times, held, ratio, begin)
                whole = Pairs(indptr, None, 0, None, times=times)
                mask = latest(rest, held, UNIT, whole, before)
            splits[part], rest = rest.take(mask).matrix(), rest.take(~mask)
        self.said = "; ".join(said)
        return {parts[0]: rest.matrix(), **splits}

    def _random(self, indptr, span, ratio):
        """(mask over the own interactions, indptr (U + 1,) of what is left of all users')"""
        # One process draws a number for each interaction: jump over those of other users.
        start, stop = int(indptr[span[0]]), int(indptr[span[1]])
        self.random.bit_generator.advance(start)
        mask = random_per_user(
            np.asarray(indptr[span[0] : span[1] + 1]) - start, ratio, self.random
        )
        self.random.bit_generator.advance(int(indptr[-1]) - stop)
        degree = np.diff(indptr)
        return mask, np.concatenate([[0], np.cumsum(degree - counts_of(degree, ratio))])

    def _late(self, times, held, ratio, begin):
        """How many of all interactions are held out by time, beside the `held` latest."""
        if begin is not None:
            begin = moment(begin, times, UNIT)
            cuts = [*range(0, len(times), BLOCK), len(times)]
            return sum(int((times[a:b] >= begin).sum()) for a, b in pairwise(cuts))
        return share_of(len(times) - held, ratio)

    def _times(self, name, size):
        """The times (N,) of a split, mapped. Raises UserError if they are absent or do not fit."""
        path = self.folder / f"{name}.times.npy"
        advice = f"write {size} whole numbers, a time for each interaction, or take --split random"
        times = map_array(path, advice)
        if len(times) != size:
            raise UserError(f"{path} holds {len(times)} times; {advice}")
        if times.min() < -LARGEST or times.max() > LARGEST:
            raise UserError(f"{path} holds times above 2^62 or below -2^62; {advice}")
        return times
