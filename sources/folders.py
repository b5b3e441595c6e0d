"""Find the folder and the files of a data set by its name."""

from pathlib import Path

from cli.errors import UserError
from sources.download import REGISTRY, fetch
from sources.interactions import SPLITS

MOVIELENS = (
    "u.data*",
    "ratings*.dat*",
    "ratings.csv*",
)  # its names for one file of all interactions


def find_folder(name, data_dir, known=REGISTRY):
    """The folder of data set `name`, there or of the `known` ones; case does not matter, an exact match goes first."""
    if Path(name).name != name or name in ("", ".."):
        raise UserError(
            f"--dataset {name!r} is no plain name; give the folder's name, and by --data_dir where it lies"
        )
    present = (
        sorted(path.name for path in data_dir.iterdir() if path.is_dir())
        if data_dir.is_dir()
        else []
    )
    spelled = {other.lower(): other for other in (*present, *known)}
    if name not in present and name.lower() not in spelled:
        choices = ", ".join(["demo", *known, *(other for other in present if other not in known)])
        raise UserError(
            f"no data set {name!r}: {data_dir / name} is absent; put files there, or choose one of {choices}"
        )
    return data_dir / (name if name in present else spelled[name.lower()])


def find_sources(name, folder, download, fold=None):
    """The source file of each part: {"train": ..., "test": ...[, "valid": ...]} or {"interactions": ...}."""
    if fold:
        forms = [{"train": f"u{fold}.base*", "test": f"u{fold}.test*"}]
    else:
        own = {part: f"{part}.*" for part in (*SPLITS, "interactions")}
        forms = [own, *({"interactions": pattern} for pattern in MOVIELENS)]
    for remote in REGISTRY[name].files if name in REGISTRY else ():
        if fold and f"u{fold}.base" not in remote.members:
            continue  # there is no such fold to fetch
        if remote.members:
            enough = all if fold else any
            here = any(
                enough(any(folder.glob(pattern)) for pattern in form.values()) for form in forms
            )
        else:
            here = any(folder.glob(remote.pattern))
        if not here:
            fetch(remote, folder, allowed=download)
    sources = next(filter(None, (_matching(folder, form) for form in forms)), {})
    if fold and len(sources) < 2:
        raise UserError(
            f"{folder} has no fold {fold}: it needs u{fold}.base and u{fold}.test; leave --fold out"
        )
    if not (sources.keys() == {"interactions"} or {"train", "test"} <= sources.keys() <= {*SPLITS}):
        found = ", ".join(path.name for path in sources.values()) or "none of them"
        raise UserError(
            f"{folder} needs train.* and test.* (valid.* may join them), or one of interactions.*, u.data and "
            f"ratings.*; it has {found}"
        )
    return sources


def _matching(folder, form):
    """{part: the file that matches} of {part: pattern}. Raises UserError where several do."""
    sources = {}
    for part, pattern in form.items():
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if len(found) > 1:
            raise UserError(
                f"{folder} holds {' and '.join(path.name for path in found)}; keep one of them"
            )
        if found:
            sources[part] = found[0]
    return sources
