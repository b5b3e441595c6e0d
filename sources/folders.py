"""Find the folder and the files of a data set by its name."""

import glob
import logging
from fnmatch import fnmatch
from pathlib import Path

from cli.errors import UserError
from sources.download import REGISTRY, fetch

log = logging.getLogger("onebp")

# First words of the files of a split.
SPLIT_NAMES = {
    "train": ("train",),
    "valid": ("valid", "val", "validation", "dev"),
    "test": ("test",),
}
# Names of a file of all interactions: the first pattern that matches a file counts.
WHOLE = ("interactions.*", "u.data*", "ratings.*", "rating.*", "ratings*.dat*")
# Files that are no table, and tables beside that of interactions.
# fmt: off
DOCUMENTS = (
    ".*", "readme*", "license*", "licence*", "*.md", "*.html", "*.pdf", "*.png", "*.npy",
    "about.json", "sample*submission*",
)
BESIDE = (
    "movies.*", "tags.*", "links.*", "items.*", "users.*", "genome-*", "*_map.csv", "u.item",
    "u.genre", "u.user", "u.occupation", "u.info", "u?.base*", "u?.test*", "*.item", "*.user",
    "*.kg", "*.link",
)
# fmt: on


def find_folder(name, data_dir, known=REGISTRY):
    """The folder of the data set `name`: an existing one, or the one that a download will make.

    An exact match comes first, then one that differs in case.

    name: as the user wrote it
    data_dir (Path): folder of the data sets
    known: names of data sets whose folder may be absent

    Raises UserError for a path, and for a name that is neither in data_dir nor known.
    """
    if Path(name).name != name or name in ("", ".."):
        raise UserError(
            f"--dataset {name!r} is a path; give the folder's name only, and its place by "
            f"--data_dir{_say_file(name, data_dir)}"
        )
    present = []
    if data_dir.is_dir():
        present = sorted(path.name for path in data_dir.iterdir() if path.is_dir())
    spelled = {other.lower(): other for other in (*present, *known)}
    if name not in present and name.lower() not in spelled:
        choices = ", ".join(dict.fromkeys(["demo", *known, *present]))
        absent = _say_file(name, data_dir) or f": {data_dir / name} is absent; put files there"
        raise UserError(f"no data set {name!r}{absent}, or choose one of {choices}")
    return data_dir / (name if name in present else spelled[name.lower()])


def _say_file(name, data_dir):
    """What to do if a file has the name of a data set, with or without its ending; or ""."""
    named = [
        Path(name),
        data_dir / name,
        *sorted(data_dir.glob(f"{glob.escape(Path(name).name)}.*")),
    ]
    file = next((path for path in named if path.is_file()), None)
    if file is None:
        return ""
    return f"; {file} is a file: move it into a folder, as {data_dir / file.name.split('.')[0]}"


def find_sources(name, folder, download, fold=None):
    """The source file of each split, after downloading the files of a known data set if absent.

    name: of the data set
    folder (Path): its folder
    download: whether files may be downloaded
    fold: number of a split u<fold>.base and u<fold>.test, or None

    Returns {"train": path, "test": path}, perhaps with "valid", or {"interactions": path}. Raises
    UserError if files are missing or ambiguous.
    """
    for remote in REGISTRY[name].files if name in REGISTRY else ():
        if fold and f"u{fold}.base" not in remote.members:
            continue  # the data set has no such fold
        if remote.members:
            present = _fold(folder, fold) if fold else _splits(folder) or _whole(folder)
        else:
            present = any(folder.glob(remote.pattern))
        if not present:
            fetch(remote, folder, allowed=download)
    if fold:
        sources = _fold(folder, fold)
        if not sources:
            raise UserError(
                f"{folder} has no fold {fold}: it needs u{fold}.base and u{fold}.test; "
                "leave --fold out"
            )
        return sources
    return find_files(folder, WHOLE, "put a table of interactions there, or train.* and test.*")


def find_files(folder, whole, advice):
    """The files of a folder's own data set: those of its splits, or its one table of any name.

    folder (Path)
    whole: patterns of usual names of the one table; the first is this program's own
    advice: what to put into a folder that holds no table

    Returns {"train": path, "test": path}, perhaps with "valid", or {"interactions": path}. Raises
    UserError if there is no table, or if several could be meant.
    """
    splits = _splits(folder)
    if not {"train", "test"} <= splits.keys():
        table = find_table(folder, whole, advice)
        if unused := [path.name for path in splits.values() if path != table]:
            raise UserError(
                f"{folder} holds {table.name}, and {' and '.join(unused)}; a split needs train.* "
                "and test.*; move the one or the others away"
            )
        if table in splits.values():
            log.info("%s has no test.*: %s will be split", folder, table.name)
        return {"interactions": table}
    if one := _whole(folder, whole[:1]):
        files = " and ".join(path.name for path in splits.values())
        name = one["interactions"].name
        raise UserError(f"{folder} holds {name}, and {files}; move the one or the others away")
    return splits


def find_table(folder, names, advice):
    """The one table in a folder, perhaps beside others. Raises UserError as `find_files` does.

    names: patterns of usual names; else any table will do that is the only one
    """
    found = _whole(folder, names) or _only_table(folder, names[0])
    if not found:
        raise UserError(f"no data in {folder}; {advice}")
    return found["interactions"]


def _files(folder):
    """The files of a folder, sorted."""
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def _name(path):
    """The name of a file as patterns spell it."""
    return path.name.lower()


def _matches(path, patterns):
    """Whether a file's name is of one of the patterns."""
    return any(fnmatch(_name(path), pattern) for pattern in patterns)


def _one(folder, paths):
    """The only one of some files, or None. Raises UserError if there are several."""
    if len(paths) > 1:
        names = " and ".join(path.name for path in paths)
        raise UserError(f"{folder} holds {names}; move all but one of them away")
    return paths[0] if paths else None


def _fold(folder, fold):
    """{"train", "test": path} of a fold of MovieLens, or {} if a file is absent."""
    sources = {
        split: _one(folder, [path for path in _files(folder) if fnmatch(_name(path), pattern)])
        for split, pattern in (("train", f"u{fold}.base*"), ("test", f"u{fold}.test*"))
    }
    return sources if all(sources.values()) else {}


def _splits(folder):
    """{split: path} of the files of splits."""
    sources = {}
    for split, names in SPLIT_NAMES.items():
        found = [
            path
            for path in _files(folder)
            if _name(path).split(".")[0] in names and not fnmatch(_name(path), "*.npy")
        ]
        if path := _one(folder, found):
            sources[split] = path
    return sources


def _whole(folder, patterns=WHOLE):
    """{"interactions": path} of the file of all interactions by its usual name, or {}."""
    for pattern in patterns:
        if path := _one(folder, [path for path in _files(folder) if fnmatch(_name(path), pattern)]):
            return {"interactions": path}
    return {}


def _only_table(folder, usual=WHOLE[0]):
    """{"interactions": path} of the only file that may be a table, or {} if there is none.

    usual: the name to give to the table among others

    Raises UserError if there are several.
    """
    tables = [path for path in _files(folder) if not _matches(path, DOCUMENTS)]
    others = [path for path in tables if not _matches(path, BESIDE)] or tables
    if len(others) > 1:
        names = ", ".join(path.name for path in others[:5])
        raise UserError(
            f"{folder} holds {names}; a split needs train.* and test.*; else call the table to "
            f"read {usual} (with its own ending), or move the others away"
        )
    return {"interactions": others[0]} if others else {}
