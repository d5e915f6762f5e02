"""What docs/explanation/architecture.md promises of who imports whom; and never TensorFlow."""

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import REPOSITORY, command, train_flags

ROOMS = {"knee_jax": REPOSITORY / "knee_jax"} | {
    f"knee_jax.{name}": REPOSITORY / name for name in ("configs", "datasets")
}


def imports_by_module() -> dict[str, set[str]]:
    """Dotted name of every module of the package → dotted names of all that it imports."""
    found = {}
    for package, folder in ROOMS.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            module = ".".join([package, *(part for part in parts if part != "__init__")])
            names = set()
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    assert node.level == 0, f"{path}: a relative import"
                    names |= {f"{node.module}.{alias.name}" for alias in node.names}
                    names.add(node.module)
            found[module] = names
    return found


IMPORTS = imports_by_module()


def importers(of: str) -> set[str]:
    return {
        module
        for module, names in IMPORTS.items()
        if any(name == of or name.startswith(of + ".") for name in names)
    }


def room(prefix: str) -> set[str]:
    return {m for m in IMPORTS if m == prefix or m.startswith(prefix + ".")}


def test_the_walk_sees_the_package():
    assert {"knee_jax.main", "knee_jax.ingest.dicom", "knee_jax.datasets.kneekl224"} <= set(IMPORTS)
    assert importers("jax")


@pytest.mark.parametrize(
    ("of", "allowed"),
    [
        ("knee_jax.train", {"knee_jax.main", "knee_jax.members"}),
        ("orbax", {"knee_jax.checkpoint"}),
        ("flax.linen", room("knee_jax.models") | {"knee_jax.experiment"}),
        ("tensorflow", set()),
        ("torch", {"knee_jax.models.weights"}),
        ("knee_jax.data", set(IMPORTS) - room("knee_jax.models") - room("knee_jax.ingest")),
        ("jax", set(IMPORTS) - room("knee_jax.ingest") - room("knee_jax.phantom")),
        ("knee_jax.phantom", room("knee_jax.phantom") | room("knee_jax.datasets")),
    ],
)
def test_only_these_import(of, allowed):
    assert importers(of) <= allowed


def test_ingest_and_phantom_run_without_jax():
    modules = sorted(room("knee_jax.ingest") | room("knee_jax.phantom"))
    modules.remove("knee_jax.phantom.__main__")
    code = f"import sys, {', '.join(modules)}; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


def test_tensorflow_is_not_installed():
    assert importlib.util.find_spec("tensorflow") is None


@pytest.mark.slow
def test_no_path_imports_tensorflow(tmp_path):
    """A planted package tells whether anything, TFDS and Orbax included, tries to import it."""
    trap, marker = tmp_path / "trap" / "tensorflow", tmp_path / "imported"
    trap.mkdir(parents=True)
    (trap / "__init__.py").write_text(
        f"import pathlib, traceback\n"
        f"pathlib.Path({str(marker)!r}).write_text(''.join(traceback.format_stack()))\n"
        "raise ImportError('TensorFlow was imported')\n"
    )
    line, environment = command(*train_flags(tmp_path / "run", tmp_path / "data", "kpn.py", ()))
    environment["PYTHONPATH"] = os.pathsep.join([str(trap.parent), str(Path.cwd())])
    done = subprocess.run(
        line, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "report" / "index.html").exists()
    assert not marker.exists(), marker.read_text()
