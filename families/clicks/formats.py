"""Find click data by name: Criteo's log, a table with a header, MovieLens 1M, the demo."""

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from cli.errors import UserError
from families.clicks.reader import Block, ClickLog, ClickSource, first_line, hash_values
from sources import demo
from sources.folders import find_folder, find_sources
from sources.readers import USER_NAMES, plain_name
from sources.titles import read_table

LABEL_NAMES = ("label", "click", "clicked", "target")
# Criteo's columns
NUMBERS = [f"I{i}" for i in range(1, 14)]
CATEGORIES = [f"C{i}" for i in range(1, 27)]
MOVIE_FIELDS = ["user", "movie", "gender", "age", "occupation", "zip", "decade", "genre"]


@dataclass
class ClickTable(ClickSource):
    """The ClickSource of a table that is made in memory, so it has no broken lines.

    make: returns the table, whose first column is the label; the fields are other columns
    user: name of the field of users
    """

    make: Callable
    fields: list
    user: str
    label: str = ""  # not needed: it is the first column
    numeric: set = field(default_factory=set)
    skip: bool = False
    skipped: list = field(default_factory=list)

    def blocks(self):
        """Yield all rows as one Block."""
        table = self.make()
        columns = [pd.factorize(table[name].to_numpy(object)) for name in self.fields]
        hashes = [hash_values(values) for _, values in columns]
        codes = [codes.astype(np.int32) for codes, _ in columns]
        user_field = self.fields.index(self.user)
        users = hashes[user_field].view(np.int64)[codes[user_field]]
        yield Block(table.iloc[:, 0].to_numpy(np.uint8), codes, hashes, users)


def find_clicks(name, data_dir, label, categorical, numeric, download, skip=False):
    """Find the files of a click data set.

    name: data set, in any case (upper or lower)
    data_dir: folder of all data sets
    label: --label, the column of labels, or None
    categorical, numeric: --categorical and --numeric, the fields to take, or None
    download: whether MovieLens 1M may be downloaded
    skip: whether broken lines are left out

    Returns (name, folder or None, files, ClickSource). Raises UserError if the files, or columns of
    them, are missing or ambiguous.
    """
    flags = {"label": label, "categorical": categorical, "numeric": numeric}
    if name.lower() in ("demo", "criteo", "ml-1m-ctr"):
        name = name.lower()
        if given := [flag for flag, value in flags.items() if value]:
            raise UserError(
                f"--{given[0]} is for a table with a header; the columns of {name} are known"
            )
    if name == "demo":
        return name, None, [], ClickTable(demo.demo_clicks, demo.CLICK_FIELDS, "listener")
    if name == "ml-1m-ctr":
        folder = data_dir / "ml-1m"
        files = _movie_files(folder, find_sources("ml-1m", folder, download)["interactions"])
        source = ClickTable(lambda: _movie_clicks(files), MOVIE_FIELDS, "user")
        return name, folder, list(files.values()), source
    if name == "criteo":
        folder = data_dir / name
        advice = "get its train.txt by hand (licence): https://ailab.criteo.com/ressources/"
        path = _find_log(folder, "train", advice)
        fields = [*NUMBERS, *CATEGORIES]
        source = ClickLog(
            path, "\t", ["label", *fields], "label", fields, {*NUMBERS}, header=False, skip=skip
        )
    else:
        folder = find_folder(name, data_dir, ["criteo", "ml-1m-ctr"])
        advice = "put a table with a header there, a row per impression, in order of time"
        path = _find_log(folder, "clicks", advice)
        source = _table_log(path, label, categorical, numeric, skip)
    return folder.name, folder, [path], source


def _find_log(folder, preferred, advice):
    """Find the file of clicks in a folder: the only one, or the only one called `preferred`.

    preferred: file name without its endings
    advice: what to do if there is no file

    Raises UserError if there is no file, or if there are several.
    """
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    paths = [path for path in paths if re.search(r"\.(csv|tsv|txt)(\.gz)?$", path.name.lower())]
    if not paths:
        raise UserError(f"no data in {folder}; {advice}")
    paths = [path for path in paths if path.name.split(".")[0] == preferred] or paths
    if len(paths) > 1:
        names = " and ".join(path.name for path in paths)
        raise UserError(
            f"{folder} holds {names}; "
            f"name only the one to read {preferred}.*, or move the others away"
        )
    return paths[0]


