"""A lock file, which keeps other processes away from the folder of a run."""

import errno
import fcntl
import os
from contextlib import contextmanager, suppress

from cli.errors import UserError


@contextmanager
def locked(path):
    """Hold the lock of `path` for the block; the file is made, and removed at the end.

    Raises UserError if another process holds it, or if it is a link.
    """
    descriptor = _take(path)
    try:
        yield
    finally:
        # While it is still held: whoever opened this file meanwhile sees that it is gone.
        with suppress(FileNotFoundError):
            if _is_at(descriptor, path):
                path.unlink()
        os.close(descriptor)


def _take(path):
    """Open and lock `path`. Returns its descriptor. Raises UserError, see `locked`."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise UserError(f"{path}, the lock of the run, is a link: remove it") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The process that held it may have removed the file since it was opened here; then
            # another process may hold a new one.
            if _is_at(descriptor, path):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            name = path.name.removeprefix(".").removesuffix(".lock")
            raise UserError(
                f"run {name} is under way in another process, which holds {path}; wait for it, "
                "end it, or give another --run_name"
            ) from None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_at(descriptor, path):
    """Whether an open file is the one at `path`. Raises FileNotFoundError if there is none."""
    return os.path.samestat(os.fstat(descriptor), os.lstat(path))
