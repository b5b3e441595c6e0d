"""Users who were not in the training: their encodings, from a file of their interactions.

Shapes: n rows of the file, U its users, I the items of the training.
"""

import logging

import numpy as np
import pandas as pd
import torch

from cli.errors import UserError
from inference.cold import trained_users
from sources.filters import rated_at_least
from sources.interactions import pair_matrix
from sources.numbering import number_ids

log = logging.getLogger("onebp")


def new_users(model, data, rows, choice):
    """Encode the users of a file of interactions.

    model: trained on `data`
    data: Interactions
    rows (sources.readers.Rows): of the file
    choice (Choice): what counts, as in the training; uses min_rating and repeats

    Returns the users' ids (U,), a scorer that takes users by their index in the ids, and a list
    with the csr_array (U, I) of their interactions.

    The interactions count in the order of their times or, if one is missing, of the file.
    Those with items out of `data` are left out, with a warning. Raises UserError if none is left,
    if a rating that is needed is missing, or if the model has no rule for new users.
    """
    path = rows.source
    if not len(rows):
        raise UserError(f"{path} has no rows")
    user_ids, (user_index,) = number_ids([rows.users], "user", [path])
    user_index, places = pd.factorize(user_index)  # by first appearance
    user_ids = [user_ids[place] for place in places]
    warn_of_trained(user_ids, data)
    item_ids, (items,) = number_ids([rows.items], "item", [path])
    item_index = pd.Index(data.item_ids).get_indexer(item_ids)[items]  # -1: not in `data`

    # Leave out what does not count, and bring the others into order.
    kept = rated_at_least(rows, choice.min_rating)
    if not kept.any():
        raise UserError(f"{path} has no rating of {choice.min_rating:g} or more, as the run has it")
    order = in_time(rows)
    order = order[kept[order]]
    user_index, item_index, items = user_index[order], item_index[order], items[order]

    # Leave out interactions with unknown items, then all but one of each pair.
    known = item_index >= 0
    if not known.any():
        raise UserError(
            f"{path} has no interaction with an item of {data.name}; "
            f"its ids are like {data.item_ids[0]!r}"
        )
    if not known.all():
        log.warning(
            "warning: %d of %d interactions left out: their items are unknown, for example %r",
            (~known).sum(),
            len(known),
            item_ids[items[~known][0]],
        )
    pairs = pd.DataFrame({"user": user_index[known], "item": item_index[known]})
    pairs = pairs.drop_duplicates(keep="first" if choice.repeats == "first" else "last")
    if n_empty := len(user_ids) - pairs["user"].nunique():
        log.warning(
            "warning: %d users have no known item that counts; their list is that of the mean user",
            n_empty,
        )

    # Encode the users.
    # Copies, as torch warns of arrays that are not writable.
    indices = [pairs[name].to_numpy(copy=True) for name in ("user", "item")]
    seen = pair_matrix(*indices, None, (len(user_ids), data.shape[1]))
    indices = (torch.as_tensor(i, dtype=torch.int64, device=model.device) for i in indices)
    encodings = model.encode_history(*indices, len(user_ids), trained_users(model))
    return user_ids, model.scorer().with_users(encodings), [seen]


def in_time(rows):
    """The places of all rows in the order of their times; rows of equal times keep theirs, (n,)."""
    gap = rows.gaps.get("unit") or rows.gaps.get("time", "")
    if rows.times is not None and not gap:
        log.info("%s: in the order of its times", rows.source)
        return np.argsort(rows.times, kind="stable")
    if rows.times is None:
        log.info("%s: in the order of its rows", rows.source)
    else:
        log.warning("warning: %s%s; so its rows count in their order", rows.source, gap)
    return np.arange(len(rows))


def warn_of_trained(user_ids, data):
    """Warn of users of the file who are in the training, where they have other encodings."""
    places = pd.Index(data.user_ids).get_indexer(user_ids)
    trained = (places >= 0) & (np.diff(data.train.indptr)[places] > 0)
    if trained.any():
        log.warning(
            "warning: %d of these users are in the training, for example %r; here they begin as "
            "new ones, with this history alone: --users lists what was trained",
            trained.sum(),
            user_ids[int(np.argmax(trained))],
        )
