"""A lock file, which keeps other processes away from the folder of a run or of a study.

The lock is flock's. Some file systems have none, and on some network file systems it does not reach
other machines. So the file also names its owner. A later process of another machine may become the
owner; the earlier one sees that after each epoch, and ends.
"""

import errno
import fcntl
import logging
import os
import platform
from contextlib import contextmanager, suppress

from cli.errors import UserError
from utils import is_running

log = logging.getLogger("onebp")

# {kind of what is locked: (flag that names it, what becomes of an earlier process elsewhere)}
KINDS = {"run": ("--run_name", "it ends after its epoch"), "study": ("--name", "end it")}
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)


class Lock:
    """A lock that this process holds.

    path: of its file, .<name of the run or study>.lock
    kind: "run" or "study"
    descriptor: of the file
    owner: its content: machine, process, and random letters
    """

    def __init__(self, path, kind, descriptor):
        self.path, self.kind, self.descriptor = path, kind, descriptor
        self.owner = f"{platform.node()} {os.getpid()} {os.urandom(8).hex()}"

    def name_owner(self):
        """Write the owner into the file. Raises UserError if that fails; the file is removed."""
        try:
            os.ftruncate(self.descriptor, 0)
            os.pwrite(self.descriptor, self.owner.encode(), 0)
            os.fsync(self.descriptor)  # other machines see it from now on
        except OSError as error:
            self.path.unlink(missing_ok=True)  # a later process need not find it without an owner
            what = f"cannot write {self.path} ({error.strerror}); make room there"
            raise UserError(what) from None

    def check(self):
        """Raise UserError if another process has become the owner."""
        with suppress(FileNotFoundError):  # somebody removed it: that makes no other owner
            owner = self.path.read_text(encoding="utf-8", errors="replace")
            if owner != self.owner:
                who = _in_words(owner)
                raise UserError(
                    f"{self.kind} {_name_of(self.path)} was started again by {who}, which holds "
                    f"{self.path} now; this process ends"
                )

    def release(self):
        """Remove the file, unless it is another's."""
        # While it is still held: whoever opened this file meanwhile sees that it is gone.
        with suppress(OSError, UserError):
            self.check()
            if _is_at(self.descriptor, self.path):
                self.path.unlink()
        os.close(self.descriptor)


@contextmanager
def locked(path, kind="run"):
    """Hold the lock of `path` for the block; the file is made, and removed at the end.

    kind: what it locks, "run" or "study"

    Yields the Lock. Raises UserError if another process holds it, if it is a link, or if it cannot
    be written.
    """
    lock = Lock(path, kind, _take(path, kind))
    try:
        lock.name_owner()
        yield lock
    finally:
        lock.release()


def _take(path, kind):
    """Open and lock `path`. Returns its descriptor. Raises UserError, see `locked`."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise UserError(f"{path}, the lock of the {kind}, is a link: remove it") from None
        try:
            has_locks = _flock(descriptor)
            # The process that held it may have removed the file since it was opened here; then
            # another process may hold a new one.
            if _is_at(descriptor, path):
                _check_owner(descriptor, path, has_locks, kind)
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise UserError(_under_way(path, "another process", kind)) from None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _flock(descriptor):
    """Lock a file. Returns False if its file system has no locks. Raises BlockingIOError."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def _check_owner(descriptor, path, has_locks, kind):
    """Look at the owner that the file names: it was killed, or flock does not reach it.

    Warns if it is a process of another machine. Raises UserError if it is one of this machine that
    still runs, and the file system has no locks.
    """
    owner = os.pread(descriptor, 1000, 0).decode(errors="replace")
    machine, process = _parts(owner)
    if machine != platform.node():
        if process:
            who, then = _in_words(owner), KINDS[kind][1]
            log.warning("warning: %s names %s; if that still runs, %s", path, who, then)
    elif not has_locks and process != str(os.getpid()) and is_running(process):
        what = _under_way(path, f"process {process}", kind)
        raise UserError(f"{what}; if that is no training, remove the file")


def _under_way(path, who, kind):
    return (
        f"{kind} {_name_of(path)} is under way in {who}, which holds {path}; wait for it, end it, "
        f"or give another {KINDS[kind][0]}"
    )


def _name_of(path):
    return path.name.removeprefix(".").removesuffix(".lock")


def _parts(owner):
    """(machine, process) that the content of a lock file names, or empty texts."""
    words = owner.split(" ")
    return words[:2] if len(words) == 3 else ("", "")


def _in_words(owner):
    machine, process = _parts(owner)
    return f"process {process} of {machine}" if process else "another process"


def _is_at(descriptor, path):
    """Whether an open file is the one at `path`. Raises FileNotFoundError if there is none."""
    return os.path.samestat(os.fstat(descriptor), os.lstat(path))
