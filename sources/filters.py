"""Which interactions count: ratings from a limit on, repeated pairs, k-core, pairs in two splits.

Shapes: U users, I items, n interactions.
"""

import logging
from dataclasses import dataclass

import numpy as np

from cli.errors import UserError

log = logging.getLogger("onebp")


@dataclass(frozen=True)
class Choice:
    """Which interactions of the files count, and how they are split; as the flags of these names.

    The defaults take all of them, and split at random.
    """

    split: str = "random"
    test_last: int = 1
    test_from: str | None = None
    min_rating: float | None = None
    min_user_interactions: int = 1
    min_item_interactions: int = 1
    repeats: str = "last"
    overlap: str = "refuse"
    cold_users: str = "keep"
    cold_items: str = "keep"

    @classmethod
    def of(cls, args):
        """The Choice of the flags `args`."""
        return cls(**{name: getattr(args, name) for name in cls.__dataclass_fields__})


DEFAULTS = Choice()


def counting(parsed, sources, choice, ratings, times=False):
    """The interactions that count. Returns (user_ids, item_ids, {split: Pairs}).

    parsed (Parsed): with ratings where `ratings` or choice.min_rating need them
    sources: {split: file}, for messages
    choice (Choice)
    ratings: whether the model learns from ratings, not from positives
    times: whether times are kept although no split needs them
    """
    pairs = dict(parsed.pairs)
    for split, part in pairs.items():
        if choice.min_rating is not None:
            pairs[split] = part = positives(part, choice.min_rating, sources[split])
        elif not ratings:
            _warn_of_zeros(part, sources[split])
        pairs[split] = without_repeats(part, choice.repeats)
        repeated = len(part) - len(pairs[split])
        if repeated and ratings:
            text = "warning: %s: %d ratings are replaced by %s ones of their pairs"
            other = "later" if choice.repeats == "last" else "earlier"
            log.warning(text, sources[split], repeated, other)
        elif repeated:
            text = "%s: %d of %d rows repeat a pair of user and item; the %s of each pair counts"
            log.info(text, sources[split], repeated, len(part), choice.repeats)
    times = times or choice.split != "random"
    pairs = {split: part.only(ratings, times) for split, part in pairs.items()}
    least = choice.min_user_interactions, choice.min_item_interactions
    if least != (1, 1):
        pairs = core(pairs, *least)
    if choice.min_rating is None and least == (1, 1):
        return parsed.user_ids, parsed.item_ids, pairs
    return without_unused(parsed.user_ids, parsed.item_ids, pairs)


def positives(pairs, least, source):
    """The interactions with a rating of at least `least`. source: their file, for messages"""
    with np.errstate(over="ignore"):  # a number beyond float32 is above all ratings
        kept = pairs.take(pairs.ratings >= least)
    log.info("%s: %d of %d rows have a rating of %g or more", source, len(kept), len(pairs), least)
    return kept


def rated_at_least(rows, least):
    """Which rows of a file (sources.readers.Rows) count by --min_rating, bool (n,).

    least: the value of --min_rating; None: all count. Raises UserError if a rating is missing.
    """
    if least is None:
        kept = np.ones(len(rows), bool)
    elif rows.ratings is None:
        raise UserError(
            f"{rows.source} has no ratings that are recognised, and the run has --min_rating "
            f"{least:g}: write them in the form of its data set"
        )
    elif np.isnan(rows.ratings).any():
        raise UserError(f"{rows.source}{rows.gaps['rating']}: the run has --min_rating {least:g}")
    else:
        kept = rows.ratings >= least
        text = "%s: %d of %d rows have a rating of %g or more"
        log.info(text, rows.source, kept.sum(), len(kept), least)
    return kept


def without_repeats(pairs, which):
    """The interactions, each pair of user and item once.

    pairs (Pairs)
    which: of a pair that occurs more than once, "last" or "first" keeps the interaction that is
        this by its time, or by its place in the file where times are equal or absent; "all"
        changes nothing
    """
    is_last = pairs.is_last()
    if which == "all" or is_last.all():
        return pairs
    # Number the pairs; sort the interactions of those that occur more than once.
    number = np.cumsum(is_last) - is_last
    sizes = np.bincount(number)
    repeated = np.flatnonzero(sizes[number] > 1)
    times = np.zeros(len(repeated)) if pairs.times is None else pairs.times[repeated]
    order = repeated[np.lexsort((pairs.places[repeated], times, number[repeated]))]
    ends = np.flatnonzero(np.diff(number[order], append=-1))
    chosen = ends if which == "last" else np.concatenate([[0], ends[:-1] + 1])
    kept = sizes[number] == 1
    kept[order[chosen]] = True
    return pairs.take(kept)


