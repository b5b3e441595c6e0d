"""What is known of a data set's items: titles and genres, by the item's index."""

import csv
import io
import warnings
from pathlib import Path

import pandas as pd

from cli.errors import UserError
from sources.readers import ITEM_NAMES, plain_name, read_text

# The authors of OneBP numbered the items of MovieLens by first appearance in the file of ratings: where that file is.
RENUMBERED = {"100k": ("ml-100k", "u.data", "\t"), "1M": ("ml-1m", "ratings*.dat*", "::")}


def item_titles(data, data_dir):
    """Table with columns `title` and `genres` ("Comedy|Drama"), a row per item in the order of data.item_ids, or None.

    Read from items.csv in the data set's folder, with a header that names an item and a title column and perhaps
    genres; or from MovieLens' u.item and u.genre, or movies.dat, there. 100k and 1M have ids of their own: for them the
    files of MovieLens are looked for in the folders ml-100k and ml-1m beside theirs. What is unknown is "". Raises
    UserError where such a file cannot be read.
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
    return (
        None
        if table is None
        else table.reindex(data.item_ids, fill_value="").reset_index(drop=True)
    )


def _read_titles(folder):
    """Titles and genres by the ids of a folder's own files, or None."""
    if (path := folder / "items.csv").is_file():
        table = read_table(path)
        names = [plain_name(column) for column in table.columns]
        item = next((name for name in ITEM_NAMES if name in names), None)
        if (
            item is None
            or any(names.count(name) != 1 for name in (item, "title"))
            or names.count("genres") > 1
        ):
            raise UserError(
                f"{path} needs a header with one item_id, one title and perhaps a genres column"
            )
        table = (
            table.set_axis(names, axis=1)
            .set_index(item)
            .reindex(columns=["title", "genres"], fill_value="")
        )
    elif (path := folder / "u.item").is_file():
        genres = read_table(folder / "u.genre", 1, "|")[0]
        rows = read_table(path, 2 + len(genres), "|").set_index(0)
        flags = rows.iloc[:, -len(genres) :].to_numpy() == "1"  # (items, genres)
        table = pd.DataFrame({"title": rows[1], "genres": ["|".join(genres[own]) for own in flags]})
    elif (path := folder / "movies.dat").is_file():
        table = read_table(path, 3, "::").set_index(0)[[1, 2]].set_axis(["title", "genres"], axis=1)
    else:
        return None
    return table[~table.index.duplicated()]


def read_table(path, columns=1, separator=","):
    """A table of strings, of at least `columns` columns: items.csv, or a file of MovieLens: no header, no quotes."""
    own = path.name == "items.csv"
    text = read_text(path) if own else read_text(path, "latin-1")
    form = {} if own else {"header": None, "quoting": csv.QUOTE_NONE}
    if separator == "::":  # pandas is quick with separators of one character only
        text, separator = text.replace("::", "\t"), "\t"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # of surplus fields
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
