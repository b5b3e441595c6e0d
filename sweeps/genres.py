"""Study whether the encodings of items reflect their genres.

It finds the items nearest to the mean encoding of a genre, and draws all items in two dimensions.
Shapes: I items, D dim.
"""

import logging
from pathlib import Path

import numpy as np
import pandas as pd

import families
from checkpointing.files import load_checkpoint
from checkpointing.resume import explain_mismatch
from cli.errors import UserError
from cli.text import Multiline
from reports.figures import Points, save_figure
from sources.titles import item_titles
from utils import choose_device, write_csv

log = logging.getLogger("onebp")


NEAREST = (5, 10, 20, 50)  # lengths k of the lists of nearest items
MEASURES = ("precision", "recall", "F1")
MEAN = "(mean)"  # in place of a genre: the mean over the genres
SHOWN_GENRES = 6  # genres in the figure


def item_genres(data, data_dir):
    """Return the genres of all items, a Series of texts like "Comedy|Drama" ("": unknown).

    Raises UserError if too few are known.
    """
    titles = item_titles(data, data_dir)
    if titles is None or (titles["genres"] != "").sum() < min(NEAREST):
        folder = Path(data_dir) / data.name
        raise UserError(
            f"{data.name} has no genres of its items, or too few: put items.csv with the columns "
            f"item_id, title and genres into {folder} "
            "(100k and 1M: MovieLens' folder ml-100k or ml-1m beside it)"
        )
    return titles["genres"]


def study_genres(trials, data, genres, folder):
    """Write genres.csv and study.png, and log their content.

    trials: finished runs. The model of the first one is also shown before training.
    data: Interactions
    genres: of all items, from `item_genres`
    folder: of the study
    """
    known = (genres != "").to_numpy()
    member = genres[known].str.get_dummies("|").astype(bool)  # (items, genres)
    tables, first_encodings = [], {}
    for trial in trials:
        # The encodings to compare, with their checkpoint.
        checkpoints = {trial.args.model: trial.checkpoints / "best.pt"}
        if trial.args.model == trials[0].args.model:
            checkpoints = {"before training": None, **checkpoints}
        for name, checkpoint in checkpoints.items():
            encodings = item_encodings(data, trial.args, checkpoint)[known]  # (items, D)
            table = nearest_items(encodings, member)
            table.insert(0, "encodings", name)
            table.insert(1, "seed", trial.args.seed)
            tables.append(table)
            first_encodings.setdefault(name, encodings)
    table = pd.concat(tables, ignore_index=True)
    write_csv(folder / "genres.csv", table)

    # Draw the encodings of the first seed.
    first_genre = genres[known].str.split("|").str[0]
    title = (
        f"{data.name}, seed 1: items by their first genre, directions of their encodings, "
        "two principal components"
    )
    panels = [Points(name, *project(x, first_genre)) for name, x in first_encodings.items()]
    save_figure(folder / "study.png", title, panels)
    log_genres(table, list(first_encodings))
    log.info("%s: genres.csv, study.png", folder)


def item_encodings(data, args, checkpoint):
    """Return the encodings of all items, an array (I, D).

    data: Interactions
    args: flags of the run
    checkpoint: file to load; None: before training
    """
    model = families.model_class(args)(data, args, choose_device(args.device))
    if checkpoint:
        state = load_checkpoint(checkpoint)
        with explain_mismatch(checkpoint):
            model.load_weights(state["model"])
    return model.encodings()[1].cpu().numpy()


def nearest_items(encodings, member):
    """Count how many of the k items nearest to a genre's mean encoding belong to the genre.

    encodings (items, D)
    member (items, genres): table of bool

    Nearest is by cosine; ties go to the lower index. With h items of the genre among the k, and n
    in all: precision = h/k, recall = h/n, F1 = 2h/(k+n).
    Returns a table with a row per genre and k; rows of the genre MEAN are means over the genres.
    """
    # Sort the items by their cosine with each mean. The mean's length does not change the order.
    belongs = member.to_numpy().T  # (genres, items)
    size = belongs.sum(axis=1)  # (genres,)
    means = (belongs / size[:, None]) @ encodings  # (genres, D)
    order = np.argsort(-means @ directions(encodings).T, axis=1, kind="stable")  # (genres, items)

    # Count the hits in the first k.
    hits = np.take_along_axis(belongs, order, axis=1).cumsum(axis=1)
    tables = []
    for k in [k for k in NEAREST if k <= len(encodings)]:
        h = hits[:, k - 1]
        measures = {"precision": h / k, "recall": h / size, "F1": 2 * h / (k + size)}
        tables.append(pd.DataFrame({"genre": member.columns, "items": size, "k": k, **measures}))
        means_over_genres = {name: [values.mean()] for name, values in measures.items()}
        tables.append(pd.DataFrame({"genre": [MEAN], "k": k, **means_over_genres}))
    return pd.concat(tables, ignore_index=True)


def directions(encodings):
    """Scale encodings (n, D) to length 1. Encodings of length 0 stay 0."""
    return encodings / np.maximum(np.linalg.norm(encodings, axis=1, keepdims=True), 1e-30)


def project(encodings, genres):
    """Project items on the two principal components of the directions of their encodings.

    encodings (n, D)
    genres (n,): Series of one genre per item; only items of the SHOWN_GENRES most frequent are used

    Returns {genre: points (m, 2)}, and the two components' fractions of the variance.
    """
    frequent = genres.value_counts().index[:SHOWN_GENRES]
    shown = genres.isin(frequent)
    x = directions(encodings[shown])
    x = x - x.mean(axis=0)
    _, length, axes = np.linalg.svd(x, full_matrices=False)
    points = x @ axes[:2].T  # (shown items, 2)
    points = {genre: points[genres[shown] == genre] for genre in frequent}
    return points, length[:2] ** 2 / (length**2).sum()


def log_genres(table, columns):
    """Log two tables of means over the seeds: the longest lists by genre, and means over genres.

    table: rows of `nearest_items`, with columns encodings and seed
    columns: names of the encodings, in order
    """
    longest = table["k"].max()
    tables = {
        f"The {longest} items nearest (cosine) to the mean encoding of a genre": (
            table[table["k"] == longest],
            "genre",
        ),
        "The k nearest, means over the genres": (table[table["genre"] == MEAN], "k"),
    }
    for title, (rows, index) in tables.items():
        means = rows.pivot_table(list(MEASURES), index, "encodings", sort=False)
        means = means[[(measure, column) for measure in MEASURES for column in columns]]
        log.info("%s:\n\n%s\n", title, Multiline(means.to_string(float_format="%.3f")))
