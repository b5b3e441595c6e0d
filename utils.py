"""What every stage needs: console log, device and generator, atomic files, checkpoints, facts about the run."""

import ctypes
import hashlib
import logging
import logging.handlers
import os
import platform
import resource
import sys
import warnings
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

import launch
from errors import UserError, explain, interrupts_held_back

log = logging.getLogger("onebp")

CHECKPOINT_FORMAT = 1
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from malloc.h


def log_to_console():
    """Send the program's log to stdout. Called once, by main.py."""
    log.setLevel(logging.INFO if launch.leads() else logging.CRITICAL)
    logging.raiseExceptions = False  # a closed pipe (`| head`) is no reason to stop training
    log.addHandler(logging.StreamHandler(sys.stdout))
    # Kept until the run's log.txt is open.
    log.addHandler(logging.handlers.MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1))


def keep_freed_memory():
    """Let memory that a step frees stay with the process, where the C library is glibc.

    By default large blocks go back to the system at once, and the next step pays for their pages anew: with weight
    decay on Gowalla that made a compiled step four times slower.
    """
    with suppress(OSError, AttributeError):  # another C library
        library = ctypes.CDLL("libc.so.6")
        for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            library.mallopt(option, 1 << 30)  # bytes


def on_terminal():
    """Whether progress bars have somebody who looks at them."""
    return launch.leads() and sys.stderr is not None and sys.stderr.isatty()


def choose_device(name):
    """The torch device called `name`: `auto` is the GPU when there is one. Raises UserError for one that is absent."""
    given = name
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if launch.neighbours() > 1 and name.startswith("cuda:"):
        raise UserError(f"--device {name} would be that of all processes; with --device cuda each has one of its own")
    if name == "cuda" and launch.launched() > 1:
        name = f"cuda:{launch.local_number()}"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("neither cpu nor cuda")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch's own words for a misspelt or absent one
        raise UserError(
            f"--device {given}: {str(error).splitlines()[0][:100]}; use auto, cpu, cuda or cuda:<number>"
        ) from None
    if device.type == "cuda":
        # By default sums over rows are atomic additions in a varying order; only without them is a continuation exact.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    return device


def make_generator(seed, device):
    """The run's one source of random numbers; it lives on the device and its state goes into the checkpoint."""
    return torch.Generator(device).manual_seed(seed)


@contextmanager
def cpu_threads(count):
    """Let PyTorch use `count` threads in the block; with more than one, sums are made in a fixed order all the same."""
    threads, fixed_order = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(count)
    torch.use_deterministic_algorithms(fixed_order or count > 1, warn_only=True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(fixed_order, warn_only=True)


def compiles(device):
    """Whether torch.compile works, and rightly, for the device; where it does not, a line says so."""
    # A few small kernels: worker processes would cost more than they save. Read when the compiler is loaded.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    log.info("compiling the training step: about 20 s the first time, 4 s later")
    table, index = torch.ones(7, 16, device=device), torch.arange(96, device=device) % 7
    try:
        torch.compile(_halve)(table, index)
        reason = "" if (table == 0.5).all() else "gives wrong results"
    except Exception as error:  # of whatever kind the absence of a C++ compiler, say, provokes
        error = getattr(error, "inner_exception", error)  # what the compiler's own error is about
        reason = "does not work: " + (str(error).strip() or type(error).__name__).splitlines()[0]
    if reason:
        log.warning("warning: not compiled, so slower; torch.compile of PyTorch %s %s", torch.__version__, reason)
    return not reason


def _halve(table, index):
    """Halve the rows at `index` once, as the training step updates rows that it touches several times.

    Compiled by PyTorch 2.6, repeats find their row already written, and halve it again.
    """
    table[index] = 0.5 * table.index_select(0, index)


def csr_tensor(indptr, indices, values, shape, device):
    """A sparse matrix from its three arrays or tensors. PyTorch calls them beta; the products used here are not."""
    indptr, indices, values = (torch.as_tensor(part, device=device) for part in (indptr, indices, values))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(indptr.long(), indices.long(), values, shape, check_invariants=False)


@contextmanager
def atomic_file(path, mode="wb", **open_args):
    """Open a temporary file that becomes `path` when the block ends well: a reader sees the old file or the new one.

    The data is on disk before the rename, so a kill or a power cut at any moment leaves one of the two, whole.
    Raises OSError (disk full, no permission) with nothing left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")  # others may write it too
    try:
        with open(temporary, mode, **open_args) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_csv(path, table):
    """Write a table whole, or not at all."""
    with atomic_file(path, "w", newline="", encoding="utf-8") as file:
        table.to_csv(file, index=False)


def _sync_folder(folder):
    """Make a rename durable, where the file system lets one (some network file systems refuse)."""
    descriptor = os.open(folder, os.O_DIRECTORY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_checkpoint(path, state):
    """Write `state` (a dict of tensors and plain types) atomically: equal states make equal bytes.

    Raises UserError when the disk refuses.
    """
    try:
        with interrupts_held_back(), atomic_file(path) as file:
            torch.save(_canonical({"format": CHECKPOINT_FORMAT, **state}), file)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError of its archive writer
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"cannot write {path} ({reason}); free disk space or set --checkpoint_dir") from error


def _canonical(value):
    """The same value with fresh containers and one object per text: pickle writes down which objects are shared."""
    if isinstance(value, dict):
        return {_canonical(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return sys.intern(value) if isinstance(value, str) else value


def load_checkpoint(path):
    """Read what `save_checkpoint` wrote, on the CPU. No code in the file can run.

    Raises UserError when the file is absent, cut off, not a checkpoint, or of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"no checkpoint at {path}; check --run_name and --checkpoint_dir, or train it first (--train_mode new)"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            if changed := archive.testzip():  # torch.load does not look at the checksums
                raise ValueError(f"wrong checksum of {changed}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever bytes can provoke: zip, pickle, unicode, value and key errors among them
        if explain(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
        raise UserError(f"{path} is damaged or no checkpoint ({reason}); start with --train_mode new") from None
    if not isinstance(state, dict) or state.get("format") != CHECKPOINT_FORMAT:
        raise UserError(f"{path} is not a checkpoint of this program; start with --train_mode new")
    return state


def file_sha256(path):
    """Hex digest of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def versions():
    """Version of Python and of the packages that shape the numbers, by name."""
    import numpy
    import pandas
    import scipy

    packages = {module.__name__: module.__version__ for module in (torch, numpy, pandas, scipy)}
    return {"python": platform.python_version(), **packages}


def peak_memory_mb(device):
    """Largest memory in use so far, in MB (10^6 bytes): on the GPU what torch allocated there, else the process's."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    if sys.platform == "darwin":
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 1)
    # On Linux a new process starts with the ru_maxrss of the one that started it; VmHWM is its own.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return round(int(status["VmHWM"].split()[0]) * 1024 / 1e6, 1)
