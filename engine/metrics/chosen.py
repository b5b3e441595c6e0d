"""The metrics of one's choice, summed over the lists of users.

Shapes: b users of a block, I items, K list length.
"""

from functools import cached_property

import torch

from cli.registry import ACCURACY, METRICS, NEED_GENRES, OF_A_LIST, OF_ALL_LISTS, find


class Chosen:
    """Some metrics at some cut-offs.

    of_each: metrics of each user's list, those of accuracy first
    of_all: metrics of all lists together
    accuracy: names of the former at their cut-offs
    cutoffs: the list lengths
    """

    def __init__(self, metrics, cutoffs):
        """metrics, cutoffs: values of these flags"""
        accuracy, of_a_list = ([x for x in metrics if x in y] for y in (ACCURACY, OF_A_LIST))
        self.accuracy = [f"{name}@{k}" for name in accuracy for k in cutoffs]
        self.of_each = accuracy + of_a_list
        self.of_all = [name for name in metrics if name in OF_ALL_LISTS]
        self.order = [(name, k) for name in metrics for k in cutoffs]
        self.cutoffs = cutoffs

    @property
    def need_genres(self):
        """Whether they need the genres of the items."""
        return bool(NEED_GENRES & {*self.of_each})

    @cached_property
    def functions(self):
        """{name at cut-off: (function, cut-off)} of the metrics of each list."""
        return {
            f"{name}@{k}": (find(METRICS, name), k) for name in self.of_each for k in self.cutoffs
        }

    def zeros(self, n_items, device):
        """The tensors, float64, to which `add_` adds the lists of no user.

        Sums of the metrics over users (m,); number of users (1,); if they count, in how many lists
        of each length each item is (cut-offs, I).
        """
        sizes = [(len(self.functions),), (1,), (len(self.cutoffs), n_items)]
        sizes = sizes if self.of_all else sizes[:2]
        return [torch.zeros(size, dtype=torch.float64, device=device) for size in sizes]

    def add_(self, sums, lists):
        """Add a block to the tensors of `zeros`. Returns the metrics of its users (b, m).

        lists: accuracy.Lists
        """
        total, count, *counts = sums
        values = total.new_empty(len(lists.hits), len(self.functions))
        for column, (metric, k) in enumerate(self.functions.values()):
            values[:, column] = metric(lists, k)
        total += values.sum(0)
        count += len(values)
        for row, k in zip(counts[0], self.cutoffs, strict=True) if counts else ():
            row.index_add_(0, lists.items[:, :k].flatten(), lists.listed[:, :k].double().flatten())
        return values

    def means(self, total, count, counts=()):
        """{name at cut-off: float} from the tensors of `zeros`, summed over all users."""
        found = dict(zip(self.functions, (total / count).tolist(), strict=True))
        for k, row in zip(self.cutoffs, counts, strict=False):
            found |= {f"{name}@{k}": find(OF_ALL_LISTS, name)(row, k) for name in self.of_all}
        return {f"{name}@{k}": found[f"{name}@{k}"] for name, k in self.order}
