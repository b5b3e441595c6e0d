"""What an evaluation found of each user and of each item; tables of it, also in five groups.

Shapes: n evaluated users of this process, b users of a block, I items, m metrics.
"""

import json

import numpy as np
import pandas as pd
import torch

from distributed import collectives
from sources.share import item_counts

GROUPS = 5


class Found:
    """What an evaluation of all users found, of this process's users.

    names: the metrics of accuracy, as in "Recall@20"
    k: list length of `hits`
    users: list of indices (b,), in ascending order; rows: list of their metrics (b, m)
    hits (I,): how often an item was found among the first k
    """

    def __init__(self, names, k, hits):
        """names, k: see the class; hits: zeros"""
        self.names, self.k, self.hits, self.users, self.rows = names, k, hits, [], []

    def add(self, users, values, lists):
        """Add a block: users (b,), values (b, m and more), lists: accuracy.Lists."""
        self.users.append(users)
        self.rows.append(values[:, : len(self.names)])
        items, hits = (x[:, : self.k].flatten() for x in (lists.items, lists.hits))
        self.hits.index_add_(0, items, hits)

    def tables(self, data, headline):
        """(by user, {"users": by group, "items": by group}); on other processes (None, {}).

        All processes call it together.

        data: the sources.interactions.Interactions that were evaluated, on the test split
        headline: metrics to show of a group, if a user has them
        """
        users, items = self.by_user(data), self.by_item_group(data)
        if users is None:
            return None, {}
        at_k = [name for name in self.names if name.endswith(f"@{self.k}")]
        names = [name for name in dict.fromkeys([*headline, *at_k]) if name in self.names]
        return users, {"users": by_user_group(users, names[:2]), "items": items}

    def by_user(self, data):
        """The table of users.parquet on the first process, else None. See `tables`.

        Columns: user, its id; interactions, in training; then the metrics.
        """
        empty = self.hits.new_zeros(0)
        users = torch.cat([empty.long(), *self.users]).cpu()  # (n,)
        values = torch.cat([empty.new_zeros(0, len(self.names)), *self.rows])  # (n, m)
        interactions = torch.from_numpy(np.diff(data.train.indptr).astype(np.int64))[users]
        # The users of a process that reads its share of arrays have no ids but their numbers.
        known = data.user_ids or range(data.first, data.first + data.shape[0])
        ids = [str(known[user]) for user in users.tolist()]
        if collectives.world_size() > 1:
            texts = collectives.all_gather_texts(json.dumps(ids))
            ids = [user for text in texts for user in json.loads(text)]
        columns = [collectives.gather_to_first(column) for column in (interactions, values)]
        if collectives.rank():
            return None
        table = pd.DataFrame(columns[1].numpy(), columns=self.names)
        table.insert(0, "interactions", columns[0].numpy())
        table.insert(0, "user", pd.Series(ids, dtype=object))
        return table

    def by_item_group(self, data):
        """Table of items by popularity, see `groups_of` and `tables`.

        Columns: items, interactions (in training, fewest and most of an item), test interactions,
        and Recall@k: the share of the group's test interactions that are among the first k; nan if
        it has none.
        """
        popularity = item_counts(data.train)
        wanted, hits = item_counts(data.test), collectives.all_reduce_(self.hits).cpu().numpy()
        table = pd.DataFrame({"test interactions": wanted, "hits": hits})
        groups = groups_of(popularity)
        sums = pd.DataFrame([table.iloc[group].sum() for group in groups])
        return pd.DataFrame(
            {
                "items": [len(group) for group in groups],
                "interactions": [span(popularity[group]) for group in groups],
                "test interactions": sums["test interactions"].astype(int),
                f"Recall@{self.k}": sums["hits"] / sums["test interactions"],  # 0 / 0 is nan
            }
        )


def by_user_group(table, names):
    """Table of users by their interactions, see `groups_of`.

    table: from Found.by_user; names: of the metrics to average
    """
    interactions = table["interactions"].to_numpy()
    groups = groups_of(interactions)
    own = {
        "users": [len(group) for group in groups],
        "interactions": [span(interactions[group]) for group in groups],
    }
    means = {name: [table[name].iloc[group].mean() for group in groups] for name in names}
    return pd.DataFrame(own | means)


def groups_of(numbers):
    """Positions of five groups of equal size, those of the smallest numbers (n,) first.

    Their sizes differ by 1 at most; equal numbers may be in two groups, the lower position first.
    """
    order = np.argsort(numbers, kind="stable")
    return [group for group in np.array_split(order, GROUPS) if len(group)]


def span(numbers):
    """The smallest and the largest number, as text: "3-17"."""
    low, high = numbers.min(), numbers.max()
    return f"{low}-{high}" if low < high else f"{low}"