def core(pairs, least_of_user, least_of_item):
    """The interactions of users and items that have enough of them, counted over all splits.

    pairs: {split: Pairs}
    least_of_user, least_of_item: how many; repeated until both hold (k-core)
    """
    users = np.concatenate([part.users for part in pairs.values()])
    items = np.concatenate([part.items for part in pairs.values()])
    n_users, n_items = next(iter(pairs.values())).shape
    kept = np.arange(len(users))
    while True:
        enough_of_user = np.bincount(users[kept], minlength=n_users) >= least_of_user
        enough_of_item = np.bincount(items[kept], minlength=n_items) >= least_of_item
        stay = enough_of_user[users[kept]] & enough_of_item[items[kept]]
        if stay.all():
            break
        kept = kept[stay]
    mask = np.zeros(len(users), bool)
    mask[kept] = True
    ends = np.cumsum([len(part) for part in pairs.values()])[:-1]
    log.info(
        "at least %d interactions a user and %d an item: %d of %d interactions are left",
        least_of_user,
        least_of_item,
        len(kept),
        len(users),
    )
    return {
        split: part.take(own)
        for (split, part), own in zip(pairs.items(), np.split(mask, ends), strict=True)
    }


def in_both(first, second):
    """Mask over the interactions of the Pairs `second`: whether `first` has the pair, too."""
    n_items = second.n_items
    keys, known = (part.users.astype(np.int64) * n_items + part.items for part in (second, first))
    place = np.searchsorted(known, keys)
    place[place == len(known)] = 0
    return known[place] == keys if len(known) else np.zeros(len(keys), bool)


def without_unused(user_ids, item_ids, pairs):
    """The users and items that have interactions. Returns (user_ids, item_ids, pairs).

    pairs: {split: Pairs}
    """
    masks = zip(*(part.present() for part in pairs.values()), strict=True)
    return chosen(user_ids, item_ids, pairs, *map(np.logical_or.reduce, masks))


def chosen(user_ids, item_ids, pairs, users, items):
    """Some users and items, numbered from 0 again. Returns (user_ids, item_ids, pairs).

    pairs: {split: Pairs}
    users (U,), items (I,): masks of those that stay; all others have no interactions
    """
    return (
        [user_ids[index] for index in np.flatnonzero(users)],
        [item_ids[index] for index in np.flatnonzero(items)],
        {split: part.renumbered(users, items) for split, part in pairs.items()},
    )


def without_cold(user_ids, item_ids, pairs, choice):
    """Leave out users or items that the split train does not have, as flags say.

    Leaving out users leaves all items: they are candidates, whoever had them.

    pairs: {split: Pairs}
    choice (Choice)

    Returns (user_ids, item_ids, pairs, one line that counts both for the test split).
    """
    train, test = pairs["train"], pairs["test"]
    users, items = train.present()
    cold_users = len(np.unique(test.users[~users[test.users]]))
    cold_items = len(np.unique(test.items[~items[test.items]]))
    drop_users, drop_items = choice.cold_users == "drop", choice.cold_items == "drop"
    ways = ["left out" if drop else "kept" for drop in (drop_users, drop_items)]
    said = (
        f"{cold_users} users ({ways[0]}) and {cold_items} items ({ways[1]}) of the test split are "
        "not in training"
    )
    if not (drop_users or drop_items):
        return user_ids, item_ids, pairs, said
    users |= not drop_users
    items |= not drop_items
    kept = {"train": train}
    for split in [split for split in pairs if split != "train"]:
        part = pairs[split]
        kept[split] = part.take(users[part.users] & items[part.items])
        text = "%s: %d of %d interactions are left out, whose user or item training does not know"
        log.info(text, split, len(part) - len(kept[split]), len(part))
    log.info("%s", said)
    return *chosen(user_ids, item_ids, kept, users, items), said


def _warn_of_zeros(pairs, source):
    """Say how many interactions are positives if there are ratings of 0 or less."""
    if pairs.ratings is None or not (zeros := int(np.sum(pairs.ratings <= 0))):
        return
    least = np.min(pairs.ratings, where=pairs.ratings > 0, initial=np.inf)
    advice = f"; --min_rating {least:g} takes the others only" if np.isfinite(least) else ""
    text = (
        "warning: %s: all %d rows are taken as positives, %d of them with a rating of 0 or less%s"
    )
    log.warning(text, source, len(pairs), zeros, advice)
