"""Folder of a run: its lock, its config, and the environment that it was made in."""

import contextlib
import fcntl
import importlib.metadata
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from knee_jax.config import load
from knee_jax.config.load import RunConfig
from knee_jax.errors import UserError
from knee_jax.files import write_json, write_text

CONFIG = "config.json"

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "scikit-learn")

FREE_FIELDS = (
    "data.manual_dir",
    "data.mode",
    "data.workers",
    "evaluation.average",
    "evaluation.batch_size",
    "evaluation.num_resamples",
    "evaluation.scheme",
    "steps_per_call",
    "log_every",
    "checkpoint_every",
    "paper_row",
    "sweep.",
)
"""Config fields, or their prefixes, that do not affect training: they may differ on resumption."""


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Make the folder and lock it for this run alone; the lock ends with the process.

    Raises:
        UserError: The folder cannot be made, or another run is using it.
    """
    if jax.process_index() > 0:
        yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise UserError(f"--workdir={workdir} cannot be made: {error.strerror}") from error
    with (workdir / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another process is training in {workdir}: wait for it, or choose another "
                "--workdir"
            ) from error
        yield


def write_config(workdir: Path, config: RunConfig) -> None:
    """Write `config.json` and `environment.json`; the folder then belongs to this config."""
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        write_text(workdir / CONFIG, load.json_of(config))
        write_json(workdir / "environment.json", environment())


def require(workdir: Path) -> None:
    """Raise UserError if the folder holds no run."""
    if not (workdir / CONFIG).exists():
        raise UserError(f"--workdir={workdir} holds no run (config.json is missing): train first")


def check_same_config(workdir: Path, config: RunConfig) -> None:
    """Raise UserError if the folder holds a run of another config, naming the differences.

    Values of `FREE_FIELDS` may differ.
    """
    file = workdir / CONFIG
    if not file.exists():
        return
    old, new = (load.flatten(load.plain(each)) for each in (load.saved(file), config))
    differing = [
        f"{name} ({old.get(name, 'absent')} there, {new.get(name, 'absent')} now)"
        for name in sorted(old.keys() | new.keys())
        if not name.startswith(FREE_FIELDS) and old.get(name) != new.get(name)
    ]
    if differing:
        raise UserError(
            f"{workdir} holds a run of another config; it differs in {', '.join(differing)}: "
            "choose another --workdir, or the config of that run"
        )


def environment() -> dict[str, Any]:
    """Return versions, git commit and devices."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "knee_jax": importlib.metadata.version("knee_jax"),
        "git_commit": git_commit(),
        "devices": [device.device_kind for device in jax.devices()],
        "num_processes": jax.process_count(),
    }


def git_commit() -> str | None:
    """Return the commit of this package's repository, '-dirty' if changed; None elsewhere."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists() or not shutil.which("git"):
        return None
    described = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    done = subprocess.run(described, cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
