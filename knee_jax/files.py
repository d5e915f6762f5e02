"""Writing files all or nothing: who reads while we write sees the old file or the new one."""

import os
from pathlib import Path


def write_text(path: Path | str, text: str) -> None:
    """Replaces a text file (UTF-8) as a whole, also where the process is killed meanwhile."""
    path = Path(path)
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
