"""Imports between rooms, as docs/explanation/architecture.md allows them; never TensorFlow."""

import ast
import graphlib
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


def modules() -> dict[Path, str]:
    """Path of every module of the package → its dotted name."""
    return {
        path: ".".join([package, *path.relative_to(folder).with_suffix("").parts]).removesuffix(
            ".__init__"
        )
        for package, folder in ROOMS.items()
        for path in folder.rglob("*.py")
    }


def imports_by_module() -> dict[str, set[str]]:
    """Dotted name of every module of the package → dotted names of all that it imports."""
    found = {}
    for path, module in modules().items():
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


COMMANDS = (
    "main",
    "prepare",
    "predict",
    "serve.__main__",
    "evaluate",
    "finetune",
    "export",
    "reproduce",
    "convert",
    "dry_run",
    "compare",
    "coherence",
    "readers",
    "phantom.__main__",
)
DOORS = {f"knee_jax.{name}" for name in ("__main__", *COMMANDS)}
"""Modules that `python -m` runs."""


def test_the_walk_sees_the_package():
    assert {"knee_jax.main", "knee_jax.ingest.dicom", "knee_jax.datasets.kneekl224"} <= set(IMPORTS)
    assert importers("jax")


def test_every_room_is_a_package_and_so_in_the_wheel():
    folders = {path.parent for folder in ROOMS.values() for path in folder.rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


ABOVE_THE_RUN = {
    "knee_jax.evaluation",
    "knee_jax.experiments",
    "knee_jax.report",
    "knee_jax.cli",
    "knee_jax.training",
}


def rooms(*names: str) -> set[str]:
    return set().union(*(room(f"knee_jax.{name}") for name in names))


@pytest.mark.parametrize(
    ("of", "allowed"),
    [
        ("knee_jax.cli", room("knee_jax.cli") | DOORS),
        (
            "knee_jax.training.train",
            {"knee_jax.cli.train", "knee_jax.cli.finetune", "knee_jax.training.side_by_side"},
        ),
        ("knee_jax.training", rooms("training", "evaluation", "experiments", "report", "cli")),
        ("knee_jax.training.side_by_side", rooms("experiments")),
        (
            "knee_jax.inference",
            rooms("inference", "cli", "pacs", "reading", "serve")
            | {"knee_jax", "knee_jax.evaluation.on_set", "knee_jax.evaluation.familiar"}
            | {"knee_jax.experiments.finetune"},
        ),
        ("knee_jax.serve", rooms("serve", "reading") | {"knee_jax.cli.serve", "knee_jax.cli.read"}),
        ("fastapi", rooms("serve") | {"knee_jax.reading.app"}),
        ("orbax", {"knee_jax.workdir.checkpoint"}),
        (
            "flax.linen",
            room("knee_jax.models") | {"knee_jax.training.run", "knee_jax.inference.run"},
        ),
        ("tensorflow", set()),
        ("torch", {"knee_jax.models.weights"}),
        ("knee_jax.data", set(IMPORTS) - rooms("models", "ingest", "targets", "metrics", "tasks")),
        (
            "knee_jax.cohort",
            rooms("cohort", "training", "cli") | {"knee_jax.experiments.finetune"},
        ),
        ("knee_jax.datasets", rooms("datasets", "cohort", "cli") - {"knee_jax.inference"}),
        ("jax", set(IMPORTS) - rooms("ingest", "phantom", "metrics", "datasets", "configs")),
        ("knee_jax.phantom", rooms("phantom", "datasets") | {"knee_jax.cli.phantom"}),
        ("tensorflow_datasets", rooms("datasets") | {"knee_jax.data.prepared"}),
    ],
)
def test_only_these_import(of, allowed):
    assert importers(of) <= allowed


def test_rooms_below_do_not_know_those_above():
    for lower in ("targets", "metrics", "models", "tasks", "data", "cohort", "config", "workdir"):
        for module in rooms(lower):
            upward = {n for n in IMPORTS[module] for top in ABOVE_THE_RUN if n.startswith(top)}
            assert not upward, f"{module} imports {sorted(upward)}"


class WithoutTypeChecking(ast.NodeTransformer):
    def visit_If(self, node):
        return None if getattr(node.test, "id", "") == "TYPE_CHECKING" else node


def test_imports_run_in_no_circle_late_ones_neither():
    graph = {}
    for path, module in modules().items():
        tree = WithoutTypeChecking().visit(ast.parse(path.read_text(encoding="utf-8")))
        imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        names = [
            (node.module, f"{node.module}.{each.name}") for node in imported for each in node.names
        ]
        graph[module] = {whole if whole in IMPORTS else of for of, whole in names} - {module}
    graph["knee_jax.cli"] = set()  # The dispatcher starts what stands on it.
    assert "knee_jax.targets" in graph["knee_jax.metrics.endpoints"]
    graphlib.TopologicalSorter(graph).prepare()


def needed_by(module: str) -> set[str]:
    """Modules of the package that importing one brings in, late imports too."""
    found, left = set(), [module]
    while left:
        for name in IMPORTS[left.pop()] & set(IMPORTS) - found:
            found.add(name)
            left.append(name)
    return found


@pytest.mark.parametrize("command", ["predict", "serve", "evaluate", "export"])
def test_what_uses_a_finished_run_needs_no_code_of_training(command):
    needed = needed_by(f"knee_jax.cli.{command}") - {"knee_jax.cli"}
    assert "knee_jax.inference.run" in needed
    assert not needed & rooms("training", "experiments")


def test_ingest_and_phantom_run_without_jax():
    modules = sorted(room("knee_jax.ingest") | room("knee_jax.phantom"))
    code = f"import sys, {', '.join(modules)}; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


def test_tensorflow_is_not_installed():
    assert importlib.util.find_spec("tensorflow") is None


@pytest.mark.long
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
