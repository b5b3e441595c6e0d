"""Titles and genres of a data set's items, in the order of the items' indices."""

import csv
import io
import logging
import warnings
from pathlib import Path

import pandas as pd

from cli.errors import UserError
from sources.columns import ITEM_NAMES, USER_NAMES, plain_name
from sources.files import text_of
from sources.tables import check_csv

log = logging.getLogger("onebp")

# The authors of OneBP numbered the items of MovieLens by first appearance in the file of ratings:
# {data set: (folder, file of ratings, separator)}.
RENUMBERED = {"100k": ("ml-100k", "u.data", "\t"), "1M": ("ml-1m", "ratings*.dat*", "::")}
NO_GENRE = ("unknown", "(no genres listed)")  # MovieLens' names for a missing genre


def item_titles(data, data_dir):
    """Table with the columns `title` and `genres` ("Comedy|Drama"), a row per item, or None.

    The rows are in the order of data.item_ids; what is unknown is "". The sources are files in the
    data set's folder, plain or gzip: items.csv or MovieLens' movies.csv, whose header names an
    item, a title and optionally a genres column, or MovieLens' u.item and u.genre, or movies.dat.
    100k and 1M renumber the items of MovieLens, so their sources are in the sibling folders ml-100k
    and ml-1m. Raises UserError if such a file cannot be read.
    """
    folder = Path(data_dir) / data.name
    if data.name not in RENUMBERED:
        table = _read_titles(folder)
    else:
        name, pattern, separator = RENUMBERED[data.name]
        ratings = sorted(folder.with_name(name).glob(pattern))
        table = _read_titles(folder.with_name(name)) if ratings else None
        if table is not None:
            order = read_table(ratings[0], 2, separator)[1].unique()
            table = table.reindex(order, fill_value="").set_axis(map(str, range(len(order))))
    if table is None:
        return None
    table = table.assign(genres=table["genres"].replace(dict.fromkeys(NO_GENRE, "")))
    return table.reindex(data.item_ids, fill_value="").reset_index(drop=True)


def _read_titles(folder):
    """Titles and genres from a folder's own files, indexed by their item ids, or None."""
    for name, read in SOURCES.items():
        path = _plain_or_gzip(folder / name)
        table = read(path) if path.is_file() else None
        if table is not None:
            return table[~table.index.duplicated()]
    return None


def _plain_or_gzip(path):
    """The path, or the same with .gz at its end if only that file is there."""
    packed = path.with_name(f"{path.name}.gz")
    return packed if packed.is_file() and not path.is_file() else path


def _read_headed(path):
    """Read items.csv or movies.csv, or return None if it is a table of interactions."""
    table = read_table(path, header=True)
    names = [plain_name(column) for column in table.columns]
    if "title" not in names and {*names} & {*USER_NAMES}:
        return None
    item = next((name for name in ITEM_NAMES if name in names), None)
    unclear = item is None or any(names.count(name) != 1 for name in (item, "title"))
    if unclear or names.count("genres") > 1:
        raise UserError(
            f"{path} needs a header with one item_id, one title and perhaps a genres column"
        )
    table = table.set_axis(names, axis=1).set_index(item)
    return table.reindex(columns=["title", "genres"], fill_value="")


def _read_flagged(path):
    """Read u.item, whose last columns are a flag for each genre of u.genre."""
    genres = read_table(_plain_or_gzip(path.with_name("u.genre")), 1, "|")[0]
    rows = read_table(path, 2 + len(genres), "|").set_index(0)
    flags = rows.iloc[:, -len(genres) :].to_numpy() == "1"  # (items, genres)
    joined = ["|".join(genres[row]) for row in flags]
    return pd.DataFrame({"title": rows[1], "genres": joined})


def _read_movies(path):
    """Read movies.dat: item, title and genres."""
    return read_table(path, 3, "::").set_index(0)[[1, 2]].set_axis(["title", "genres"], axis=1)


SOURCES = {
    "items.csv": _read_headed,
    "movies.csv": _read_headed,
    "u.item": _read_flagged,
    "movies.dat": _read_movies,
}


def read_table(path, columns=1, separator=",", header=False):
    """Read a table of text, plain or gzip.

    path: of the file
    columns: the least number of columns
    separator: between columns
    header: whether the first line names the columns, and quotes protect separators; else it is a
        file of MovieLens, which is in Latin-1 as a rule

    Returns a table of strings. Raises UserError if the file cannot be read.
    """
    text, encoding = text_of(path)
    if header and encoding != "UTF-8":
        log.warning("warning: %s is not UTF-8; it is read as Latin-1", path)
    if header:
        check_csv(path, text)
    form = {} if header else {"header": None, "quoting": csv.QUOTE_NONE}
    if separator == "::":  # pandas is fast with separators of one character only
        text, separator = text.replace("::", "\t"), "\t"
    try:
        with warnings.catch_warnings():
            # Make surplus fields an error: pandas would drop them.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                io.StringIO(text),
                sep=separator,
                dtype=str,
                keep_default_na=False,
                index_col=False,
                **form,
            )
        if len(table.columns) < columns:
            raise ValueError(f"{len(table.columns)} columns instead of {columns}")
        return table.fillna("")  # fields that are absent at the end of a row
    except (ValueError, pd.errors.ParserWarning) as error:  # pandas' own errors are ValueErrors
        reason = str(error).splitlines()[0]
        raise UserError(f"cannot read {path} ({reason}); correct or remove the file") from None
