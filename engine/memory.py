"""How much memory is free: on the machine or the GPU, and under the limits of this process."""

import ctypes
import os
import resource
from contextlib import suppress
from pathlib import Path

import torch

CONTROL_GROUPS = Path("sys/fs/cgroup")
# Files of a control group of memory: its folder, its limit, its use, and lines of memory.stat with
# the copies of files in that use, which the system drops if it needs the memory.
CACHED = ("inactive_file", "active_file", "slab_reclaimable")
VERSION_1 = "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"
VERSION_2 = "", "memory.max", "memory.current", ""


def free_memory(device, root=Path("/")):
    """(bytes that can still be allocated on a torch device, words that say why no more).

    On a CPU the least of: what the machine has available, with swap; what the control groups
    leave (containers, Slurm); what `ulimit -v` and `ulimit -d` leave.

    root: folder with `proc` and `sys`, for tests
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # PyTorch keeps what it frees, and uses it again.
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free, f"{device} has {in_words(free)} free"
    left, words = min([_of_machine(root), *_of_control_groups(root), *_of_limits(root)])
    free = max(left, 0) + _freed()
    return free, words.format(in_words(free))


def in_words(size):
    """A number of bytes to read: 21.3 GB, or 87 MB."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.0f} MB"


def _of_machine(root):
    """What the machine has free; all it has where the system does not tell (macOS)."""
    words = "this machine has {} free"
    sizes = _numbers(root / "proc/meminfo")
    if "MemAvailable" not in sizes:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), words
    # The cache of ZFS shrinks if memory is needed, but the system does not count it as available.
    zfs = [line.split() for line in _text(root / "proc/spl/kstat/zfs/arcstats").splitlines()]
    cache = sum(int(fields[2]) for fields in zfs if fields[:1] == ["size"])
    return 1024 * (sizes["MemAvailable"] + sizes.get("SwapFree", 0)) + cache, words


def _of_control_groups(root):
    """Yield what the limit of each control group of this process leaves, and of those above it."""
    swap = 1024 * _numbers(root / "proc/meminfo").get("SwapFree", 0)
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        folder, limit, use, prefix = VERSION_1 if controllers else VERSION_2
        top = root / CONTROL_GROUPS / folder
        # In a container the group may be one of the machine, of which the container sees the top.
        for place in [top, *(top / part for part in _with_parents(group))]:
            sizes = [_text(place / name).strip() for name in (limit, use)]
            if all(size.isdecimal() for size in sizes):  # a limit may be `max`
                cached = _numbers(place / "memory.stat")
                cached = sum(cached.get(f"{prefix}{kind}", 0) for kind in CACHED)
                free = int(sizes[0]) - int(sizes[1]) + cached + swap
                yield free, "the control group of this process (container, Slurm) leaves {}"


def _with_parents(group):
    """The relative paths of a control group and of those above it, from a path like /a/b."""
    parts = group.strip("/").split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts) + 1)] if parts[0] else []


def _of_limits(root):
    """Yield what the limits of this process leave."""
    used = _numbers(root / "proc/self/status")
    for limit, field, flag in (
        (resource.RLIMIT_AS, "VmSize", "v"),
        (resource.RLIMIT_DATA, "VmData", "d"),
    ):
        most = resource.getrlimit(limit)[0]
        if most != resource.RLIM_INFINITY and field in used:
            words = f"the limit of this process (ulimit -{flag}) leaves {{}}"
            yield most - 1024 * used[field], words


class _Heap(ctypes.Structure):
    """What mallinfo2 of glibc returns; its first ten numbers."""

    _fields_ = [(f"number{place}", ctypes.c_size_t) for place in range(10)]


def _freed():
    """Bytes that this process has freed, and keeps to use again; 0 of another C library."""
    with suppress(OSError, AttributeError):
        mallinfo = ctypes.CDLL("libc.so.6").mallinfo2
        mallinfo.restype = _Heap
        return mallinfo().number8  # fordblks
    return 0


def _numbers(path):
    """{name: number} of the lines of a file like `name: 12 kB` or `name 12`; {} if it is absent."""
    fields = [line.replace(":", " ").split() for line in _text(path).splitlines()]
    return {words[0]: int(words[1]) for words in fields if len(words) > 1 and words[1].isdecimal()}


def _text(path):
    """Content of a file of the system; "" if it is absent or may not be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
