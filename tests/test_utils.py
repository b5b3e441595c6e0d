"""Files that are written whole, through links and pipes, and on full disks; what a kill leaves."""

import logging
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import threading

import numpy as np
import pytest
from tools import ROOT

from cli.errors import Console, finish_output, message_of, status_of
from utils import atomic_file, output_file, remove_unfinished, temporary_folder


@pytest.fixture(scope="module")
def gone():
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.fixture
def little_room():
    """No file may become longer than 1000 bytes, as on a full disk."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.write(b"x" * 100_000),
        lambda file: np.save(file, np.zeros(100_000)),
        lambda file: file.raw.write(b"x" * 1000) and file.raw.write(b"x"),
    ],
)
def test_a_full_disk_is_told_with_the_path(work, little_room, write):
    path = work / "file"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="file") as found, atomic_file(path) as file:
        write(file)
    assert message_of(found.value).startswith(f"cannot write {path} (")
    assert message_of(found.value).endswith("make room there")
    assert [(file.name, file.read_bytes()) for file in work.iterdir()] == [("file", b"old")]


def test_an_output_is_written_through_a_link(work):
    for name in ("file", "absent"):
        (work / name).symlink_to(work / f"other {name}")
    (work / "other file").write_text("old and longer")
    for name in ("file", "absent"):
        with output_file(work / name) as file:
            file.write("new")
        assert (work / name).is_symlink()
        assert (work / f"other {name}").read_text() == "new"


def test_an_output_is_written_to_a_pipe(work):
    os.mkfifo(work / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((work / "pipe").read_text()))
    reader.start()
    with output_file(work / "pipe") as file:
        file.write("new")
    reader.join()
    assert (read, (work / "pipe").is_fifo()) == (["new"], True)


def test_an_output_is_written_to_a_device(work):
    for name in ("null", "full"):
        (work / name).symlink_to(f"/dev/{name}")  # if it were replaced, then only the link
    with output_file(work / "null") as file:
        file.write("new")
    with pytest.raises(OSError, match="full") as found, output_file(work / "full") as file:
        file.write("new")
    expected = f"cannot write {work / 'full'} (No space left on device); make room there"
    assert message_of(found.value) == expected
    assert all((work / name).is_symlink() for name in ("null", "full"))


def test_an_output_is_a_whole_file_otherwise(work):
    (work / "file").write_text("old")
    with pytest.raises(TypeError), output_file(work / "file") as file:
        file.write(b"no text")
    assert (work / "file").read_text() == "old"


def test_what_killed_processes_left_is_removed(work, gone):
    """By the next write of the same file; of the folder of a run, whatever it is."""
    node = platform.node()
    stale = work / f".file.{node}.{gone}.tmp"
    kept = [work / f".file.{node}.{os.getppid()}.tmp", work / f".file.other.{gone}.tmp"]
    kept += [work / f".other.{node}.{gone}.tmp", work / ".file.tmp", work / "file.tmp"]
    for path in (stale, *kept):
        path.touch()
    with atomic_file(work / "file") as file:
        file.write(b"new")
    assert {*work.iterdir()} == {work / "file", *kept}
    remove_unfinished(work, locked=True)
    assert {*work.iterdir()} == {work / "file", *kept[-2:]}


def test_temporary_folders_of_killed_processes_are_removed(work, gone, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(work))
    own = temporary_folder("clicks")
    stale = work / own.name.replace(f".{os.getpid()}.", f".{gone}.")
    (stale / "data").mkdir(parents=True)
    (work / f".clicks-link.{platform.node()}.{gone}.tmp").symlink_to(own)
    again = temporary_folder("clicks")
    assert {*work.iterdir()} == {own, again}


def test_output_that_cannot_be_written_is_an_error(monkeypatch, capsys):
    """The work goes on, and the command ends with status 2 and one line."""

    log, done = logging.getLogger("onebp"), []
    monkeypatch.setattr(log, "handlers", [])

    def action():
        log.warning("to stdout")
        done.append(True)

    for device, status in (("/dev/full", 2), ("/dev/null", 0)):
        with open(device, "w") as stream:
            monkeypatch.setattr(sys, "stdout", stream)
            log.handlers[:] = [Console(stream)]
            assert status_of("main.py", action) == status
        monkeypatch.undo()
        monkeypatch.setattr(log, "handlers", [])
    assert done == [True, True]
    line = "main.py: error: cannot write to standard output (No space left on device)"
    assert capsys.readouterr().err == f"{line}; files are written\n"


def test_a_reader_that_goes_away_is_no_error(monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        stream.write("text")
        finish_output()


def test_a_help_text_that_cannot_be_written_is_an_error():
    with open("/dev/full", "w") as full:
        found = subprocess.run(
            [sys.executable, ROOT / "main.py", "--help"], stdout=full, stderr=subprocess.PIPE
        )
    assert found.returncode == 2
    assert found.stderr.count(b"\n") == 1
    assert b"cannot write to standard output" in found.stderr
