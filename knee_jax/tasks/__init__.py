"""Tasks that systems optimise. A file that defines `Settings` is a task, named `Settings.name`.

`Settings` is the part `task` of a config; its `make` returns the `Task` of a run.
"""

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType

from knee_jax.config import fields
from knee_jax.errors import UserError
from knee_jax.tasks.protocols import Settings, Task

__all__ = ["Settings", "Task", "all_settings", "find"]


@functools.cache
def all_settings() -> Mapping[str, type[Settings]]:
    """Return the settings of every task by its name."""
    names = [file.name for file in pkgutil.iter_modules(__path__)]
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    found = [vars(module).get("Settings") for module in modules]
    # A protocol, or what a module has imported from another, declares nothing.
    return MappingProxyType(
        {
            settings.name: settings
            for module, settings in zip(modules, found)
            if settings is not None
            and settings.__module__ == module.__name__
            and hasattr(settings, "name")
        }
    )


def find(name: str) -> type[Settings]:
    """Return the settings of a task.

    Raises:
        UserError: There is no such task.
    """
    known = all_settings()
    if name not in known:
        raise UserError(f"unknown task {name!r}: {fields.nearest(name, known)}")
    return known[name]
