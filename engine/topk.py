"""The k largest scores of each row, and the rank of one item in its row; exact also for ties.

Shapes: b users of a block, m pairs of a block, I items, K list length.
"""

import math

import numpy as np
import torch


def topk_group_count(items, count):
    """Number of groups, a power of two, at which the two passes of grouped_topk cost least.

    They cost about the same there: the first pass searches `groups` maxima, the second one
    count * items / groups scores.
    """
    return 1 << round(math.log2(max(count * items, 1)) / 2)


def stable_topk(scores, k, groups):
    """torch.topk over the last axis, but ties in the order of the index. Returns (values, indices).

    scores (b, I)
    k: list length
    groups: see grouped_topk; it divides I
    """
    # One more than k shows whether equal scores cross the end of the list.
    values, indices = grouped_topk(scores, min(k + 1, scores.shape[1]), groups)  # (b, k + 1)
    if values.shape[1] > k:
        crossing = (values[:, k - 1] == values[:, k]) & (values[:, k] > -torch.inf)
        # Such rows need a stable sort of all scores, to keep the lower indices.
        if crossing.any():
            ordered = scores[crossing].sort(stable=True, descending=True)
            values[crossing] = ordered.values[:, : k + 1]
            indices[crossing] = ordered.indices[:, : k + 1]
    values, indices = values[:, :k], indices[:, :k]

    # Inside the list: sort by index, then stably by value.
    indices, order = indices.sort()
    values, second = values.gather(1, order).sort(stable=True, descending=True)
    return values, indices.gather(1, second)


def grouped_topk(scores, count, groups):
    """torch.topk over the last axis, reading the scores once. Returns (values, indices).

    Ties are in any order. Columns that are equal modulo `groups` are a group. The groups with the
    `count` largest maxima contain the `count` largest scores, or scores equal to them.

    scores (b, I)
    count: scores per row
    groups: number of groups, G; it divides I
    """
    if groups <= count:
        return scores.topk(count)
    # First pass: the groups with the largest maxima.
    maxima = scores.view(len(scores), -1, groups).amax(1)  # (b, I / G, G) -> (b, G)
    chosen = maxima.topk(count, sorted=False).indices  # (b, count)
    # Second pass: the largest scores in these groups.
    first = torch.arange(0, scores.shape[1], groups, device=scores.device)
    members = (chosen[:, None] + first[:, None]).flatten(1)  # (b, I / G * count)
    values, place = scores.gather(1, members).topk(count)
    return values, members.gather(1, place)


def rank_of(scores, row, item):
    """Ranks (m,), from 1 for the best, of the scores at (row, item) in their rows.

    Of equal scores, the one with the lower index comes first.

    scores (b, I)
    row (m,): in ascending order
    item (m,)
    """
    # Arrange the pairs' scores by row, (b, the most pairs of a row), for one search per row.
    column = torch.arange(len(row), device=row.device) - torch.searchsorted(row, row)
    wanted = scores.new_zeros(len(scores), column.max() + 1)
    wanted[row, column] = scores[row, item]

    # Bisection in the sorted row counts the lower scores, and those not higher.
    ordered = sorted_rows(scores)
    lower, not_higher = (
        torch.searchsorted(ordered, wanted, side=side)[row, column] for side in ("left", "right")
    )
    ranks = scores.shape[1] - not_higher + 1

    # Rows with ties need a stable sort.
    tied = not_higher - lower > 1
    if tied.any():
        rows, row_of_tied = row[tied].unique(return_inverse=True)
        order = scores[rows].argsort(stable=True, descending=True)
        ranks[tied] = order.argsort()[row_of_tied, item[tied]] + 1
    return ranks


def sorted_rows(scores):
    """The rows of (b, I) in ascending order. On a CPU NumPy sorts eight times as fast as torch."""
    return scores.sort().values if scores.is_cuda else torch.from_numpy(np.sort(scores.numpy()))
