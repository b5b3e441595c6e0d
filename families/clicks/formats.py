"""Find click data by name: Criteo's log, those of BARS, own tables, MovieLens 1M, the demo."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from cli.errors import UserError
from families.clicks import bars, movielens
from families.clicks.columns import say, table_log
from families.clicks.reader import Block, ClickLog, ClickSource, hash_values
from sources import demo
from sources.folders import find_files, find_folder, find_table
from sources.formats import known_table

log = logging.getLogger("onebp")

# Criteo's columns
NUMBERS = [f"I{i}" for i in range(1, 14)]
CATEGORIES = [f"C{i}" for i in range(1, 27)]
# Published data sets whose files have known columns, in a folder of the name
BY_HAND = ("criteo", *bars.DATASETS)
# Other published names: what is read if there is no folder of the name
PUBLISHED = {"demo": "the generated demo", "ml-1m-ctr": "what is made of the folder ml-1m"}


@dataclass
class ClickTable(ClickSource):
    """The ClickSource of a table that is made in memory, so it has no broken lines.

    make: returns the table, whose first column is the label; the fields are other columns
    user: name of the field of users
    """

    make: Callable
    fields: list
    user: str
    splits: tuple = ("interactions",)
    label: str = ""  # not needed: it is the first column
    numeric: list = field(default_factory=list)
    above: float | None = None
    skip: bool = False
    histories: dict = field(default_factory=dict)
    skipped: dict = field(default_factory=dict)
    unordered: dict = field(default_factory=dict)
    latin: dict = field(default_factory=dict)

    def blocks(self):
        """Yield all rows as one Block."""
        table = self.make()
        columns = [pd.factorize(table[name].to_numpy(object)) for name in self.fields]
        hashes = [hash_values(values) for _, values in columns]
        codes = [codes.astype(np.int32) for codes, _ in columns]
        user_field = self.fields.index(self.user)
        users = hashes[user_field].view(np.int64)[codes[user_field]]
        labels = table.iloc[:, 0].to_numpy(np.uint8)
        yield Block("interactions", labels, codes, hashes, users)


@dataclass(frozen=True)
class Found:
    """A click data set.

    name: of the data set
    folder: of its files; None: it has none
    files: {split, or what it holds: path}
    source: the ClickSource
    about: lines that say how each file is read
    """

    name: str
    folder: Path | None
    files: dict
    source: ClickSource
    about: list


def find_clicks(name, data_dir, columns, wanted, download, skip=False):
    """Find the files of a click data set. Returns Found.

    name: data set; an own folder of exactly this name goes before a published data set
    data_dir (Path): folder of all data sets
    columns (Columns)
    wanted (Wanted): how files are read; uses format, separator and user
    download: whether MovieLens 1M may be downloaded
    skip: whether broken lines are left out

    Raises UserError if the files, or columns of them, are missing or ambiguous.
    """
    spelled = name.lower()
    folder = data_dir / name if _is_present(name, data_dir) else None
    known = {other.lower(): other for other in (*BY_HAND, *PUBLISHED)}
    if folder and spelled in PUBLISHED:
        log.info("%s is read, not %s", folder, PUBLISHED[spelled])
    elif spelled in known:
        name = known[spelled]
        _check_flags(name, columns, wanted)
        return _published(name, folder or data_dir / name, data_dir, wanted, download, skip)
    folder = find_folder(name, data_dir, known.values())
    advice = "put a table with a header there, a row per impression, in order of time"
    files = find_files(folder, ("clicks.*",), advice)
    source, about = table_log(files, columns, wanted, skip)
    return Found(folder.name, folder, files, source, about)


def _is_present(name, data_dir):
    """Whether there is a folder whose name is spelled exactly so."""
    return data_dir.is_dir() and any(
        path.name == name and path.is_dir() for path in data_dir.iterdir()
    )


def _check_flags(name, columns, wanted):
    """Raise UserError if a flag is given that a published data set leaves no choice for."""
    flags = {
        "label": columns.label,
        "label_above": columns.above,
        "categorical": columns.categorical,
        "numeric": columns.numeric,
        "format": wanted.format,
        "separator": wanted.separator,
        "user_column": wanted.user,
    }
    if given := [flag for flag, value in flags.items() if value is not None]:
        raise UserError(
            f"--{given[0]} is for a table with a header; the columns of {name} are known"
        )


def _published(name, folder, data_dir, wanted, download, skip):
    """The Found of PUBLISHED or BY_HAND. folder: of what is got by hand"""
    if name == "demo":
        table = ClickTable(demo.demo_clicks, demo.CLICK_FIELDS, "listener")
        return Found(name, None, {}, table, [])
    if name == "ml-1m-ctr":
        folder = data_dir / "ml-1m"
        layouts = movielens.find_files(folder, download)
        table = ClickTable(lambda: movielens.clicks(layouts), movielens.FIELDS, "user")
        files = {kind: layout.path for kind, layout in layouts.items()}
        about = [f"{layout.path}: {layout.describe()}" for layout in layouts.values()]
        return Found(name, folder, files, table, about)
    if name in bars.DATASETS:
        return Found(name, folder, *bars.find_published(name, folder, wanted, skip))
    advice = "get its train.txt by hand (licence): https://ailab.criteo.com/ressources/"
    path = find_table(folder, ("train.*",), advice)
    layout = known_table(path, ["label", *NUMBERS, *CATEGORIES], "\t")
    source = ClickLog(
        {"interactions": layout}, "label", [*NUMBERS, *CATEGORIES], NUMBERS, skip=skip
    )
    return Found(name, folder, {"interactions": path}, source, [say(layout, source)])
