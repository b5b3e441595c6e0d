"""What is known of a data set's items: titles and genres, by the item's index."""

from pathlib import Path

import pandas as pd

from errors import UserError
from readers import ITEM_NAMES, plain_name

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
            order = _read(ratings[0], sep=separator, header=None, usecols=[1])[1].unique()
            table = table.reindex(order, fill_value="").set_axis(map(str, range(len(order))))
    return None if table is None else table.reindex(data.item_ids, fill_value="").reset_index(drop=True)


def _read_titles(folder):
    """Titles and genres by the ids of a folder's own files, or None."""
    if (path := folder / "items.csv").is_file():
        table = _read(path)
        names = {plain_name(column): column for column in reversed(table.columns)}
        item = next((names[name] for name in ITEM_NAMES if name in names), None)
        if item is None or "title" not in names:
            raise UserError(f"{path} needs a header with an item_id and a title column")
        table = table.set_index(item).rename(columns={names["title"]: "title", names.get("genres"): "genres"})
        table = table.reindex(columns=["title", "genres"], fill_value="")
    elif (path := folder / "u.item").is_file():
        genres = _read(folder / "u.genre", sep="|", header=None)[0]
        rows = _read(path, sep="|", header=None).set_index(0)
        flags = rows.iloc[:, -len(genres) :].to_numpy() == "1"  # (items, genres)
        table = pd.DataFrame({"title": rows[1], "genres": ["|".join(genres[own]) for own in flags]})
    elif (path := folder / "movies.dat").is_file():
        table = _read(path, sep="::", header=None).set_index(0).set_axis(["title", "genres"], axis=1)
    else:
        return None
    return table[~table.index.duplicated()]


def _read(path, **settings):
    """A table of strings; MovieLens' own are not UTF-8."""
    encoding = "utf-8-sig" if path.name == "items.csv" else "latin-1"
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, encoding=encoding, engine="python", **settings)
    except (ValueError, KeyError, OSError) as error:  # pandas' own errors are ValueErrors
        raise UserError(f"cannot read the items' titles in {path} ({str(error).splitlines()[0]})") from None
