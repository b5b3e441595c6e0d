"""The folder of a study: one process at a time has it, and it holds one kind of study."""

from contextlib import contextmanager, suppress

from cli.errors import UserError
from reports.lock import locked
from utils import remove_unfinished

# What each kind of study leaves there, and no other does.
OF_STUDY, OF_SEARCH, OF_ONLINE = "study.csv", "optuna.log", "chains"


@contextmanager
def study_folder(folder, kind):
    """Make the folder (Path) of a study, and keep other processes away from it for the block.

    kind: OF_STUDY, OF_SEARCH or OF_ONLINE

    What killed processes left in it is removed. Raises UserError if another process has the folder,
    or if it holds another kind of study.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f".{folder.name}.lock"), "study"):
        for other in {OF_STUDY, OF_SEARCH, OF_ONLINE} - {kind}:
            if (folder / other).exists():
                raise UserError(f"{folder} holds another kind of study ({other}); give --name")
        folder.mkdir(exist_ok=True)
        clear(folder)
        try:
            yield
        finally:
            clear(folder)


def clear(folder):
    """Remove temporary files, and the locks of runs that no process holds."""
    remove_unfinished(folder, locked=True)
    for lock in folder.glob("*/.*.lock"):
        with suppress(UserError), locked(lock):
            pass
