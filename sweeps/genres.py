"""Do the items' encodings tell their genres? The items nearest to a genre's mean, and all of them in two dimensions."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd

import families
from checkpointing.files import load_checkpoint
from cli.errors import UserError
from reports.figures import Points, save_figure
from sources.titles import item_titles
from utils import choose_device, write_csv

log = logging.getLogger("onebp")


NEAREST = (5, 10, 20, 50)
MEASURES = ("precision", "recall", "F1")
MEAN = "(mean)"
NO_GENRE = ("unknown", "(no genres listed)")  # MovieLens' words for it
SHOWN_GENRES = 6  # in the figure


def item_genres(data, data_dir):
    """The items' genres, for each a text like "Comedy|Drama", by index. Raises UserError where too few are known."""
    titles = item_titles(data, data_dir)
    if titles is not None:
        titles["genres"] = titles["genres"].replace(dict.fromkeys(NO_GENRE, ""))
    if titles is None or (titles["genres"] != "").sum() < min(NEAREST):
        raise UserError(
            f"{data.name} has no genres of its items, or too few: put items.csv with the columns item_id, title and "
            f"genres into {Path(data_dir) / data.name} (100k and 1M: MovieLens' folder ml-100k or ml-1m beside it)"
        )
    return titles["genres"]


def study_genres(trials, data, genres, folder):
    """Write genres.csv and study.png, and log what they show; trials: finished, of OneBP and TwoBP."""
    known = (genres != "").to_numpy()
    member = genres[known].str.get_dummies("|").astype(bool)  # (items, genres)
    tables, seen = [], {}
    for trial in trials:
        moments = {trial.args.model: trial.checkpoints / "best.pt"}
        if trial.args.model == "OneBP":
            moments = {"before training": None, **moments}
        for moment, checkpoint in moments.items():
            encodings = item_encodings(data, trial.args, checkpoint)[known]  # (items, D)
            table = nearest_items(encodings, member)
            table.insert(0, "encodings", moment)
            table.insert(1, "seed", trial.args.seed)
            tables.append(table)
            seen.setdefault(moment, encodings)
    table = pd.concat(tables, ignore_index=True)
    write_csv(folder / "genres.csv", table)
    first = genres[known].str.split("|").str[0]
    title = f"{data.name}, seed 1: items by their first genre, directions of their encodings, two principal components"
    save_figure(
        folder / "study.png", title, [Points(name, *project(x, first)) for name, x in seen.items()]
    )
    log_genres(table, list(seen))
    log.info("%s: genres.csv, study.png", folder)


def item_encodings(data, args, checkpoint):
    """The items' encodings (I, D), an array, in the state of the checkpoint file; None: before training."""
    model = families.model_class(args.model)(data, args, choose_device(args.device))
    if checkpoint:
        model.load_weights(load_checkpoint(checkpoint)["model"])
    return model.encodings()[1].cpu().numpy()


def nearest_items(encodings, member):
    """How many of the k items nearest to a genre's mean encoding are of the genre: a row per genre and k.

    encodings (items, D); member: table of bool (items, genres). Nearest is by cosine, ties go to the lower index. With
    h items of the genre among the k, and n in all: precision = h/k, recall = h/n, F1 = 2h/(k+n). The rows of the genre
    MEAN are means over the genres.
    """
    belongs = member.to_numpy().T  # (genres, items)
    size = belongs.sum(axis=1)  # (genres,)
    means = (
        belongs / size[:, None]
    ) @ encodings  # (genres, D); their length does not change the order
    order = np.argsort(-means @ directions(encodings).T, axis=1, kind="stable")  # (genres, items)
    hits = np.take_along_axis(belongs, order, axis=1).cumsum(axis=1)
    tables = []
    for k in [k for k in NEAREST if k <= len(encodings)]:
        h = hits[:, k - 1]
        measures = {"precision": h / k, "recall": h / size, "F1": 2 * h / (k + size)}
        table = pd.DataFrame({"genre": member.columns, "items": size, "k": k, **measures})
        tables += [
            table,
            pd.DataFrame(
                {"genre": [MEAN], "k": k, **{name: [m.mean()] for name, m in measures.items()}}
            ),
        ]
    return pd.concat(tables, ignore_index=True)


def directions(encodings):
    """Encodings (n, D) of length 1; those of length 0 stay."""
    return encodings / np.maximum(np.linalg.norm(encodings, axis=1, keepdims=True), 1e-30)


def project(encodings, genres):
    """The items of the most frequent genres on two principal components of their directions.

    encodings (n, D); genres: a name per item. Returns the points, {genre: (m, 2)}, and the components' shares of
    the variance.
    """
    frequent = genres.value_counts().index[:SHOWN_GENRES]
    x = directions(encodings[genres.isin(frequent)])
    x = x - x.mean(axis=0)
    _, length, axes = np.linalg.svd(x, full_matrices=False)
    points = x @ axes[:2].T  # (shown items, 2)
    own = genres[genres.isin(frequent)]
    return {genre: points[own == genre] for genre in frequent}, length[:2] ** 2 / (length**2).sum()


def log_genres(table, columns):
    """Log, as means of the seeds, the longest lists genre by genre, and the means over the genres."""
    longest = table["k"].max()
    parts = {
        f"The {longest} items nearest (cosine) to the mean encoding of a genre": (
            table["k"] == longest,
            "genre",
        ),
        "The k nearest, means over the genres": (table["genre"] == MEAN, "k"),
    }
    for title, (rows, index) in parts.items():
        means = table[rows].pivot_table(list(MEASURES), index, "encodings", sort=False)
        means = means[[(measure, column) for measure in MEASURES for column in columns]]
        log.info("%s:\n\n%s\n", title, means.to_string(float_format="%.3f"))
