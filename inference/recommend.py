"""What one does with a trained model: score it again, recommend items, export its encodings."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cli.errors import UserError
from engine.tables import UserItems
from evaluate import DotProduct, top_items
from sources.interactions import pair_matrix
from sources.readers import read_interactions
from sources.titles import item_titles
from utils import atomic_file

log = logging.getLogger("onebp")


def recommend(model, data, args):
    """Write or print the table user, rank, item, score[, title] for --users or for the users of --history."""
    if args.output and Path(args.output).is_dir():
        raise UserError(f"--output {args.output} is a folder; give the name of a file")
    if args.history:
        names, scorer, seen = new_users(model, data, args.history)
        users = torch.arange(len(names), device=model.device)
    else:
        names, users = data.user_ids, chosen_users(args.users, data, model.device)
        scorer, seen = model.scorer(), data.seen("test")
    seen = [] if args.keep_seen else [UserItems(part, model.device) for part in seen if part.nnz]
    table = recommendations(scorer, data.shape[1], users, seen, args.topk)
    titles = item_titles(data, args.data_dir)
    if titles is not None:
        table["title"] = titles["title"].to_numpy()[table["item"]]
    table["user"] = np.array(names, dtype=object)[table["user"]]
    table["item"] = np.array(data.item_ids, dtype=object)[table["item"]]
    if args.output is None:
        log.info("%s", table.to_string(index=False, float_format="%.4f"))
        return
    with atomic_file(Path(args.output), "w", newline="", encoding="utf-8") as file:
        table.to_csv(file, index=False)
    log.info("%d recommendations for %d users in %s", len(table), len(users), args.output)


def recommendations(scorer, n_items, users, seen, k):
    """Of `n_items` items the best k for users (n,), none of `seen`: a table of user, rank (from 1), item and score."""
    columns = {"user": [], "rank": [], "item": [], "score": []}
    for block, items, scores in top_items(scorer, n_items, users, seen, min(k, n_items)):
        kept = scores > -torch.inf  # (b, k); a user may have fewer than k items left
        row, rank = kept.nonzero(as_tuple=True)
        for name, values in zip(
            columns, (block[row], rank + 1, items[kept], scores[kept]), strict=True
        ):
            columns[name].append(values.cpu().numpy())
    return pd.DataFrame({name: np.concatenate(values) for name, values in columns.items()})


def chosen_users(text, data, device):
    """Indices of the users that `text` names, ids separated by commas or `all`. Raises UserError for an unknown one."""
    if text == "all":
        return torch.arange(data.shape[0], device=device)
    index = {user: number for number, user in enumerate(data.user_ids)}
    wanted = [name.strip() for name in text.split(",")]
    if unknown := [name for name in wanted if name not in index]:
        raise UserError(
            f"{data.name} has no user {unknown[0]!r}; its ids are like {data.user_ids[0]!r}"
        )
    return torch.tensor([index[name] for name in dict.fromkeys(wanted)], device=device)


def new_users(model, data, path):
    """Users that the model was not trained on, from a file of their interactions: (ids, scorer, [their pairs]).

    Interactions with items that the model does not know are left out, with a warning. Raises UserError where the file
    cannot be read, nothing is left of it, or the model has no rule for new users.
    """
    users, items, _ = read_interactions(Path(path))
    place, names = pd.factorize(users)
    known = pd.Index(data.item_ids).get_indexer(items)  # -1 for an unknown one
    here = known >= 0
    if not here.any():
        raise UserError(
            f"{path} has no interaction with an item of {data.name}; its ids are like {data.item_ids[0]!r}"
        )
    if not here.all():
        example = items[~here][0]
        log.warning(
            "warning: %d of %d interactions left out: no item %r, say",
            (~here).sum(),
            len(here),
            example,
        )
    place, known = place[here], known[here]
    if empty := len(names) - len(np.unique(place)):
        log.warning(
            "warning: %d users have no known item; their list is that of the mean user", empty
        )
    own = pair_matrix(place, known, None, (len(names), data.shape[1]))
    place, known = (
        torch.as_tensor(index, dtype=torch.int64, device=model.device) for index in (place, known)
    )
    scorer = DotProduct(model.encode_history(place, known, len(names)), model.encodings()[1])
    return names, scorer, [own]
