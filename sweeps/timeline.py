"""A data set in periods of time, and how good a model is in the next one.

Shapes: U users, I items, n interactions, b users of a block; all of the whole data set.
"""

import numpy as np
import torch
from scipy.sparse import csr_array

from cli.errors import UserError
from evaluate import Ranking
from inference.cold import trained_users
from sources.interactions import SPLITS, Interactions, digest_of, pair_matrix

METRICS = ("Recall@20", "NDCG@20")
# Groups of users and of items by whether they are known from the start.
GROUPS = ("all", "known users", "new users", "known items", "new items")


class Timeline:
    """Interactions in the order of time: a start, and periods of equal numbers of them."""

    def __init__(self, data, start, periods):
        """data (Interactions): with the times of all splits in its details
        start: share of the interactions before the first period
        periods: their number

        Raises UserError if there are no times, or fewer interactions than periods.
        """
        splits = [split for split in SPLITS if getattr(data, split).nnz]
        if data.details is None or any(split not in data.details.times for split in splits):
            raise UserError(f"{data.name} has no times of its interactions; take another data set")
        times = np.concatenate([data.details.times[split] for split in splits])
        pairs = np.concatenate([np.stack(getattr(data, split).nonzero()) for split in splits], 1)
        # Of equal times, the lower user and item come first.
        order = np.lexsort((pairs[1], pairs[0], times))
        self.users, self.items = pairs[:, order]  # (n,) each
        self.data, self.shape, self.periods = data, data.shape, periods
        shares = start + (1 - start) * np.arange(periods + 1) / periods
        self.cuts = np.round(shares * len(times)).astype(int)  # (periods + 1,)
        if (np.diff(self.cuts) < 1).any() or not self.cuts[0]:
            raise UserError(f"{data.name} has too few interactions for {periods} periods")
        self.start = self.pairs(0, self.cuts[0])

    def pairs(self, first, last):
        """csr_array (U, I) of the interactions from number `first` to before `last`."""
        return pair_matrix(self.users[first:last], self.items[first:last], None, self.shape)

    def known(self, period):
        """What is known before a period (from 0), to train on: (Interactions, users, items).

        users (U,), items (I,): their numbers in these Interactions, -1 for those not known yet
        """
        whole = self.pairs(0, self.cuts[period])
        numbers, ids = [], []
        present = np.diff(whole.indptr) > 0, np.bincount(whole.indices, minlength=self.shape[1]) > 0
        for mask, names in zip(present, (self.data.user_ids, self.data.item_ids), strict=True):
            numbers.append(np.where(mask, np.cumsum(mask) - 1, -1))
            ids.append([names[index] for index in np.flatnonzero(mask)])
        train = whole[present[0]][:, present[1]]
        train.sort_indices()
        empty = csr_array(train.shape, dtype=train.dtype)
        splits = {"train": train, "valid": empty, "test": empty}
        return Interactions(
            self.data.name, *ids, **splits, digest=digest_of(*ids, splits)
        ), *numbers

    def evaluate(self, period, model, users, items):
        """{group: {metric: float}} of a model in a period; NaN for a group that is not in it.

        users, items: what `known` returned for the data of the model

        All items are candidates but those that the user took before. Of users whom the model does
        not know the mean user's list counts; items that it does not know are in no list.
        """
        device = model.device
        scorer = OfAll(model, torch.as_tensor(users).to(device), torch.as_tensor(items).to(device))
        first, last = self.cuts[period : period + 2]
        split, seen = self.pairs(first, last), self.pairs(0, first)
        old_user, old_item = (
            np.diff(matrix.indptr) > 0 for matrix in (self.start, self.start.T.tocsr())
        )
        rows, columns = split.nonzero()
        masks = old_user[rows], ~old_user[rows], old_item[columns], ~old_item[columns]
        found = {}
        for group, mask in zip(GROUPS, (np.ones(len(rows), bool), *masks), strict=True):
            part = pair_matrix(rows[mask], columns[mask], None, self.shape)
            ranking = Ranking(part, [seen], device)
            metrics = ranking.evaluate(scorer) if mask.any() else {}
            found[group] = {name: metrics.get(name, float("nan")) for name in METRICS}
        return found


class OfAll:
    """Scores of a model that knows some users and items, for all of them."""

    def __init__(self, model, users, items):
        """model: a recommender.Recommender
        users (U,), items (I,): their numbers in the model, -1 if it does not know them
        """
        self.scorer, self.device = model.scorer(), model.device
        self.users, self.known = users, items >= 0
        self.mean_scores = self.scorer.scores_of(model.mean_user(trained_users(model)))

    def score(self, users, out):
        """Write the scores of `users` (b,) into out (b, I)."""
        numbers = self.users[users]
        scores = torch.empty(len(users), len(self.mean_scores), device=self.device)
        self.scorer.score(numbers.clamp(min=0), scores)
        scores[numbers < 0] = self.mean_scores
        out.fill_(-torch.inf)
        out[:, self.known] = scores
