"""Popularity: every user gets the items with the most training interactions."""

import numpy as np

from evaluate import popularity_encodings
from families.baselines.closed_form import SolvedAtOnce
from sources.share import item_counts


class Popularity(SolvedAtOnce):
    """The same list for every user: items by their number of training interactions."""

    def __init__(self, data, args, device):
        super().__init__(data, args, device)
        self.counts = popularity_encodings(data.shape[0], item_counts(data.train), device)

    def solve(self):
        """The model is the data; its loss is the mean of -log(an item's share of the interactions)."""
        counts = np.bincount(self.data.train.indices)
        counts = counts[counts > 0]
        return float(-(counts / counts.sum() * np.log(counts / counts.sum())).sum())

    def encodings(self):
        """(U, 1) and (I, 1)"""
        return self.counts

    def state_dict(self):
        """Nothing that the data does not tell."""
        return {}

    def load_state_dict(self, state):
        """Nothing to take over."""
