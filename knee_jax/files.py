"""Writing files all or nothing: who reads while we write sees the old file or the new one."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(path: Path | str) -> Iterator[Path]:
    """Gives a path to write to, and puts what was written in the place of `path` at the end.

    Where the writing fails, or the process is killed, `path` stays as it was.
    """
    path = Path(path)
    unfinished = path.with_name(f".unfinished_{path.name}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Replaces a text file (UTF-8)."""
    with whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
