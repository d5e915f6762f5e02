"""TFDS builders of the prepared sets: a module that defines a class `Builder` is a data set.

The name of the module is that of the data set.
"""

import importlib
import pathlib
import pkgutil
from typing import TYPE_CHECKING

from knee_jax.errors import UserError

if TYPE_CHECKING:
    from knee_jax.datasets.builders import KneeBuilder


def names() -> list[str]:
    """Return the names of the data sets that can be prepared."""
    return sorted(_builders())


def builder(name: str, data_dir: str | pathlib.Path) -> "KneeBuilder":
    """Find the builder of a data set.

    Args:
        name: Name of the data set, followed by a slash and its config if it has any ('kneekl224',
            'phantom_xray/demo').
        data_dir: Folder of all prepared sets.

    Raises:
        UserError: There is no such data set, or no such config of it.
    """
    builders = _builders()
    module, _, config = name.partition("/")
    if module not in builders:
        known = ", ".join(sorted(builders))
        folder = pathlib.Path(__file__).parent
        raise UserError(f"no data set is called {module!r} in {folder}; there are: {known}")
    cls = builders[module]
    configs = [each.name for each in cls.BUILDER_CONFIGS]
    if config and config not in configs:
        known = ", ".join(configs) or "none"
        raise UserError(f"data set {module} has no config {config!r}; it has: {known}")
    return cls(data_dir=pathlib.Path(data_dir).expanduser(), config=config or None)


def _builders() -> dict[str, type["KneeBuilder"]]:
    """Return the builder of every module that defines one itself, by the module's name."""
    found = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        cls = vars(module).get("Builder")
        if cls is not None and cls.__module__ == module.__name__:
            found[info.name] = cls
    return found
