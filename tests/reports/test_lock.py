"""The lock of a run: one process at a time, whatever happens to the file."""

import errno
import fcntl
import logging
import os
import platform

import pytest

from cli.errors import UserError
from reports.lock import locked


@pytest.fixture
def path(work):
    return work / ".run.lock"


def test_one_at_a_time(path):
    with locked(path):
        with pytest.raises(UserError, match="run run is under way in another process"):
            locked(path).__enter__()
        assert path.exists()
    assert not path.exists()
    with locked(path):
        assert path.exists()


def test_a_file_of_a_killed_process_is_no_lock(path):
    for content in ("", "x", f"{platform.node()} {os.getppid()} ab"):
        path.write_text(content)
        with locked(path) as lock:
            assert path.read_text() == lock.owner


def test_a_full_disk_is_told_and_no_lock_is_left(path, monkeypatch):
    def full(descriptor, content, place):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UserError, match=r"cannot write .*\.run\.lock \(No space left on device\)"):
        locked(path).__enter__()
    assert not path.exists()


def test_a_lock_that_was_removed_meanwhile_is_taken_anew(path, monkeypatch):
    """Between opening the file and locking it, its holder removes it, and another makes a new one.

    A lock of the removed file would let two processes in.
    """
    flock, calls = fcntl.flock, []

    def flock_late(descriptor, how):
        calls.append(descriptor)
        if len(calls) == 1:
            path.unlink()
        if len(calls) == 2:
            path.rename(path.with_name("old"))
            path.touch()
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock_late)
    with locked(path):
        assert len(calls) == 3
        assert os.path.samestat(os.fstat(calls[-1]), path.stat())
        with pytest.raises(UserError, match="under way"):
            locked(path).__enter__()


def test_a_lock_of_another_is_not_removed(path):
    with locked(path):
        path.rename(path.with_name("old"))
        path.touch()
    assert path.exists()


def test_a_link_is_refused_and_its_target_kept(path):
    target = path.with_name("target")
    target.write_text("content")
    path.symlink_to(target)
    with pytest.raises(UserError, match=r"\.run\.lock, the lock of the run, is a link: remove it"):
        locked(path).__enter__()
    assert target.read_text() == "content"
    assert path.is_symlink()


@pytest.fixture(params=[None, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def without_locks(request, monkeypatch):
    """A file system on which flock reaches no other machine, or fails."""

    def flock(descriptor, how):
        if request.param:
            raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)
    return request.param is not None


def test_of_two_machines_the_earlier_process_ends(path, monkeypatch, caplog, without_locks):
    caplog.set_level(logging.WARNING, "onebp")
    with locked(path) as earlier:
        earlier.check()
        monkeypatch.setattr(platform, "node", lambda: "node7")
        with locked(path) as later:
            later.check()
            assert "run.lock names process" in caplog.text
            with pytest.raises(
                UserError, match=rf"run run was started again by process {os.getpid()} of node7"
            ):
                earlier.check()
        assert not path.exists()
        earlier.check()  # the later one has ended


def test_a_file_of_another_is_left_to_it(path, monkeypatch, without_locks):
    earlier = locked(path)
    earlier.__enter__()
    monkeypatch.setattr(platform, "node", lambda: "node7")
    with locked(path) as later:
        earlier.__exit__(None, None, None)
        assert path.read_text() == later.owner


def test_without_locks_a_process_of_this_machine_keeps_others_away(path, without_locks):
    path.write_text(f"{platform.node()} {os.getppid()} ab")
    if without_locks:
        with pytest.raises(UserError, match=r"is under way in process \d+, .* remove the file"):
            locked(path).__enter__()
    else:  # flock tells who is alive
        locked(path).__enter__()


def test_a_lock_file_that_is_removed_is_no_other_owner(path):
    with locked(path) as lock:
        path.unlink()
        lock.check()
