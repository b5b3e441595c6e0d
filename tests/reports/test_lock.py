"""The lock of a run: one process at a time, whatever happens to the file."""

import fcntl
import os

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
    path.write_text("kept")
    with locked(path):
        assert path.read_text() == "kept"


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
