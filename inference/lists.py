"""--mode evaluate --recommendations: judge lists that another program made.

Shapes: U users, I items, n rows of the file, b users of a block.
"""

import io
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_array

from cli.errors import UserError
from engine.tables import UserItems
from recommender import Recommender
from sources.files import text_of
from sources.tables import check_csv

log = logging.getLogger("onebp")

COLUMNS = "a header with user, item and, unless the rows of a user are in order, rank or score"


class Lists(Recommender):
    """Lists of a file --recommendations as a model, to be evaluated as one on the test split."""

    def __init__(self, data, args, device):
        """Raises UserError if the file cannot be read, see read_lists."""
        self.places = read_lists(args.recommendations, data)
        super().__init__(data, args, device)

    def make_evaluators(self):
        return {"test": super().make_evaluators()["test"]}

    def scorer(self):
        return ListScores(self.places, self.device)


class ListScores:
    """Scores of lists: minus the place in the user's list, from 1; -inf for other items.

    A scorer for the evaluators, see evaluate.DotProduct.
    """

    def __init__(self, places, device):
        """places: csr_array (U, I) of the items of each list, each with its place"""
        self.pairs, self.device = UserItems(places, device), device
        self.scores = torch.as_tensor(-places.data.astype(np.float32), device=device)

    def score(self, users, out):
        """Write the scores of `users` (b,) into out (b, I)."""
        row, place = self.pairs.places_of(users)
        out.fill_(-torch.inf)[row, self.pairs.indices[place].long()] = self.scores[place]


def read_lists(path, data):
    """Read a CSV file of lists: csr_array (U, I) with the places, from 1, of the items in them.

    path: has COLUMNS; by rank the lowest comes first, by score the highest, and of equal scores
        the lower item index
    data: Interactions; the ids are those of its files

    Users that the data set does not have are left out, with a warning; so are training items, as in
    every ranking, and validation items. Raises UserError, with the line, for a file that cannot be
    read, an unknown item, a pair that occurs twice, and a rank or score that is no number or, a
    rank, occurs twice.
    """
    table = read_table(path)
    users = pd.Index(data.user_ids).get_indexer(table["user"])  # (n,)
    items = pd.Index(data.item_ids).get_indexer(table["item"])
    refuse(path, table, items < 0, f"item {{item!r}} is not in {data.name}")
    refuse(path, table, table.duplicated(["user", "item"]), "user {user!r} has {item!r} twice")
    order = order_of(path, table)
    if unknown := int((users < 0).sum()):
        text = "warning: %d of %d rows are of users that %s does not have, as %r"
        log.warning(text, unknown, len(table), data.name, table["user"][users < 0].iloc[0])
    known = pd.DataFrame({"user": users, "order": order, "item": items})[users >= 0]

    # Say what no ranking has, and what counts as misses.
    listed = csr_array((np.ones(len(known)), (known["user"], known["item"])), data.shape)
    if seen := int(sum(listed.multiply(matrix != 0).nnz for matrix in data.seen("test"))):
        text = "warning: %d listed items are training or validation interactions: left out"
        log.warning(text, seen)
    lengths = np.diff(listed.indptr)[np.diff(data.test.indptr) > 0]
    if missing := int((lengths == 0).sum()):
        text = "warning: %d of %d users of the test split have no list: all metrics 0"
        log.warning(text, missing, len(lengths))
    log.info("%s: lists of %d users, of at most %d items", path, (lengths > 0).sum(), max(lengths))
    return places_of(known, data)


def read_table(path):
    """The file's rows, all texts, with the line of each as index. Raises UserError."""
    text, encoding = text_of(Path(path))
    if encoding != "UTF-8":
        raise UserError(f"{path} is not UTF-8 text; convert it")
    check_csv(path, text)
    try:
        table = pd.read_csv(io.StringIO(text), dtype=str, na_filter=False, skip_blank_lines=False)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is no CSV file with {COLUMNS} ({reason})") from None
    table.columns = [str(name).strip().lower() for name in table.columns]
    if missing := [name for name in ("user", "item") if name not in table]:
        found = ", ".join(table.columns)
        raise UserError(f"{path} has no column {missing[0]}, only {found}; it needs {COLUMNS}")
    table.index = pd.RangeIndex(2, len(table) + 2, name="line")
    table = table[(table != "").any(axis=1)]
    if table.empty:
        raise UserError(f"{path} has no lists")
    return table


def order_of(path, table):
    """Numbers (n,), float64, that order the items of each user's list, the lowest first."""
    kind = next((kind for kind in ("rank", "score") if kind in table), None)
    if kind is None:
        return np.arange(len(table), dtype=np.float64)
    values = pd.to_numeric(table[kind], errors="coerce").astype(np.float64)
    refuse(path, table, ~np.isfinite(values), f"{kind} {{{kind}!r}} is no number")
    if kind == "rank":
        twice = table.assign(rank=values).duplicated(["user", "rank"])
        refuse(path, table, twice, "user {user!r} has rank {rank} twice")
    return values.to_numpy() if kind == "rank" else -values.to_numpy()


def refuse(path, table, wrong, reason):
    """Raise UserError if a row is `wrong` (n,). reason: with the row's columns in braces"""
    if np.any(wrong):
        row = table[np.asarray(wrong)].iloc[0]
        count = f" (and {wrong.sum() - 1} more rows)" if wrong.sum() > 1 else ""
        raise UserError(f"{path}:{row.name}: {reason.format(**row)}{count}")


def places_of(rows, data):
    """csr_array (U, I) with the place of each item in the user's list, from 1.

    rows: table of user, order and item; user and item are indices
    """
    rows = rows.sort_values(["user", "order", "item"])
    places = rows.groupby("user").cumcount() + 1
    matrix = csr_array((places, (rows["user"], rows["item"])), data.shape)
    matrix.sort_indices()
    return matrix
