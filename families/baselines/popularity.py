"""Popularity: every user gets the items with the most training interactions.

Shapes: U users, I items.
"""

import numpy as np

from evaluate import popularity_encodings
from families.baselines.closed_form import SolvedAtOnce


class Popularity(SolvedAtOnce):
    """The score of an item is its number of training interactions, the same for every user."""

    def __init__(self, data, args, device):
        super().__init__(data, args, device)
        self.counts = popularity_encodings(data.train, device)

    def solve(self):
        """Return the loss; there is nothing to solve.

        It is the mean of -log(share of the interaction's item) over the training interactions, with
        an item's share of all training interactions.
        """
        counts = np.bincount(self.data.train.indices)
        counts = counts[counts > 0]
        return float(-(counts / counts.sum() * np.log(counts / counts.sum())).sum())

    def encodings(self):
        """Ones (U, 1) and numbers of interactions (I, 1)."""
        return self.counts

    def state_dict(self):
        """Empty: the data decide everything."""
        return {}

    def load_state_dict(self, state):
        """Do nothing: the data decide everything."""
