"""Where clicks come from: Criteo's log, a table with a header, MovieLens 1M read as clicks, the generated demo."""

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from cli.errors import UserError
from families.clicks.reader import Block, ClickLog, first_line, hash_values
from sources import demo
from sources.folders import find_folder, find_sources
from sources.readers import USER_NAMES, plain_name
from sources.titles import read_table

LABEL_NAMES = ("label", "click", "clicked", "target")
NUMBERS, CATEGORIES = (
    [f"I{i}" for i in range(1, 14)],
    [f"C{i}" for i in range(1, 27)],
)  # Criteo's columns
MOVIE_FIELDS = ["user", "movie", "gender", "age", "occupation", "zip", "decade", "genre"]


@dataclass
class ClickTable:
    """Like ClickLog, of a table that a function makes in memory: its first column is the label, the others fields."""

    make: Callable
    fields: list
    user: str
    skipped: list = field(default_factory=list)  # a table made here has no broken lines

    def blocks(self):
        """Yield all rows as one Block."""
        frame = self.make()
        columns = [pd.factorize(frame[name].to_numpy(object)) for name in self.fields]
        hashes = [hash_values(values) for _, values in columns]
        codes = [codes.astype(np.int32) for codes, _ in columns]
        place = self.fields.index(self.user)
        users = hashes[place].view(np.int64)[codes[place]]
        yield Block(frame.iloc[:, 0].to_numpy(np.uint8), codes, hashes, users)


def find_clicks(name, data_dir, label, categorical, numeric, download):
    """(name, folder or None, the files, a ClickLog or ClickTable) of a data set; see clicks.load_clicks. UserError."""
    own = {"label": label, "categorical": categorical, "numeric": numeric}
    if name.lower() in ("demo", "criteo", "ml-1m-ctr"):
        name = name.lower()
        if given := [flag for flag, value in own.items() if value]:
            raise UserError(
                f"--{given[0]} is for a table with a header; the columns of {name} are known"
            )
    if name == "demo":
        return name, None, [], ClickTable(demo.demo_clicks, demo.CLICK_FIELDS, "listener")
    if name == "ml-1m-ctr":
        folder = data_dir / "ml-1m"
        files = _movie_files(folder, find_sources("ml-1m", folder, download)["interactions"])
        return (
            name,
            folder,
            list(files.values()),
            ClickTable(lambda: _movie_clicks(files), MOVIE_FIELDS, "user"),
        )
    folder = (
        data_dir / name
        if name == "criteo"
        else find_folder(name, data_dir, ["criteo", "ml-1m-ctr"])
    )
    if name == "criteo":
        path = _find_log(
            folder,
            "train",
            "get its train.txt by hand (licence): https://ailab.criteo.com/ressources/",
        )
        columns = ["label", *NUMBERS, *CATEGORIES]
        source = ClickLog(path, "\t", columns, "label", columns[1:], {*NUMBERS}, header=False)
    else:
        path = _find_log(
            folder,
            "clicks",
            "put a table with a header there, a row per impression, in order of time",
        )
        source = _table_log(path, label, categorical, numeric)
    return folder.name, folder, [path], source


def _find_log(folder, preferred, advice):
    """The one file of clicks in a folder, or that called `preferred`. Raises UserError."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [path for path in found if re.search(r"\.(csv|tsv|txt)(\.gz)?$", path.name.lower())]
    found = [path for path in found if path.name.split(".")[0] == preferred] or found
    if len(found) != 1:
        here = " and ".join(path.name for path in found)
        raise UserError(
            f"{folder} holds {here}; keep one of them"
            if found
            else f"no data in {folder}; {advice}"
        )
    return found[0]


def _table_log(path, label, categorical, numeric):
    """The ClickLog of a table with a header. label: by default a column of such a name; fields: all other columns.

    Where `categorical` is given, only these and the numeric ones. Raises UserError for a column that is not there.
    """
    first = first_line(path)
    if not first.strip():
        raise UserError(f"{path} does not begin with a header; its first line is empty")
    separator = next((sign for sign in "\t;" if sign in first), ",")
    columns = pd.Index([name.strip() for name in next(csv.reader([first], delimiter=separator))])
    names = ", ".join(columns)
    if not columns.is_unique:
        raise UserError(f"{path}, line 1: two columns have one name: {names}")
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
            raise UserError(
                f"{path}: no column is called {' or '.join(LABEL_NAMES)}; name it by --label: {names}"
            )
    numeric = set(numeric or ())
    taken = set(categorical) | numeric if categorical else set(columns) - {label}
    if twice := sorted({label} & (taken | numeric) | numeric & set(categorical or ())):
        raise UserError(
            f"column {twice[0]!r} is named twice by --label, --categorical and --numeric; name it once"
        )
    fields = [column for column in columns if column in taken]
    if not fields:
        raise UserError(
            f"{path} has no column beside the label {label!r}; there is nothing to predict from"
        )
    user = next((column for column in columns if plain_name(column) in USER_NAMES), None)
    return ClickLog(path, separator, list(columns), label, fields, numeric, user)


def _movie_files(folder, ratings):
    """The files of MovieLens 1M that clicks are made of, by what they hold. Raises UserError where one is absent."""
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
    """MovieLens 1M as clicks: whether a rating is 4 or more, by its user's and its movie's features, sorted by time.

    Ratings without a time, in a file without times, come first.
    """
    ratings = read_table(files["ratings"], 3 if "times" in files else 4, "::")
    ratings.columns = ["user", "movie", "rating", "time"][: len(ratings.columns)]
    if "times" in files:
        latest = (
            read_table(files["times"], 4, ",")
            .iloc[1:, [0, 1, 3]]
            .set_axis(["user", "movie", "time"], axis=1)
        )
        ratings = ratings.merge(latest, how="left").fillna("0")  # those without a time were earlier
    users = read_table(files["users"], 5, "::").set_axis(
        ["user", "gender", "age", "occupation", "zip"], axis=1
    )
    movies = read_table(files["movies"], 3, "::").set_axis(["movie", "title", "genre"], axis=1)
    users["zip"] = users["zip"].str[:3]
    movies["decade"] = movies["title"].str.extract(r"\((\d{3})\d\)\s*$")[0]
    movies["genre"] = movies["genre"].str.split("|").str[0]
    order = ratings["time"].astype(np.int64).argsort(kind="stable")
    rows = (
        ratings.iloc[order]
        .merge(users, on="user", how="left")
        .merge(movies, on="movie", how="left")
        .fillna("")
    )
    clicked = (rows["rating"].astype(float) >= 4).astype(np.uint8)
    return pd.DataFrame({"label": clicked, **{field: rows[field] for field in MOVIE_FIELDS}})
