"""MovieLens 1M as clicks: a rating of 4 or more is a click. Its files -> a table of impressions."""

import re

import numpy as np
import pandas as pd

from cli.errors import UserError
from sources.columns import Wanted
from sources.folders import find_sources
from sources.formats import known_table, recognise
from sources.tables import TEXT, read_table

FIELDS = ["user", "movie", "gender", "age", "occupation", "zip", "decade", "genre"]
USERS = ["user", "gender", "age", "occupation", "zip"]
MOVIES = ["movie", "title", "genre"]
RATINGS = ["user", "movie", "rating", "time"]


def find_files(folder, download):
    """The Layouts of the files to make clicks of: {"ratings", "movies", "users"[, "times"]}.

    folder (Path): of MovieLens 1M
    download: whether it may be downloaded

    The file of ratings may lack the times, which are then in a file of their own. Raises UserError
    if a file is missing.
    """
    ratings = find_sources("ml-1m", folder, download).get("interactions")
    if ratings is None:
        raise UserError(f"{folder} holds a split; move train.* and test.* away to read ratings.dat")
    movies, users = folder / "movies.dat", folder / "users.dat"
    for path in (movies, users):
        if not path.is_file():
            raise UserError(
                f"{path} is absent; unpack it from ml-1m.zip, or move {folder} away to download it"
            )
    layouts = {
        "ratings": recognise(ratings, Wanted(format="table", separator="::")),
        "movies": known_table(movies, MOVIES, "::"),
        "users": known_table(users, USERS, "::"),
    }
    if len(layouts["ratings"].names) < len(RATINGS):
        times = sorted(folder.glob("*with_timestamp.csv*"))
        if len(times) != 1:
            raise UserError(f"{ratings} has no times of ratings; take the ratings.dat of ml-1m.zip")
        layouts["times"] = recognise(times[0], Wanted(separator=","))
    return layouts


def clicks(layouts):
    """Read MovieLens 1M as clicks. layouts: see find_files

    Returns a table with columns `label` and FIELDS, the features of the rating's user and movie,
    sorted by time. Ratings without a time come first; they occur with a file of times only. Raises
    UserError for a rating or time that is no number, and for what should occur once and does not.
    """
    # Read the ratings and their times. A file of times has only the latest ratings.
    if "times" in layouts:
        ratings = _read(layouts["ratings"], RATINGS[:3])
        times = _read(layouts["times"], RATINGS)[["user", "movie", "time"]]
        _check_once(layouts["times"], times, ["user", "movie"])
        ratings = ratings.merge(times, how="left").fillna("0")
    else:
        ratings = _read(layouts["ratings"], RATINGS)

    # Read the features of users and movies: three digits of the zip code, decade, first genre.
    users, movies = _read(layouts["users"], USERS), _read(layouts["movies"], MOVIES)
    _check_once(layouts["users"], users, ["user"])
    _check_once(layouts["movies"], movies, ["movie"])
    users["zip"] = users["zip"].str[:3]
    movies["decade"] = movies["title"].str.extract(r"\((\d{3})\d\)\s*$")[0]
    movies["genre"] = movies["genre"].str.split("|").str[0]

    # Sort by time and join.
    _check_matches(layouts["ratings"], ratings["rating"], r"\d+(\.\d+)?", "rating")
    _check_matches(layouts.get("times", layouts["ratings"]), ratings["time"], r"\d{1,18}", "time")
    order = ratings["time"].astype(np.int64).argsort(kind="stable")
    rows = ratings.iloc[order].merge(users, on="user", how="left")
    rows = rows.merge(movies, on="movie", how="left").fillna("")
    label = (rows["rating"].astype(float) >= 4).astype(np.uint8)
    return pd.DataFrame({"label": label, **{name: rows[name] for name in FIELDS}})


def _check_once(layout, table, names):
    """Raise UserError if columns `names` of a file's table have equal values in two rows."""
    twice = table.duplicated(names)
    if twice.any():
        values = " and ".join(f"{name} {table[name][twice].iloc[0]!r}" for name in names)
        raise UserError(f"{layout.path} has {values} twice; remove one")


def _check_matches(layout, texts, pattern, what):
    """Raise UserError if one of the texts (n,) of a file is not of a pattern, that of `what`."""
    wrong = ~texts.str.fullmatch(pattern, flags=re.ASCII)
    if wrong.any():
        raise UserError(f"{layout.path}: {texts[wrong].iloc[0]!r} is no {what}; correct it")


def _read(layout, names):
    """Read the first columns of a file as a table of texts. names: what to call them"""
    parts = {name: [] for name in names}
    for block in read_table(layout, dict.fromkeys(range(len(names)), TEXT)):
        for place, name in enumerate(names):
            column = block.columns[place]
            texts = [text.decode("latin-1") for text in column.dictionary.to_pylist()]
            parts[name].append(np.array(texts, dtype=object)[column.indices.to_numpy()])
    return pd.DataFrame({name: np.concatenate(values) for name, values in parts.items()})
