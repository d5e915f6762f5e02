"""The folder of a run: what it was asked for, and with what it was made."""

import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax
import ml_collections

from knee_jax.errors import UserError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "scikit-learn")

FREE_FIELDS = ("data.manual_dir", "data.mode", "data.workers", "log_every", "checkpoint_every")
"""Config fields that do not change a result: a run may be resumed with other values of them."""


def claim(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Makes the folder, or checks that it belongs to a run of the same config.

    Writes `config.json` and `environment.json`.

    Raises:
        UserError: the folder holds a run of another config.
    """
    wanted = json.loads(config.to_json())
    file = workdir / "config.json"
    if file.exists():
        refuse_difference(workdir, json.loads(file.read_text(encoding="utf-8")), wanted)
    if jax.process_index() == 0:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise UserError(f"--workdir={workdir} cannot be made: {error.strerror}") from error
        write_json(file, wanted)
        write_json(workdir / "environment.json", environment())


def refuse_difference(workdir: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Raises UserError naming the fields in which two configs differ, `FREE_FIELDS` aside."""
    old, new = _flatten(there), _flatten(here)
    differing = [
        f"{name} ({old.get(name, 'absent')} there, {new.get(name, 'absent')} now)"
        for name in sorted(old.keys() | new.keys())
        if name not in FREE_FIELDS and old.get(name) != new.get(name)
    ]
    if differing:
        raise UserError(
            f"{workdir} holds a run of another config; it differs in {', '.join(differing)}: "
            "choose another --workdir, or the config of that run"
        )


def environment() -> dict[str, Any]:
    """Versions, git commit and devices."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "knee_jax": importlib.metadata.version("knee_jax"),
        "git_commit": commit or None,
        "devices": [device.device_kind for device in jax.devices()],
        "num_processes": jax.process_count(),
    }


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file, all or nothing."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
