"""What each system optimises and reports; a task's file name is its name in a config."""

import importlib
import pkgutil
from types import ModuleType

from knee_jax.errors import UserError


def find(name: str) -> ModuleType:
    """The module of a task, with its `make` and `usable`.

    Raises:
        UserError: there is no such task.
    """
    names = [file.name for file in pkgutil.iter_modules(__path__) if file.name != "one_target"]
    if name not in names:
        raise UserError(f"unknown task {name!r}; choose from: {', '.join(names)}")
    return importlib.import_module(f"{__name__}.{name}")
