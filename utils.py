"""What every stage needs: console log, device, random numbers, atomic files, facts on the run."""

import atexit
import ctypes
import errno
import glob
import hashlib
import logging
import os
import platform
import resource
import shutil
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from tqdm import tqdm

from cli import launch
from cli.errors import Console, UserError
from cli.text import escape_record, escaped

log = logging.getLogger("onebp")


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from malloc.h


def log_to_console():
    """Send the program's log to stdout. Called once, by main.py."""
    log.setLevel(logging.INFO if launch.is_main_process() else logging.CRITICAL)
    logging.raiseExceptions = False  # a closed pipe (`| head`) is no reason to stop training
    log.addFilter(escape_record)
    log.addHandler(Console(sys.stdout))
    EarlyLog().keep()


class EarlyLog(logging.Handler):
    """Keeps what is logged before the log.txt of a run is open, to write it there first."""

    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)

    def keep(self, records=()):
        """Start with `records`, and add what is logged from now on."""
        self.records = list(records)
        log.addHandler(self)

    def replay_into(self, handler):
        """Give all records to another handler, and stop."""
        for record in self.records:
            handler.handle(record)
        log.removeHandler(self)

    @staticmethod
    def active():
        """Those that keep what is logged now, a list."""
        return [handler for handler in log.handlers if isinstance(handler, EarlyLog)]


def keep_freed_memory():
    """Keep memory that a step frees in the process, if the C library is glibc.

    By default large blocks go back to the system at once, and the next step pays for their pages
    again: with weight decay on Gowalla that made a compiled step four times slower.
    """
    with suppress(OSError, AttributeError):  # another C library
        library = ctypes.CDLL("libc.so.6")
        for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            library.mallopt(option, 1 << 30)  # bytes


def on_terminal():
    """Whether stderr is a terminal, where progress bars are shown."""
    return launch.is_main_process() and sys.stderr is not None and sys.stderr.isatty()


def progress_bar(what, total, unit, initial=0):
    """Progress bar of `total` units, on a terminal only. The unit "B" is shown as kB or MB."""
    return tqdm(
        desc=escaped(what),
        total=total,
        initial=initial,
        unit=unit,
        unit_scale=unit == "B",
        leave=False,
        disable=not on_terminal(),
    )


def choose_device(name):
    """The torch device `name`; "auto" is the GPU if there is one.

    Of several processes on a machine, each gets a GPU of its own for "cuda". Raises UserError if
    the device is absent.
    """
    given = name
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if launch.local_world_size() > 1 and name.startswith("cuda:"):
        raise UserError(
            f"--device {name} would be that of all processes; "
            "with --device cuda each has one of its own"
        )
    if name == "cuda" and launch.world_size() > 1:
        name = f"cuda:{launch.local_rank()}"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("neither cpu nor cuda")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch's, for a misspelt or absent device
        reason = str(error).splitlines()[0][:100]
        known = "auto, cpu, cuda or cuda:<number>"
        raise UserError(f"--device {given}: {reason}; use {known}") from None
    if device.type == "cuda":
        # By default sums over rows are atomic additions in a varying order, and no continuation is
        # exact.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    return device


def make_generator(seed, device):
    """The one source of random numbers of a run, on the device. A checkpoint holds its state."""
    return torch.Generator(device).manual_seed(seed)


def restore_generator(generator, state):
    """Set the state of a generator, unless it is of another kind of device or number of ranks."""
    if len(state) == len(generator.get_state()):
        generator.set_state(state)
    else:
        what = "the checkpoint is of another kind of device or number of ranks"
        log.warning("warning: %s; the random numbers from here on are new", what)


