"""What the line for an error says, and which process reports it."""

import errno
import os
import resource

import numpy as np
import pytest
import torch

from cli.errors import Diverged, UserError, message_of, should_report


@pytest.mark.parametrize(
    ("allocate", "asked"),
    [
        (lambda: torch.empty(1 << 50), " (4,503,599,627 MB more)"),
        (lambda: np.empty(1 << 53, np.int8), " (8.00 PiB more)"),
        (lambda: bytearray(1 << 60), ""),
    ],
)
def test_what_cannot_be_allocated_is_told(allocate, asked):
    with pytest.raises((MemoryError, RuntimeError)) as found:
        allocate()
    assert message_of(found.value).startswith(f"out of memory{asked}; lower --dim, --batch_size,")


def test_other_signs_of_too_little_memory(monkeypatch):
    gpu = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 MiB")
    assert message_of(gpu).startswith("out of memory (2.00 GiB more); lower --dim")
    full = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), "file")
    assert message_of(full).startswith("out of memory; lower")
    assert message_of(RuntimeError("std::bad_alloc")).startswith("out of memory; lower")
    library = ImportError("libtorch.so: failed to map segment from shared object")
    assert message_of(library) is None  # it may lie where nothing may be run
    monkeypatch.setattr(resource, "getrlimit", lambda what: (1 << 30, 1 << 30))
    assert message_of(library).startswith("out of memory; lower")


def test_who_tells_of_an_error(monkeypatch):
    gone = RuntimeError("[/x/y.cc:538] Connection closed by peer [10.9.0.1]:4321. And more")
    assert message_of(gone) is None  # in one process that is a bug
    for name, value in {"WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    assert message_of(gone).startswith(
        "another process failed (Connection closed by peer [10.9.0.1]:4321);"
    )
    for rank, local, own, common, lost in ((0, 0, 1, 1, 1), (1, 1, 1, 0, 0), (2, 0, 1, 0, 1)):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(local))
        assert [should_report(error) for error in (UserError("own"), Diverged("nan"), gone)] == [
            own,
            common,
            lost,
        ]
