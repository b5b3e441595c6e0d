"""--mode recommend: the best items for chosen users, or for new users with a history.

Shapes: n users, b users of a block, K list length.
"""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cli.errors import UserError
from cli.text import Multiline
from engine.tables import UserItems
from evaluate import top_items
from inference.cold import scorer_in_use
from inference.history import new_users
from inference.users import chosen_users, describe_users
from sources.columns import wanted_of
from sources.filters import Choice
from sources.readers import read_more
from sources.titles import item_titles
from utils import output_file

log = logging.getLogger("onebp")


def recommend(model, data, args):
    """Print, or write to --output, a table with the columns user, rank, item, score and title.

    A row is an item recommended to a user. The users are those of --users, or new users from the
    file --history. The column title is left out if no titles are known.

    model: with the weights to use
    data: Interactions
    args: flags; uses users, history, topk, keep_seen, output, safe_csv and data_dir

    Raises UserError for an unknown user, an unreadable history, or a folder as --output.
    """
    if args.output and Path(args.output).is_dir():
        raise UserError(f"--output {args.output} is a folder; give the name of a file")
    if args.history:
        rows = read_more(args.history, wanted_of(args))
        names, scorer, seen = new_users(model, data, rows, Choice.of(args))
        users = torch.arange(len(names), device=model.device)
    else:
        names, users = data.user_ids, chosen_users(args.users, data, model.device)
        scorer, seen = scorer_in_use(model, users), data.seen("test")
    matrices = [] if args.keep_seen else [matrix for matrix in seen if matrix.nnz]
    seen = [UserItems(matrix, model.device) for matrix in matrices]
    table = recommendations(scorer, data.shape[1], users, seen, args.topk)
    if len(without := np.setdiff1d(users.cpu().numpy(), table["user"])):
        text = "no item is left for %s: all %d items are seen; --keep_seen lists them"
        log.info(text, describe_users([names[user] for user in without]), data.shape[1])

    # Replace indices by ids, and add the titles.
    titles = item_titles(data, args.data_dir)
    if titles is not None:
        table["title"] = titles["title"].to_numpy()[table["item"]]
    table["user"] = np.array(names, dtype=object)[table["user"]]
    table["item"] = np.array(data.item_ids, dtype=object)[table["item"]]

    if args.safe_csv:
        texts = [name for name in ("user", "item", "title") if name in table]
        table[texts] = table[texts].map(safe_cell)
    if args.output is None and not table.empty:
        log.info("%s", Multiline(table.to_string(index=False, float_format="%.4f")))
    if args.output is None:
        return
    with output_file(args.output, newline="", encoding="utf-8") as file:
        table.to_csv(file, index=False)
    log.info("%d recommendations for %d users in %s", len(table), len(users), args.output)


def safe_cell(text):
    """The text with an apostrophe in front if a spreadsheet would take it for a formula.

    Source: OWASP, CSV Injection.
    """
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def recommendations(scorer, n_items, users, seen, k):
    """Find the k items with the highest scores for each user.

    scorer: scores of n_items items, see evaluate.DotProduct
    users (n,): their indices
    seen: list of UserItems to leave out
    k: list length; a list is shorter if fewer unseen items are left

    Returns a table with the columns user, rank (place in the list, from 1), item and score. Users
    and items are indices.
    """
    columns = {"user": [], "rank": [], "item": [], "score": []}
    for block, items, scores in top_items(scorer, n_items, users, seen, min(k, n_items)):
        listed = scores > -torch.inf  # (b, K); -inf: no item is left
        row, place = listed.nonzero(as_tuple=True)
        found = block[row], place + 1, items[listed], scores[listed]
        for column, values in zip(columns.values(), found, strict=True):
            column.append(values.cpu().numpy())
    return pd.DataFrame({name: np.concatenate(values) for name, values in columns.items()})
