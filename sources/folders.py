"""Find the folder and the files of a data set by its name."""

from pathlib import Path

from cli.errors import UserError
from sources.download import REGISTRY, fetch
from sources.interactions import SPLITS

# MovieLens' names of a file of all interactions
MOVIELENS = ("u.data*", "ratings*.dat*", "ratings.csv*")


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
            "--data_dir"
        )
    present = []
    if data_dir.is_dir():
        present = sorted(path.name for path in data_dir.iterdir() if path.is_dir())
    spelled = {other.lower(): other for other in (*present, *known)}
    if name not in present and name.lower() not in spelled:
        choices = ", ".join(["demo", *known, *(other for other in present if other not in known)])
        raise UserError(
            f"no data set {name!r}: {data_dir / name} is absent; put files there, or choose one "
            f"of {choices}"
        )
    return data_dir / (name if name in present else spelled[name.lower()])


def find_sources(name, folder, download, fold=None):
    """The source file of each split, after downloading the files of a known data set if absent.

    name: of the data set
    folder (Path): its folder
    download: whether files may be downloaded
    fold: number of a split u<fold>.base and u<fold>.test, or None

    Returns {"train": path, "test": path}, perhaps with "valid", or {"interactions": path}. Raises
    UserError if files are missing or ambiguous.
    """
    # The sets of files that the folder may hold, {split: pattern}; the first that is there counts.
    if fold:
        forms = [{"train": f"u{fold}.base*", "test": f"u{fold}.test*"}]
    else:
        by_split = {split: f"{split}.*" for split in (*SPLITS, "interactions")}
        forms = [by_split, *({"interactions": pattern} for pattern in MOVIELENS)]

    # Download the files that are absent.
    for remote in REGISTRY[name].files if name in REGISTRY else ():
        if fold and f"u{fold}.base" not in remote.members:
            continue  # the data set has no such fold
        if remote.members:
            # A fold needs both of its files, otherwise one file is enough.
            enough = all if fold else any
            present = any(
                enough(any(folder.glob(pattern)) for pattern in form.values()) for form in forms
            )
        else:
            present = any(folder.glob(remote.pattern))
        if not present:
            fetch(remote, folder, allowed=download)

    # Take the first set that is there, and check that it is complete.
    sources = next(filter(None, (_matching(folder, form) for form in forms)), {})
    if fold and len(sources) < 2:
        raise UserError(
            f"{folder} has no fold {fold}: it needs u{fold}.base and u{fold}.test; leave --fold out"
        )
    if not (sources.keys() == {"interactions"} or {"train", "test"} <= sources.keys() <= {*SPLITS}):
        found = ", ".join(path.name for path in sources.values()) or "none of them"
        raise UserError(
            f"{folder} needs train.* and test.* (and optionally valid.*), or one of "
            f"interactions.*, u.data and ratings.*; it has {found}"
        )
    return sources


def _matching(folder, form):
    """{split: the file that matches} for {split: pattern}. Raises UserError if several match."""
    sources = {}
    for split, pattern in form.items():
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if len(found) > 1:
            names = " and ".join(path.name for path in found)
            raise UserError(f"{folder} holds {names}; move all but one of them away")
        if found:
            sources[split] = found[0]
    return sources
