"""Hashes of the files that a run stands on (`manifest.json`), by which damage is found.

Those of a checkpoint lie in its own folder (`workdir.checkpoint`), with which they come and go.
"""

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from knee_jax.files import hash_of, hash_of_file, write_bytes, write_json

FILE = "manifest.json"

MISSING, DAMAGED = "is missing", "is not as the run wrote it"

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Hashes of a run's files.

    Attributes:
        workdir: Folder of the run.
        files: Hashes that a file may have, by name. There are two while it is being replaced.
        config: Hash of the fields of the config in which a run never changes.
    """

    workdir: Path
    files: Mapping[str, tuple[str, ...]]
    config: str

    def fault(self, name: str) -> str:
        """Return what is wrong with a file: '', `MISSING` or `DAMAGED`."""
        path = self.workdir / name
        if name not in self.files:
            return ""
        if not path.is_file():
            return MISSING
        return "" if hash_of_file(path) in self.files[name] else DAMAGED

    def accepts(self, name: str, content: bytes) -> bool:
        """Return whether a file that was made again is what the run wrote."""
        return hash_of(content) in self.files.get(name, ())


def read(workdir: Path) -> Manifest | None:
    """Read the manifest of a run; None if it has none that can be believed, which is logged.

    A folder without `config.json` and checkpoints is no run yet, and lacks nothing.
    """
    path = workdir / FILE
    try:
        content = json.loads(path.read_bytes())
        body, own = content["body"], content["hash"]
        if own != _hash(body):
            raise ValueError
        files = {name: tuple(hashes) for name, hashes in body["files"].items()}
        return Manifest(workdir, files, body["config"])
    except FileNotFoundError:
        problem = MISSING
    except (ValueError, KeyError, TypeError, AttributeError):
        problem = DAMAGED
    if problem == DAMAGED or has_checkpoints(workdir):
        _log.warning("%s %s: the files of this run cannot be checked for damage", path, problem)
    return None


def has_checkpoints(workdir: Path) -> bool:
    """Return whether a run in this folder has saved anything, sound or not."""
    return any(path.name.isdigit() for path in (workdir / "checkpoints").glob("*"))


def write(workdir: Path, files: Mapping[str, bytes], config: str) -> None:
    """Write files of a run, and the manifest that lists them.

    Killed at any moment, it leaves a manifest that accepts what is there.

    Args:
        workdir: Folder of the run.
        files: Content of every file that the run stands on.
        config: Hash of the fields of the config in which a run never changes.
    """
    final = {name: (hash_of(content),) for name, content in files.items()}
    stale = {
        name: hash_of_file(workdir / name)
        for name in files
        if (workdir / name).is_file() and hash_of_file(workdir / name) not in final[name]
    }
    missing = [name for name in files if not (workdir / name).is_file()]
    if stale and (workdir / FILE).exists():
        both = {n: (*hashes, *([stale[n]] if n in stale else [])) for n, hashes in final.items()}
        _write(workdir, both, config)
    for name in (*stale, *missing):
        write_bytes(workdir / name, files[name])
    _write(workdir, final, config)


def _write(workdir: Path, files: Mapping[str, tuple[str, ...]], config: str) -> None:
    body = {"files": {name: list(hashes) for name, hashes in files.items()}, "config": config}
    write_json(workdir / FILE, {"body": body, "hash": _hash(body)})


def _hash(body: Any) -> str:
    return hash_of(json.dumps(body, sort_keys=True).encode())
