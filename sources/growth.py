"""The data set of an update: what a data set has gained since a run was trained on it.

Users and items are matched by their ids, interactions as pairs of them.
Shapes: U users, I items, n pairs.
"""

from dataclasses import replace

import numpy as np
import pandas as pd

from cli.errors import UserError
from sources.filters import rated_at_least
from sources.interactions import SPLITS, Update, digest_of, pair_matrix
from sources.numbering import number_ids, sort_ids


def places_of(ids, others):
    """The place of each of `ids` in `others`, -1 if it is not there, (len(ids),)."""
    return pd.Index(others).get_indexer(pd.Index(ids))


def with_interactions(data, rows, choice):
    """`data` (Interactions) with the interactions of a file in its training split.

    rows (sources.readers.Rows)
    choice (Choice): uses min_rating and overlap; of a pair in valid or test, overlap decides

    Raises UserError if a rating is missing, or if a pair is in another split and may not be.
    """
    own = [number_ids([column], what, [rows.source]) for column, what in _columns(rows)]
    kept = rated_at_least(rows, choice.min_rating)
    ids, places, old = [], [], []
    for (own_ids, (numbers,)), known in zip(own, (data.user_ids, data.item_ids), strict=True):
        ids.append(sort_ids(list(dict.fromkeys([*known, *own_ids]))))
        places.append(places_of(own_ids, ids[-1])[numbers[kept]])
        old.append(places_of(known, ids[-1]))
    shape = tuple(map(len, ids))
    matrices = {split: _renumbered(getattr(data, split), *old, shape) for split in SPLITS}
    new = pair_matrix(*places, None, shape)
    for split in ("valid", "test"):
        both = np.intersect1d(_keys(new), _keys(matrices[split]))
        if len(both) and choice.overlap == "refuse":
            user, item = (ids[axis][part] for axis, part in enumerate(divmod(both[0], shape[1])))
            raise UserError(
                f"{rows.source}: user {user!r} with item {item!r} (of {len(both):,} such pairs) is "
                f"in the {split} split; leave them out of it by --overlap drop"
            )
        matrices[split] = _of_keys(np.setdiff1d(_keys(matrices[split]), both), shape)
    matrices["train"] = _of_keys(np.union1d(_keys(matrices["train"]), _keys(new)), shape)
    return _with_splits(data, ids, matrices)


def grown(before, now, parent):
    """The data set `now` of an update of a run that was trained on `before`.

    before, now: Interactions
    parent: name of the run

    A split that is drawn at random stays: what was in it before is in it again, and so is what
    training had. Only interactions that are new are divided as `now` divides them. Raises
    UserError if training interactions are gone, or if there are no new ones.
    """
    users, items = (
        places_of(before.user_ids, now.user_ids),
        places_of(before.item_ids, now.item_ids),
    )
    lost = np.isin(before.train.nonzero()[0], np.flatnonzero(users < 0))
    lost |= np.isin(before.train.indices, np.flatnonzero(items < 0))
    if lost.any():
        raise _gone(before, np.flatnonzero(lost), now, parent)

    # The number of the split that each pair is in now, and that it was in before (-1: in none).
    width = now.shape[1]
    keys = [_keys(getattr(now, split)) for split in SPLITS]
    pairs = np.concatenate(keys)
    label = np.repeat(np.arange(len(SPLITS)), list(map(len, keys)))
    earlier = np.full(len(pairs), -1)
    order = np.argsort(pairs)
    for number, split in enumerate(SPLITS):
        rows, columns = getattr(before, split).nonzero()
        old = users[rows].astype(np.int64) * width + items[columns]
        old = old[(users[rows] >= 0) & (items[columns] >= 0)]
        place = np.searchsorted(pairs, old, sorter=order).clip(max=len(pairs) - 1)
        found = order[place]
        earlier[found[pairs[found] == old]] = number

    drawn = np.array([False, *(f"{split}: a random" in _said(now) for split in SPLITS[1:])])
    train = SPLITS.index("train")
    stays = (earlier >= 0) & (drawn[earlier] | ((earlier == train) & drawn[label]))
    label = np.where(stays, earlier, label)
    kept = pairs[(earlier == train) & (label == train)]
    if len(kept) < before.train.nnz:
        rows, columns = before.train.nonzero()
        old = users[rows].astype(np.int64) * width + items[columns]
        raise _gone(before, np.flatnonzero(~np.isin(old, kept)), now, parent)
    new = pairs[(earlier != train) & (label == train)]
    if not len(new):
        raise UserError(
            f"nothing new: {parent} was trained on every training interaction of {now.name}; "
            "add some to its files, or give others by --update_from"
        )
    matrices = {
        split: _of_keys(pairs[label == number], now.shape) for number, split in enumerate(SPLITS)
    }
    data = _with_splits(now, (now.user_ids, now.item_ids), matrices)
    return replace(data, update=Update(parent, _of_keys(new, now.shape)))


def _columns(rows):
    return (rows.users, "user"), (rows.items, "item")


def _said(data):
    """How the splits of `data` were made."""
    return data.protocol.get("split", "")


def _gone(before, places, now, parent):
    """The UserError for training interactions that are gone. places: of them in before.train"""
    user = before.user_ids[before.train.nonzero()[0][places[0]]]
    item = before.item_ids[before.train.indices[places[0]]]
    return UserError(
        f"{len(places):,} of the {before.train.nnz:,} interactions that {parent} was trained on "
        f"are no training interactions of {now.name} now, the first of user {user!r} with item "
        f"{item!r}: put them back, or train anew"
    )


def _keys(matrix):
    """A number for each pair of a csr_array (U, I), ascending, (n,) int64."""
    users = np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))
    return users * matrix.shape[1] + matrix.indices


def _of_keys(keys, shape):
    """csr_array of the pairs with these numbers."""
    return pair_matrix(*np.divmod(keys, shape[1]), None, shape)


def _renumbered(matrix, users, items, shape):
    """The same pairs with other numbers. users (U,), items (I,): the new number of each"""
    rows, columns = matrix.nonzero()
    return pair_matrix(users[rows], items[columns], None, shape)


def _with_splits(data, ids, matrices):
    """`data` with other ids (user_ids, item_ids) and splits."""
    digest = digest_of(*ids, matrices)
    names = dict(zip(("user_ids", "item_ids"), ids, strict=True))
    return replace(data, **names, **matrices, digest=digest, details=None)
