"""--mode describe: what is in a data set of interactions, in numbers.

Shapes: U users, I items, n users or items.
"""

import logging

import numpy as np

from reports.description import Description, text_of
from reports.description_figure import panels_of
from sources.interactions import SPLITS
from sources.periods import timeline
from sources.randomness import compare_with_random
from sources.values import spell_days

log = logging.getLogger("onebp")

QUANTILES = (0, 10, 25, 50, 75, 90, 100)  # per cent
RANKS = 100  # of the curves of popularity and activity


def describe(data):
    """The Description of Interactions."""
    numbers = numbers_of(data)
    return Description(numbers, text_of(numbers), panels_of(numbers))


def numbers_of(data):
    """All numbers of the description of Interactions, as JSON takes them; see datasets/README.md.

    data: Interactions; with Details also what these tell
    """
    splits = {split: getattr(data, split) for split in (*SPLITS, "tune")}
    splits = {
        split: matrix for split, matrix in splits.items() if matrix is not None and matrix.nnz
    }
    of_user = sum(np.diff(matrix.indptr) for matrix in splits.values()).astype(np.int64)
    of_item = sum(item_counts(matrix) for matrix in splits.values())
    size = int(of_user.sum())
    numbers = {
        "users": data.shape[0],
        "items": data.shape[1],
        "interactions": size,
        "density": size / (data.shape[0] * data.shape[1]),
        "rows": data.details.rows if data.details else None,
        "repeats": data.details.repeats if data.details else None,
        "interactions_of_users": distribution(of_user),
        "interactions_of_items": distribution(of_item),
        "gini_of_items": gini(of_item),
        "share_of_top_items": share_of_top(of_item),
        "ranked": {"users": ranked(of_user), "items": ranked(of_item)},
        "splits": {split: counts_of(matrix, data.train) for split, matrix in splits.items()},
        "time": times_of(data.details, splits) if data.details else None,
        "split": data.protocol.get("split"),
    }
    for split in ("valid", "test"):
        if split in splits:
            numbers[split] = compare_with_random(splits[split], data.seen(split))
    return numbers


def times_of(details, splits):
    """The sources.periods.timeline of the splits whose times are in Details; None without any."""
    times = {split: details.times[split] for split in splits if split in details.times}
    if times and all(spell_days(column, details.unit) for column in times.values()):
        text = "times as %d are taken as numbers, not as dates; write them as 2011-11-21"
        log.info(text, next(iter(times.values()))[0])
    return timeline(times, details.unit)


def item_counts(matrix):
    """Interactions (I,) of each item in a csr_array (U, I)."""
    return np.bincount(matrix.indices, minlength=matrix.shape[1])


def distribution(counts):
    """{"mean" or "<per cent> %": number}, where so many of the counts (n,) are at most this one."""
    values = np.percentile(counts, QUANTILES, method="inverted_cdf").astype(int).tolist()
    named = {f"{share} %": value for share, value in zip(QUANTILES, values, strict=True)}
    return {"mean": float(counts.mean()), **named}


def gini(counts):
    """The Gini coefficient of counts (n,): 0 if all are equal, (n - 1) / n if one has everything.

    It is the mean absolute difference of two counts, divided by twice their mean.
    """
    n = len(counts)
    weights = 2.0 * np.arange(1, n + 1) - n - 1
    return float(weights @ np.sort(counts) / (n * counts.sum()))


def share_of_top(counts):
    """The share of all interactions that the tenth of the items (n,) with the most of them has."""
    top = np.sort(counts)[-max(1, round(0.1 * len(counts))) :]
    return float(top.sum() / counts.sum())


def ranked(counts):
    """{"rank": [from 1], "interactions": [of this rank]} of some ranks, by falling counts (n,)."""
    rank = np.unique(np.geomspace(1, len(counts), RANKS).round().astype(int))
    return {"rank": rank.tolist(), "interactions": np.sort(counts)[::-1][rank - 1].tolist()}


def counts_of(matrix, train):
    """What a split has, and how much of it training does not know.

    matrix, train: csr_array (U, I)
    """
    users, items = np.diff(matrix.indptr) > 0, item_counts(matrix)
    cold_items = item_counts(train) == 0
    return {
        "interactions": matrix.nnz,
        "users": int(users.sum()),
        "items": int((items > 0).sum()),
        "cold_users": int((users & (np.diff(train.indptr) == 0)).sum()),
        "cold_items": int(((items > 0) & cold_items).sum()),
        "interactions_with_cold_items": int(items[cold_items].sum()),
    }