@contextmanager
def cpu_threads(count):
    """Let PyTorch use `count` threads in the block. Sums keep a fixed order with several, too."""
    threads, fixed_order = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(count)
    torch.use_deterministic_algorithms(fixed_order or count > 1, warn_only=True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(fixed_order, warn_only=True)


@contextmanager
def atomic_file(path, mode="wb", **open_args):
    """Open a temporary file that becomes `path` if the block ends without an error.

    A reader sees the old file or the new one. The data is on disk before the rename, so a kill or a
    power cut at any moment leaves one of the two, whole. Raises OSError (disk full, no permission),
    which names the path, with nothing left behind. What killed processes left is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(path.parent, glob.escape(path.name))
    # Another process may write the same file.
    temporary = path.with_name(f".{path.name}{unfinished()}")
    try:
        with name_in_errors(path):
            with open(temporary, mode, **open_args) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextmanager
def output_file(path, mode="w", **open_args):
    """Open the file that a user names for the result of a command, as atomic_file.

    A device, a pipe or a link is not replaced, but written to: then nothing is atomic.
    """
    path = Path(path)
    if not path.is_symlink() and (path.is_file() or not path.exists()):
        with atomic_file(path, mode, **open_args) as file:
            yield file
        return
    with name_in_errors(path), open(path, mode, **open_args) as file:
        yield file


@contextmanager
def name_in_errors(path):
    """Let an OSError of the block name `path`, if it names no file, or a temporary one.

    One of a full disk names none.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None and not str(error.filename).endswith(unfinished()):
            raise
        # NumPy raises one without a number if the disk is full.
        number, reason = error.errno or errno.ENOSPC, error.strerror or str(error)
        raise OSError(number, reason, str(path)) from error


def unfinished():
    """The end of the names of temporary files and folders of this process."""
    return f".{platform.node()}.{os.getpid()}.tmp"


@contextmanager
def atomic_folder(path):
    """Make a temporary folder that becomes `path` if the block ends without an error.

    A folder that another process made meanwhile stays. What killed processes left is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(path.parent)
    temporary = path.with_name(f".{path.name}{unfinished()}")
    temporary.mkdir()
    try:
        yield temporary
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def temporary_folder(name):
    """Make a folder in the system's temporary one; it is removed when the process ends.

    Those of this name that killed processes left are removed now.
    """
    remove_unfinished(Path(tempfile.gettempdir()), f"{name}-*")
    made = tempfile.mkdtemp(prefix=f".{name}-", suffix=unfinished())
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)


def remove_unfinished(folder, name="*", locked=False):
    """Remove what atomic_file, atomic_folder and temporary_folder left of killed processes.

    name: pattern of the names that they were to get
    locked: whether no other process writes into the folder; else only those of processes of this
        machine that are gone
    """
    machine = "*" if locked else glob.escape(platform.node())
    for stale in folder.glob(f".{name}.{machine}.*.tmp"):
        if locked or not is_running(stale.name.split(".")[-2]):
            with suppress(OSError):  # it is another user's, in the system's temporary folder
                is_folder = stale.is_dir() and not stale.is_symlink()
                shutil.rmtree(stale) if is_folder else stale.unlink(missing_ok=True)


def is_running(process):
    """Whether there is a process of this number, a text."""
    try:
        os.kill(int(process), 0)  # signal 0 only asks
    except (ValueError, OverflowError, ProcessLookupError):
        return False
    except PermissionError:
        pass  # it is another user's
    return True


def write_csv(path, table):
    """Write a table whole, or not at all."""
    with atomic_file(path, "w", newline="", encoding="utf-8") as file:
        table.to_csv(file, index=False)


def _sync_folder(folder):
    """Make a rename durable. Some network file systems refuse, which is no error."""
    descriptor = os.open(folder, os.O_DIRECTORY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path):
    """Hex digest of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def versions():
    """{name: version} of Python and of the packages that the numbers depend on."""
    import numpy
    import pandas
    import scipy

    packages = {module.__name__: module.__version__ for module in (torch, numpy, pandas, scipy)}
    return {"python": platform.python_version(), **packages}


def peak_memory_mb(device):
    """Largest memory in use so far, in MB (10^6 bytes): torch's on a GPU, else the process's."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    if sys.platform == "darwin":
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 1)
    # On Linux a new process starts with the ru_maxrss of the one that started it; VmHWM is its own.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return round(int(status["VmHWM"].split()[0]) * 1024 / 1e6, 1)
