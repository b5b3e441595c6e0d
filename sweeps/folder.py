"""The folder of a study: one process at a time has it, and it holds one kind of study."""

from contextlib import contextmanager, suppress

from cli.errors import UserError
from reports.lock import locked
from utils import remove_unfinished

# The kinds of studies, by what they leave there from their beginning.
OF_STUDY, OF_SEARCH, OF_ONLINE = "runs", "optuna.log", "chains"


@contextmanager
def study_folder(folder, kind):
    """Make the folder (Path) of a study, and keep other processes away from it for the block.

    kind: OF_STUDY, OF_SEARCH or OF_ONLINE

    What killed processes left in it is removed. Raises UserError if another process has the folder,
    or if it holds another kind of study.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f".{folder.name}.lock"), "study"):
        if (found := kind_of(folder)) not in (None, kind):
            raise UserError(f"{folder} holds another kind of study ({found}); give another --name")
        folder.mkdir(exist_ok=True)
        clear(folder)
        try:
            yield
        finally:
            clear(folder)


def kind_of(folder):
    """The kind of study that a folder holds, or None. A search has runs, too."""
    kinds = (OF_SEARCH, OF_ONLINE, OF_STUDY)
    found = next((kind for kind in kinds if (folder / kind).exists()), None)
    of_search = found == OF_STUDY and any(folder.glob("runs/trial-*"))
    return OF_SEARCH if of_search else found


def clear(folder):
    """Remove temporary files, and the locks of runs that no process holds."""
    remove_unfinished(folder, locked=True)
    for lock in folder.glob("*/.*.lock"):
        with suppress(UserError), locked(lock):
            pass
