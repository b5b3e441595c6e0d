"""What is recommended, whether it is liked or not: metrics of a list, and of all lists together.

To add one: a function and its name in cli/registry.py. Of a list it is (lists, k) -> (b,), see
accuracy.py; of all lists (counts, k) -> a number. n_i is the number of training
interactions of item i. A list that is shorter than k counts with the items that it has.

Shapes: b users of a block, U users, I items, G genres, K list length.
"""

from functools import cached_property

import numpy as np
import torch
from torch.nn.functional import embedding_bag

from cli.errors import UserError
from sources.share import item_counts
from sources.titles import item_titles

HEAD = 0.2  # share of the items, those of most interactions, that are not the tail


class Items:
    """What metrics need to know of the items.

    counts (I,): n_i, float64, of all processes
    users: U, of all processes
    genres (I, G): float64, each row of length 1, or of zeros without a genre; None: not loaded
    """

    def __init__(self, counts, users, genres=None):
        self.counts, self.users, self.genres = counts, users, genres

    @cached_property
    def self_information(self):
        """-log2(n_i / U) of each item, (I,); an item without training counts as with one."""
        return -(self.counts.clamp(min=1) / self.users).log2()

    @cached_property
    def in_tail(self):
        """1.0 for items of the tail, 0.0 for the head, (I,)."""
        head = self.counts.sort(stable=True, descending=True).indices
        tail = torch.ones_like(self.counts)
        tail[head[: -(-len(head) // round(1 / HEAD))]] = 0
        return tail


def items_of(data, device, data_dir, with_genres):
    """The Items of a data set. All processes call it together.

    data: sources.interactions.Interactions
    data_dir: folder of the data sets, where titles and genres are
    with_genres: whether to load the genres

    Raises UserError if they are wanted and the data set has none.
    """
    counts = torch.as_tensor(item_counts(data.train), device=device).double()
    genres = genres_of(data, data_dir).to(device) if with_genres else None
    return Items(counts, data.counts()["users"], genres)


def genres_of(data, data_dir):
    """Rows of length 1, (I, G) float64, from the files of a data set, see Items."""
    table = item_titles(data, data_dir)
    if table is not None:
        marks = table["genres"].str.get_dummies("|").drop(columns="", errors="ignore")
    if table is None or marks.empty:
        raise UserError(
            f"Diversity needs the genres of items, and {data.name} has none; leave it out of "
            "--metrics, or add items.csv (datasets/README.md)"
        )
    marks = marks.to_numpy(np.float64)
    lengths = np.linalg.norm(marks, axis=1, keepdims=True)
    return torch.from_numpy(marks / np.maximum(lengths, 1))


def mean_over_list(lists, values, k):
    """Mean of values (I,) over the first k items of each list -> (b,); 0 for an empty list."""
    listed = lists.listed[:, :k].double()
    total = (values[lists.items[:, :k]] * listed).sum(1)
    return total / listed.sum(1).clamp(min=1)


def mean_popularity(lists, k):
    """MeanPopularity@k: mean of n_i over the list. In 0 .. U, smaller is better."""
    return mean_over_list(lists, lists.about.counts, k)


def novelty(lists, k):
    """Novelty@k: mean self-information, -log2(n_i / U), over the list. In 0 .. log2(U).

    An item without training interactions counts as if it had one.
    Source: Zhou et al., Solving the apparent diversity-accuracy dilemma of recommender systems,
    PNAS 2010.
    """
    return mean_over_list(lists, lists.about.self_information, k)


def tail_share(lists, k):
    """TailShare@k: share of the list's items that belong to the tail. In 0 .. 1.

    The head is the fifth of all items (rounded up) with the largest n_i, of equal ones the lower
    index; the tail is all others. Source: after Abdollahpouri et al., Managing popularity bias in
    recommender systems with personalized re-ranking, FLAIRS 2019.
    """
    return mean_over_list(lists, lists.about.in_tail, k)


def diversity(lists, k):
    """Diversity@k: 1 - cosine of the genres of two items, mean over the pairs of the list.

    In 0 .. 1. Items without a genre are left out; 0 if fewer than two are left.
    Source: Ziegler et al., Improving recommendation lists through topic diversification, WWW 2005.
    """
    items, listed, genres = lists.items[:, :k], lists.listed[:, :k].double(), lists.about.genres
    total = embedding_bag(items, genres, per_sample_weights=listed, mode="sum")  # (b, G)
    n = (genres.any(1)[items] * listed).sum(1)  # (b,)
    # Of vectors of length 1: |sum|^2 = n + the sum of the cosines of all ordered pairs.
    cosines = total.square().sum(1) - n
    return torch.where(n > 1, 1 - cosines / (n * (n - 1)).clamp(min=1), 0.0).clamp(min=0)


def coverage(counts, k):
    """Coverage@k: share of all items that are in the list of at least one evaluated user.

    In 0 .. 1. counts (I,): in how many lists of length k each item is.
    Source: Herlocker et al., Evaluating collaborative filtering recommender systems, TOIS 2004.
    """
    return (counts > 0).double().mean().item()


def gini(counts, k):
    """Gini@k: how unequally the lists recommend the items. Smaller is better.

    Gini = sum over j = 1 .. I of (2 j - I - 1) c_j / (I sum of c), c in ascending order.

    0: every item equally often (also if nothing is recommended); 1 - 1 / I: one item only.
    counts (I,): see `coverage`
    Source: Gini, Variabilita e mutabilita, 1912.
    """
    size, ordered = len(counts), counts.sort().values
    weights = 2 * torch.arange(1, size + 1, device=counts.device) - size - 1
    return ((weights * ordered).sum() / (size * ordered.sum()).clamp(min=1)).item()