def _table_log(path, label, categorical, numeric, skip):
    """Return the ClickLog of a table with a header.

    label: column of labels; None: the first column with a name of LABEL_NAMES
    categorical: fields; None: all columns beside the label, as far as they are not numeric
    numeric: fields that are numbers, or None
    skip: whether broken lines are left out

    Raises UserError for a wrong header, and for a flag that names a wrong column.
    """
    # Read the names of the columns from the header.
    first = first_line(path)
    if not first.strip():
        raise UserError(f"{path} does not begin with a header; its first line is empty")
    separator = next((sign for sign in "\t;" if sign in first), ",")
    columns = pd.Index([name.strip() for name in next(csv.reader([first], delimiter=separator))])
    names = ", ".join(columns)
    if not columns.is_unique:
        raise UserError(f"{path}, line 1: two columns have one name: {names}")

    # Check the columns that the flags name, and find the label.
    for flag, wanted in (
        ("label", [label] * (label is not None)),
        ("categorical", categorical),
        ("numeric", numeric),
    ):
        if missing := [column for column in wanted or () if column not in columns]:
            raise UserError(f"{path} has no column {missing[0]!r} for --{flag}; it has {names}")
    if label is None:
        label = next((column for column in columns if plain_name(column) in LABEL_NAMES), None)
        if label is None:
            expected = " or ".join(LABEL_NAMES)
            raise UserError(f"{path}: no column is called {expected}; name it by --label: {names}")

    # Choose the fields, in the order of the columns.
    numeric = set(numeric or ())
    chosen = set(categorical) | numeric if categorical else set(columns) - {label}
    if twice := sorted({label} & (chosen | numeric) | numeric & set(categorical or ())):
        raise UserError(
            f"column {twice[0]!r} is named twice by --label, --categorical and --numeric; "
            "name it once"
        )
    fields = [column for column in columns if column in chosen]
    if not fields:
        raise UserError(
            f"{path} has no column beside the label {label!r}; there is nothing to predict from"
        )
    user = next((column for column in columns if plain_name(column) in USER_NAMES), None)
    return ClickLog(path, separator, list(columns), label, fields, numeric, user, skip=skip)


def _movie_files(folder, ratings):
    """Find the files of MovieLens 1M to make clicks of.

    ratings: the file of ratings; it may lack the times, which are then in a file of their own

    Returns {"ratings", "movies", "users"[, "times"]: path}. Raises UserError if one is missing.
    """
    files = {"ratings": ratings, "movies": folder / "movies.dat", "users": folder / "users.dat"}
    for path in files.values():
        if not path.is_file():
            raise UserError(
                f"{path} is absent; unpack it from ml-1m.zip, or move {folder} away to download it"
            )
    if "::" in first_line(ratings) and first_line(ratings).count("::") < 3:
        times = sorted(folder.glob("*with_timestamp.csv*"))
        if len(times) != 1:
            raise UserError(f"{ratings} has no times of ratings; take the ratings.dat of ml-1m.zip")
        files["times"] = times[0]
    return files


def _movie_clicks(files):
    """Read MovieLens 1M as clicks: a rating of 4 or more is a click.

    Returns a table with columns `label` and MOVIE_FIELDS, the features of the rating's user and
    movie, sorted by time. Ratings without a time come first; they occur with a file of times only.
    """
    # Read the ratings and their times. A file of times has only the latest ratings.
    ratings = read_table(files["ratings"], 3 if "times" in files else 4, "::")
    ratings.columns = ["user", "movie", "rating", "time"][: len(ratings.columns)]
    if "times" in files:
        times = read_table(files["times"], 4, ",").iloc[1:, [0, 1, 3]]
        times = times.set_axis(["user", "movie", "time"], axis=1)
        ratings = ratings.merge(times, how="left").fillna("0")

    # Read the features of users and movies: three digits of the zip code, decade, first genre.
    users = read_table(files["users"], 5, "::")
    users = users.set_axis(["user", "gender", "age", "occupation", "zip"], axis=1)
    movies = read_table(files["movies"], 3, "::").set_axis(["movie", "title", "genre"], axis=1)
    users["zip"] = users["zip"].str[:3]
    movies["decade"] = movies["title"].str.extract(r"\((\d{3})\d\)\s*$")[0]
    movies["genre"] = movies["genre"].str.split("|").str[0]

    # Sort by time and join.
    order = ratings["time"].astype(np.int64).argsort(kind="stable")
    rows = ratings.iloc[order].merge(users, on="user", how="left")
    rows = rows.merge(movies, on="movie", how="left").fillna("")
    label = (rows["rating"].astype(float) >= 4).astype(np.uint8)
    return pd.DataFrame({"label": label, **{name: rows[name] for name in MOVIE_FIELDS}})
