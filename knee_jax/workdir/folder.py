"""Folder of a run: its lock, its config, and the environment that it was made in."""

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from knee_jax.config import load
from knee_jax.config.load import RunConfig
from knee_jax.errors import UserError
from knee_jax.files import hash_of, locked, write_json
from knee_jax.workdir import manifest
from knee_jax.workdir.manifest import Manifest

CONFIG = "config.json"

ENVIRONMENT = "environment.json"

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "scikit-learn"),
    *("tensorflow-datasets", "clu", "ml-collections", "pydicom", "opencv-python-headless"),
)

FREE_FIELDS = (
    "data.leaks",
    "data.manual_dir",
    "data.mode",
    "data.workers",
    "evaluation.average",
    "evaluation.batch_size",
    "evaluation.num_resamples",
    "evaluation.scheme",
    "fsdp",
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
    require_writable(workdir)
    with locked(workdir / ".lock") as free:
        if not free:
            raise UserError(
                f"another process is training in {workdir}: wait for it, or choose another "
                "--workdir"
            )
        yield


def require_writable(workdir: Path) -> None:
    """Raise UserError if nothing can be written in the folder, before anything is computed."""
    probe = workdir / ".writable"
    try:
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        problem = (error.strerror or "cannot be written to").lower()
        raise UserError(
            f"--workdir={workdir} cannot be written to ({problem}): choose a copy of it, or "
            "another folder"
        ) from error


def write_config(
    workdir: Path, config: RunConfig, files: Mapping[str, bytes] | None = None
) -> None:
    """Write `config.json` and `environment.json`; the folder then belongs to this config.

    Args:
        workdir: Folder of the run.
        config: Its config.
        files: Further files that the run stands on, by name; the manifest lists them too.
    """
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        write_files(workdir, config, files or {})
        write_json(workdir / ENVIRONMENT, {**_history(workdir), **environment()})


@contextlib.contextmanager
def timed(workdirs: Sequence[Path]) -> Iterator[None]:
    """Add the time within to that which some runs have trained for, even if it ends in an error."""
    begun = time.monotonic()
    try:
        yield
    finally:
        seconds = (time.monotonic() - begun) / len(workdirs)
        for file in (each / ENVIRONMENT for each in workdirs):
            if jax.process_index() == 0 and file.exists():
                known = _read(file)
                known["training_seconds"] = round(known.get("training_seconds", 0) + seconds, 1)
                write_json(file, known)


def _history(workdir: Path) -> dict[str, Any]:
    """Return when a run was begun, by which command, and how long it has been trained."""
    now = datetime.datetime.now(datetime.UTC).isoformat(sep=" ", timespec="seconds")
    known = _read(workdir / ENVIRONMENT)
    return {
        "command": known.get("command", command()),
        "started": known.get("started", now),
        "training_seconds": known.get("training_seconds", 0),
    }


def _read(file: Path) -> dict[str, Any]:
    """Return the content of a JSON file; nothing if it is missing or damaged."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def commit_of(workdir: Path) -> str | None:
    """Return the commit that a run was begun with; None if it is not recorded."""
    return _read(workdir / ENVIRONMENT).get("git_commit")


def command() -> str:
    """Return the command of this process as it was typed, for a POSIX shell."""
    # Flags are rewritten in `sys.argv`.
    _, *words = sys.orig_argv
    while words and words[0].startswith("-") and words[0] not in ("-m", "-c"):
        words.pop(0)
    if words[:1] == ["-m"]:
        return shlex.join(["python", *words])
    return shlex.join([Path(words[0]).name, *words[1:]]) if words else "python"


def cpu() -> str:
    """Return the name of the CPU, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def write_files(workdir: Path, config: RunConfig, files: Mapping[str, bytes]) -> None:
    """Write `config.json` and other files that the run stands on, and list them; see above."""
    if jax.process_index() == 0:
        content = {CONFIG: load.json_of(config).encode(), **files}
        manifest.write(workdir, content, _hash_of_fixed(config))


def require(workdir: Path) -> None:
    """Raise UserError if the folder holds no run."""
    if not any((workdir / name).exists() for name in (CONFIG, manifest.FILE)):
        raise UserError(f"--workdir={workdir} holds no run (config.json is missing): train first")


def check_same_config(workdir: Path, config: RunConfig) -> Manifest | None:
    """Raise UserError if the folder holds a run of another config, naming the differences.

    Values of `FREE_FIELDS` may differ. A damaged `config.json` is made again from the same config.

    Returns:
        Manifest of the run, if there is one.
    """
    file = workdir / CONFIG
    listed = manifest.read(workdir)
    if listed and (fault := listed.fault(CONFIG)):
        if listed.config != _hash_of_fixed(config):
            raise UserError(
                f"{file} {fault}, and the config of this command is not that of the run: give the "
                "run's own config, or choose another --workdir"
            )
        return listed
    if not file.exists():
        return listed
    old, new = fixed(load.saved(file)), fixed(config)
    differing = [
        f"{name} ({old.get(name, 'absent')} there, {new.get(name, 'absent')} now)"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    if differing:
        hint = f"; `knee-jax evaluate {workdir} --data=SET` scores it on another set"
        raise UserError(
            f"{workdir} holds a run of another config; it differs in {', '.join(differing)}: "
            "choose another --workdir, or the config of that run"
            f"{hint if any(name.startswith('data.') for name in differing) else ''}"
        )
    return listed


def fixed(config: RunConfig) -> dict[str, Any]:
    """Return the fields of a config that a run never changes, by their dotted names."""
    fields = load.flatten(load.plain(config))
    return {name: value for name, value in fields.items() if not name.startswith(FREE_FIELDS)}


def _hash_of_fixed(config: RunConfig) -> str:
    return hash_of(json.dumps(fixed(config), sort_keys=True).encode())


def environment() -> dict[str, Any]:
    """Return versions, git commit and devices."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "knee_jax": importlib.metadata.version("knee_jax"),
        "git_commit": git_commit(),
        "cpu": cpu(),
        "cpu_cores": os.cpu_count(),
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
