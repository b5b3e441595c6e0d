"""Free memory: of a machine and its control groups as files describe them, and of limits."""

import resource

import pytest
import torch
from tools import write

from engine import memory

CPU = torch.device("cpu")
MEMINFO = "MemTotal:  9000 kB\nMemAvailable:  5000 kB\nSwapFree:  500 kB\nHugePages_Total:  0\n"
NO_LIMIT = resource.RLIM_INFINITY


@pytest.fixture
def free(tmp_path, monkeypatch):
    """What is free, in kB, and why no more, by files: free({path: content}, {limit: kB})."""
    monkeypatch.setattr(memory, "_freed", lambda: 0)

    def free(files, limits=()):
        limits = dict(limits)
        monkeypatch.setattr(
            resource,
            "getrlimit",
            lambda what: (1024 * limits[what] if what in limits else NO_LIMIT, 0),
        )
        for path, content in {"proc/meminfo": MEMINFO, **files}.items():
            write(tmp_path / path, content)
        size, words = memory.free_memory(CPU, tmp_path)
        assert memory.in_words(size) in words
        return size / 1024, words

    return free


def group(top, limit, use, cached, prefix=""):
    """Files of a control group, {path: content}; sizes in kB."""
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if prefix else (
        "memory.max", "memory.current"
    )  # fmt: skip
    sizes = (size if isinstance(size, str) else f"{1024 * size}\n" for size in (limit, use))
    stat = f"anon 7\n{prefix}inactive_file {1024 * cached}\n{prefix}active_file 1024\n"
    return {f"{top}/{name}": size for name, size in zip(names, sizes, strict=True)} | {
        f"{top}/memory.stat": stat
    }


def test_a_machine_has_what_is_available_and_its_swap(free):
    assert free({}) == (5500, "this machine has 6 MB free")
    arc = "13 1 0x01 147 39984\nname  type data\nhits  4  77\nsize  4  2048000\nc_max 4 9\n"
    assert free({"proc/spl/kstat/zfs/arcstats": arc})[0] == 5500 + 2000


def test_a_control_group_leaves_its_limit_less_its_use_without_copies_of_files(free):
    own = {"proc/self/cgroup": "0::/job/step\n"}
    whole = group("sys/fs/cgroup/job/step", 3000, 2000, 300)
    assert free(own | whole)[0] == 3000 - 2000 + 300 + 1 + 500
    above = group("sys/fs/cgroup/job", 2500, 2400, 0)
    size, words = free(own | whole | above)
    assert size == 2500 - 2400 + 1 + 500
    assert words.startswith("the control group of this process")
    unlimited = group("sys/fs/cgroup/job", "max\n", 2400, 0)
    assert free(own | whole | unlimited)[0] == 3000 - 2000 + 300 + 1 + 500


def test_control_groups_of_version_1_and_those_of_a_container(free):
    """In a container the group's name is one of the machine, and its files are at the top."""
    own = {"proc/self/cgroup": "3:cpuset:/\n4:cpu,memory:/docker/12ab\n0::/\n"}
    top = group("sys/fs/cgroup/memory", 4000, 3900, 0, "total_")
    assert free(own | top)[0] == 4000 - 3900 + 1 + 500
    below = group("sys/fs/cgroup/memory/docker/12ab", 100, 300, 0, "total_")
    assert free(own | top | below)[0] == 100 - 300 + 1 + 500
    assert free(own | top | group("sys/fs/cgroup/memory/docker", 100, 3000, 0, "total_"))[0] == 0


def test_limits_of_the_process_count_its_use(free):
    own = {"proc/self/status": "Name: x\nVmSize:  1000 kB\nVmData:  400 kB\n"}
    size, words = free(own, {resource.RLIMIT_AS: 2500})
    assert (size, words) == (1500, "the limit of this process (ulimit -v) leaves 2 MB")
    limits = {resource.RLIMIT_AS: 2500, resource.RLIMIT_DATA: 1700}
    assert free(own, limits)[0] == 1300


def test_a_gpu_has_what_its_driver_says_and_what_pytorch_keeps(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5_000_000_000, 80_000_000_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3_000_000_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1_000_000_000)
    assert memory.free_memory(torch.device("cuda:1")) == (7_000_000_000, "cuda:1 has 7.0 GB free")


def test_memory_that_a_process_frees_counts_as_free():
    """Also what the C library keeps: a table may be made again right after it is dropped."""
    before, _ = memory.free_memory(CPU)
    held = [torch.ones(25_000) for _ in range(1000)]  # 100 MB in small blocks
    keep = held[::100]
    holding, _ = memory.free_memory(CPU)
    del held
    after, _ = memory.free_memory(CPU)
    assert holding < after + 1e7
    assert after - holding > 5e7 or before < holding  # other processes take and give, too
    assert len(keep) == 10
