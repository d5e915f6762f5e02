import errno
import os
import subprocess
import sys

import pytest

from knee_jax import files
from tests.commands import REPOSITORY


def test_a_lock_is_held_by_one_at_a_time(tmp_path):
    with files.locked(tmp_path / "lock") as first:
        assert first
        with files.locked(tmp_path / "lock") as second:
            assert not second
    with files.locked(tmp_path / "lock") as third:
        assert third


@pytest.fixture
def no_flock(monkeypatch):
    """Makes the file system one that knows no locks, as Lustre without its mount option."""
    fcntl = pytest.importorskip("fcntl")

    def with_error(name):
        def flock(*_):
            raise OSError(getattr(errno, name), "no locks")

        monkeypatch.setattr(fcntl, "flock", flock)

    return with_error


@pytest.mark.parametrize("code", ["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def test_where_the_file_system_knows_no_locks_a_file_is_one(tmp_path, no_flock, code):
    no_flock(code)
    test_a_lock_is_held_by_one_at_a_time(tmp_path)


KILLED = """
import errno, fcntl, os, pathlib, sys
from knee_jax import files

def flock(*_):
    raise OSError(errno.ENOLCK, "no locks")

fcntl.flock = flock
held = files.locked(pathlib.Path(sys.argv[1]))
held.__enter__()
os._exit(9)
"""


def test_what_was_left_by_a_killed_process_does_not_lock_for_ever(tmp_path, no_flock):
    no_flock("ENOLCK")
    line = [sys.executable, "-c", KILLED, str(tmp_path / "lock")]
    assert subprocess.run(line, cwd=REPOSITORY, check=False).returncode == 9
    assert any(path.name.endswith(".held") for path in tmp_path.iterdir())
    with files.locked(tmp_path / "lock") as free:
        assert free


def test_a_failed_write_leaves_the_old_file(tmp_path):
    files.write_text(tmp_path / "a", "old")

    def fail():
        with files.atomic_write(tmp_path / "a") as unfinished:
            unfinished.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (tmp_path / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_is_written_is_synced_before_it_takes_its_name(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append("sync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *a: (done.append("rename"), replace(*a)))
    files.write_bytes(tmp_path / "a", b"1")
    assert done == ["sync", "rename", "sync"]
