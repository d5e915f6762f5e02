"""Writer of scalars to JSONL and TensorBoard, in the first process only."""

import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path

import jax

from knee_jax.files import write_bytes

_log = logging.getLogger(__name__)


class ScalarWriter:
    """Writer of rows `{"step": ..., name: value, ...}` to `metrics.jsonl` and TensorBoard.

    Args:
        workdir: Folder of the run.
        resume_step: Step to resume from; rows of later steps, left by a killed run, are removed.
    """

    def __init__(self, workdir: Path, resume_step: int):
        self._file = self._tensorboard = None
        if jax.process_index() == 0:
            path = workdir / "metrics.jsonl"
            _drop_after(path, resume_step)
            self._file = path.open("a", encoding="utf-8")
            self._tensorboard = _tensorboard_writer(workdir / "tensorboard", resume_step + 1)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write the scalars of a step."""
        if self._file and self._tensorboard:
            self._file.write(json.dumps({"step": step, **scalars}) + "\n")
            self._file.flush()
            for name, value in scalars.items():
                self._tensorboard.add_scalar(name, value, step)

    def close(self) -> None:
        """Finish the files."""
        if self._file and self._tensorboard:
            self._file.close()
            self._tensorboard.close()

    def __enter__(self) -> "ScalarWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _tensorboard_writer(folder: Path, purge_step: int):
    # tensorboardX imports torch if it is installed, which costs a second and serves only its
    # graphs. A module that is None cannot be imported, as if it were not installed.
    blocked = "torch" not in sys.modules
    if blocked:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from tensorboardX import SummaryWriter
    finally:
        if blocked:
            del sys.modules["torch"]
    return SummaryWriter(str(folder), purge_step=purge_step)


def _drop_after(path: Path, step: int) -> None:
    """Keep the whole rows up to a step; others are what a kill or a power cut has left."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    steps = [_step_of(line) for line in lines]
    if torn := steps.count(None):
        _log.warning("%s: %d lines are no rows of scalars, and are left out", path, torn)
    kept = [line for line, at in zip(lines, steps) if at is not None and at <= step]
    write_bytes(path, b"".join(kept))


def _step_of(line: bytes) -> int | None:
    """Return the step of a row, or None if it is not whole."""
    try:
        row = json.loads(line)
        return int(row["step"]) if line.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError):
        return None
