"""Atomic writing of files: a reader sees the old file or the new one, never a part of it."""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
"""Errors of a file system that knows no locks."""


@contextlib.contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Yield a path to write to, and replace `path` by what was written at the end.

    If the writing fails, or the process is killed, `path` is unchanged. What was written is on the
    disk before it takes the name, so that a power cut leaves one of the two files whole.
    """
    path = Path(path)
    unfinished = path.with_name(f".unfinished_{path.name}")
    try:
        yield unfinished
        sync(unfinished)
        os.replace(unfinished, path)
        sync(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    try:
        opened = os.open(path, os.O_RDONLY)
    except PermissionError:
        return  # Windows opens no folder.
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def write_bytes(path: Path | str, content: bytes) -> None:
    """Replace a file."""
    with atomic_write(path) as unfinished:
        unfinished.write_bytes(content)


def write_text(path: Path | str, text: str) -> None:
    """Replace a text file (UTF-8)."""
    write_bytes(path, text.encode())


def write_json(path: Path | str, content: Any) -> None:
    """Replace a JSON file."""
    write_text(path, json.dumps(content, indent=2) + "\n")


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold a lock that other processes see; yield False if one of them holds it.

    Where the file system has no locks of its own, as some of clusters, the lock is a file that
    names host and process, beside `path`; a killed process' is taken over on its own host.

    Args:
        path: File of the lock, which stays.
        wait: Whether to wait until the lock is free.
    """
    from filelock import FileLock, SoftFileLock, Timeout

    timeout = -1 if wait else 0
    own: FileLock | SoftFileLock = FileLock(path, timeout=timeout, fallback_to_soft=False)
    try:
        own.acquire()
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", errno.ENOSYS) not in _NO_LOCKS:
            raise
        own = SoftFileLock(path.with_name(f"{path.name}.held"), timeout=timeout)
        try:
            own.acquire()
        except Timeout:
            yield False
            return
    try:
        yield True
    finally:
        own.release()


def hash_of(content: bytes) -> str:
    """Return the SHA-256 of some bytes as hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def hash_of_file(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
