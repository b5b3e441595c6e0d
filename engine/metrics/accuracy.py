"""How many of a user's items a ranked list finds, and where; a metric is a function.

To add one: a function (lists, k) -> (b,), float64, and its name in cli/registry.py.

Of each user: h hits among the first k places of the list, and the user's |T| >= 1 items in the
split. A list shorter than k (fewer items are left) counts as filled up with misses. Every metric is
in 0 .. 1, larger is better; its mean over the users is reported. Equal scores are ranked before, by
the lower item index: see engine/topk.py.

Shapes: b users of a block, I items, K list length, at least every k or I.
"""

from functools import cached_property

import torch


class Lists:
    """Ranked lists of a block of users, with what several metrics need of them.

    hits (b, K): 1.0 where the item at a place of the list is in the split, else 0.0
    relevant (b,): float64, |T| >= 1, the user's items in the split
    items (b, K): indices of the listed items
    listed (b, K): whether there is an item; False past the end of a short list
    about: the lists.Items that they are of; None: for metrics of accuracy alone
    """

    def __init__(self, hits, relevant, items=None, listed=None, about=None):
        self.hits, self.relevant = hits, relevant
        self.items, self.listed, self.about = items, listed, about

    @cached_property
    def ranks(self):
        """1 .. K, float64."""
        return torch.arange(1, self.hits.shape[1] + 1, device=self.hits.device, dtype=torch.float64)

    @cached_property
    def discount(self):
        """1 / log2(rank + 1) of each place, (K,)."""
        return 1 / (self.ranks + 1).log2()

    @cached_property
    def hits_so_far(self):
        """Hits up to each place, (b, K)."""
        return self.hits.cumsum(1)

    @cached_property
    def gain_so_far(self):
        """Sum over the hits up to each place of their discount, (b, K)."""
        return (self.discount * self.hits).cumsum(1)

    def place(self, k):
        """Position of the k-th place, or of the last one of a shorter list."""
        return min(k, self.hits.shape[1]) - 1

    def hits_among(self, k):
        """Hits h among the first k, (b,)."""
        return self.hits_so_far[:, self.place(k)]


def recall(lists, k):
    """Recall@k = h / |T|."""
    return lists.hits_among(k) / lists.relevant


def precision(lists, k):
    """Precision@k = h / k, also of a list that is shorter than k."""
    return lists.hits_among(k) / k


def f1(lists, k):
    """F1@k = 2 h / (|T| + k), the harmonic mean of Recall@k and Precision@k; 0 without a hit."""
    return 2 * lists.hits_among(k) / (lists.relevant + k)


def ndcg(lists, k):
    """NDCG@k: sum over the hits of 1 / log2(rank + 1), divided by that of a perfect list.

    The perfect list has hits at the ranks 1 .. min(k, |T|).
    Source: Jarvelin & Kekalainen, Cumulated gain-based evaluation of IR techniques, TOIS 2002.
    """
    ideal = lists.discount.cumsum(0)[lists.relevant.long().clamp(max=lists.place(k) + 1) - 1]
    return lists.gain_so_far[:, lists.place(k)] / ideal


def hit_rate(lists, k):
    """HR@k = 1 if h > 0, else 0."""
    return (lists.hits_among(k) > 0).double()


def reciprocal_rank(lists, k):
    """MRR@k: 1 / rank of the first hit among the first k; 0 without a hit.

    Source: Voorhees, The TREC-8 question answering track report, 1999.
    """
    return (lists.hits / lists.ranks)[:, :k].amax(1)


def average_precision(lists, k):
    """MAP@k: sum over the hits among the first k of (hits up to it) / rank, divided by |T|.

    So a user with |T| > k does not reach 1. This is trec_eval's map_cut; others divide by
    min(k, |T|). Source: Buckley & Voorhees, Retrieval system evaluation, in: TREC, 2005.
    """
    precisions = lists.hits * lists.hits_so_far / lists.ranks
    return precisions[:, :k].sum(1) / lists.relevant
