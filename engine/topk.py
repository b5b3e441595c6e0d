"""The k largest scores of each row, and ranks of single items, exact also where scores are equal.

Shapes: b users of a block, m pairs of a block, I items, K list length.
"""

import math

import numpy as np
import torch


def topk_group_width(items, count):
    """Width of the groups for `largest`, a power of two: where its two searches, of like length, are shortest."""
    return 1 << round(math.log2(max(count * items, 1)) / 2)


def stable_topk(scores, k, width):
    """Like torch.topk over the last axis of (b, I), but with ties in the order of the index: (indices, values).

    width divides I, see `largest`.
    """
    # One more than asked for shows whether a tie crosses the end of the list; then only a whole stable sort is right.
    values, indices = grouped_topk(scores, min(k + 1, scores.shape[1]), width)  # (b, k+1)
    if values.shape[1] > k:
        crossing = (values[:, k - 1] == values[:, k]) & (values[:, k] > -torch.inf)
        if crossing.any():
            ordered = scores[crossing].sort(stable=True, descending=True)
            values[crossing], indices[crossing] = (
                ordered.values[:, : k + 1],
                ordered.indices[:, : k + 1],
            )
    values, indices = values[:, :k], indices[:, :k]
    # Inside the list: by index first, then stably by value.
    indices, order = indices.sort()
    values, second = values.gather(1, order).sort(stable=True, descending=True)
    return indices.gather(1, second), values


def grouped_topk(scores, count, width):
    """torch.topk over the last axis of (b, I), reading it once: (values, indices), ties in any order.

    The columns that are equal modulo `width` are a group. The `count` largest scores are all in the `count` groups with
    the largest maxima (or equal ones are).
    """
    if width <= count:
        return scores.topk(count)
    maxima = scores.view(len(scores), -1, width).amax(
        1
    )  # (b, I) -> (b, I / width, width) -> (b, width)
    groups = maxima.topk(count, sorted=False).indices  # (b, count)
    first = torch.arange(0, scores.shape[1], width, device=scores.device)
    members = (groups[:, None] + first[:, None]).flatten(
        1
    )  # (b, I / width, count) -> (b, I / width * count)
    values, place = scores.gather(1, members).topk(count)
    return values, members.gather(1, place)


def rank_of(scores, row, item):
    """Ranks (m,), from 1 for the best, of the scores (b, I) at (row, item); ties: the lower index first. row is sorted.

    A sorted row tells for a score how many are higher, by bisection.
    """
    place = torch.arange(len(row), device=row.device) - torch.searchsorted(
        row, row
    )  # among the pairs of its row
    own = scores.new_zeros(len(scores), place.max() + 1)  # (b, the most pairs of a row)
    own[row, place] = scores[row, item]
    ordered = sorted_rows(scores)
    below, upto = (
        torch.searchsorted(ordered, own, side=side)[row, place] for side in ("left", "right")
    )
    found = scores.shape[1] - upto + 1
    tied = upto - below > 1
    if tied.any():  # only a stable sort is right
        rows, of_rows = row[tied].unique(return_inverse=True)
        order = scores[rows].argsort(stable=True, descending=True)
        found[tied] = order.argsort()[of_rows, item[tied]] + 1
    return found


def sorted_rows(scores):
    """The rows of (b, I) in ascending order. On a CPU numpy's sort is eight times as fast as torch's."""
    return scores.sort().values if scores.is_cuda else torch.from_numpy(np.sort(scores.numpy()))
