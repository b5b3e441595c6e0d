"""How far a split is from a random one of each user's interactions.

If h of a user's d interactions are held out at random, each is with probability p = h / d. The
users are independent, so the number of an item's interactions that are held out has the mean
sum p and the variance sum p (1 - p), over the item's users.

Shapes: U users, I items, G groups of items.
"""

import numpy as np

BLOCK = 1 << 22  # interactions processed together
GROUPS = 10
SURE = 4  # standard deviations that random splits do not reach
# What is too little to matter: of the variance ratio, and of a share, relative to it.
SMALL_RATIO, SMALL_SHARE = 0.1, 0.02


def compare_with_random(held, rest, groups=GROUPS):
    """Compare a split with a random one of the same users.

    held: csr_array (U, I), whose entries are the interactions held out
    rest: [csr_array (U, I)] of all other interactions
    groups: of items by popularity, see `popularity_groups`

    Returns a dictionary:
        variance_ratio: mean over items of (held out - mean)^2 / variance, about 1 if random; None
            if no item can be held out by chance
        variance_ratio_error: its standard deviation in random splits
        groups: [dictionary of `group_numbers`, and the group's variance_ratio], the least popular
            items first
        popular_items: whether those of the last group are held out "more" or "less" than in random
            splits, or "alike"
        like_random: whether all of that is what random splits show; None if the ratio is None
        undivided: share of the interactions held out whose users have no others; they show nothing
    """
    degree = sum(np.diff(matrix.indptr) for matrix in (held, *rest))
    p = np.diff(held.indptr) / np.maximum(degree, 1)

    # Sums over each item's users. `fourth` is the fourth cumulant of the number held out.
    n_items = held.shape[1]
    counts = np.zeros(n_items, np.int64)
    mean, variance, fourth = (np.zeros(n_items) for _ in range(3))
    of_one = p * (1 - p)
    for matrix in (held, *rest):
        for users, items in blocks(matrix):
            counts += np.bincount(items, minlength=n_items)
            mean += np.bincount(items, p[users], n_items)
            variance += np.bincount(items, of_one[users], n_items)
            fourth += np.bincount(items, (of_one * (1 - 6 * of_one))[users], n_items)
    held_out = np.bincount(held.indices, minlength=n_items)

    # (held out - mean)^2 / variance has the mean 1 and the variance 2 + fourth / variance^2. It is
    # left open for items that are held out for sure, or never.
    free = variance > 1e-9
    squares = np.full(n_items, np.nan)
    squares[free] = (held_out - mean)[free] ** 2 / variance[free]
    of_squares = 2 + fourth[free] / variance[free] ** 2
    error = float(np.sqrt(of_squares.sum()) / free.sum()) if free.any() else None

    group = popularity_groups(counts, groups)
    by_user = interactions_by_group((held, *rest), group)
    rows = [
        group_numbers(group == number, counts, held_out, mean, by_user[:, number], degree, p)
        | {"variance_ratio": mean_of(squares[group == number])}
        for number in range(by_user.shape[1])
    ]
    ratio = mean_of(squares)
    popular = compare_shares(rows[-1])
    near = error is not None and abs(ratio - 1) < max(SURE * error, SMALL_RATIO)
    return {
        "variance_ratio": ratio,
        "variance_ratio_error": error,
        "popular_items": popular,
        "like_random": None if error is None else near and popular == "alike",
        "undivided": float(np.diff(held.indptr)[p == 1].sum() / held.nnz),
        "groups": rows,
    }


def blocks(matrix):
    """Yield (users, items) of some million interactions of a csr_array at a time."""
    for start in range(0, matrix.nnz, BLOCK):
        stop = min(start + BLOCK, matrix.nnz)
        first, last = np.searchsorted(matrix.indptr, [start, stop - 1], side="right") - 1
        sizes = np.diff(np.clip(matrix.indptr[first : last + 2], start, stop))
        yield np.repeat(np.arange(first, last + 1), sizes), matrix.indices[start:stop]


def popularity_groups(counts, groups=GROUPS):
    """The group (I,) of each item, from 0, the least popular; -1 for items without interactions.

    counts (I,): interactions of each item
    groups: how many at most; they have about equal numbers of interactions. Items of equal counts
        share one, so that nothing but popularity decides.
    """
    interactions = np.bincount(counts) * np.arange(int(counts.max()) + 1)
    middle = np.cumsum(interactions) - interactions / 2
    group = (groups * middle / max(interactions.sum(), 1)).astype(np.int64)
    # Number those that have items.
    used = np.unique(group[interactions > 0])
    return np.where(counts > 0, np.searchsorted(used, group)[counts], -1)


def interactions_by_group(matrices, group):
    """Interactions (U, G) of each user with the items of each group, in all of some csr_arrays."""
    n_groups = int(group.max()) + 1
    counts = np.zeros((matrices[0].shape[0], n_groups), np.int64)
    for matrix in matrices:
        for users, items in blocks(matrix):
            own = slice(int(users[0]), int(users[-1]) + 1)
            places = (users - own.start) * n_groups + group[items]
            size = (own.stop - own.start) * n_groups
            counts[own] += np.bincount(places, minlength=size).reshape(-1, n_groups)
    return counts


def group_numbers(own, counts, held_out, mean, by_user, degree, p):
    """Numbers of a group of items, a dictionary.

    own: mask (I,) of the items
    counts, held_out, mean (I,): of each item its interactions, those held out, and the mean of the
        latter in random splits
    by_user (U,): interactions of each user with the group
    degree, p (U,): interactions of each user, and the share that is held out

    Of the dictionary: least, most: interactions of an item; share: of the interactions, held out;
    share_if_random, share_error: its mean and standard deviation in random splits.
    """
    interactions, out = int(counts[own].sum()), int(held_out[own].sum())
    # How many of a user's interactions with the group are held out is hypergeometric.
    share = by_user / np.maximum(degree, 1)
    variance = degree**2 / np.maximum(degree - 1, 1) * p * (1 - p) * share * (1 - share)
    return {
        "items": int(own.sum()),
        "least": int(counts[own].min()),
        "most": int(counts[own].max()),
        "interactions": interactions,
        "held_out": out,
        "share": out / interactions,
        "share_if_random": float(mean[own].sum() / interactions),
        "share_error": float(np.sqrt(variance.sum()) / interactions),
    }


def compare_shares(group):
    """Whether a group is held out "more" or "less" than in random splits, or "alike"."""
    difference = group["share"] - group["share_if_random"]
    limit = max(SURE * group["share_error"], SMALL_SHARE * group["share_if_random"])
    return "alike" if abs(difference) <= limit else "more" if difference > 0 else "less"


def mean_of(values):
    """The mean of those that are not nan; None if all are."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
