"""Atomic writing of files: a reader sees the old file or the new one, never a part of it."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Yield a path to write to, and replace `path` by what was written at the end.

    If the writing fails, or the process is killed, `path` is unchanged.
    """
    path = Path(path)
    unfinished = path.with_name(f".unfinished_{path.name}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Replace a text file (UTF-8)."""
    with atomic_write(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path: Path | str, content: Any) -> None:
    """Replace a JSON file."""
    write_text(path, json.dumps(content, indent=2) + "\n")
