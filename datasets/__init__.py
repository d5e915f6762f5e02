"""TFDS builders of the prepared sets, one module a data set, found by the module's name."""

import importlib
import pathlib
import pkgutil
from typing import TYPE_CHECKING

from knee_jax.errors import UserError

if TYPE_CHECKING:
    from knee_jax.datasets.builders import KneeBuilder

_BASES = ("builders", "radiographs", "shards", "volumes")


def names() -> list[str]:
    """Names of the data sets that can be prepared."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in modules if name not in _BASES)


def builder(name: str, data_dir: str | pathlib.Path) -> "KneeBuilder":
    """Finds the builder of a data set.

    Args:
        name: the module's name, with a config of it after a slash where it has any
            ('kneekl224', 'phantom_xray/demo').
        data_dir: folder of all prepared sets.

    Raises:
        UserError: there is no such data set, or no such config of it.
    """
    module, _, config = name.partition("/")
    if module not in names():
        raise UserError(f"no data set is called {module!r}; there are: {', '.join(names())}")
    cls = importlib.import_module(f"{__name__}.{module}").Builder
    configs = [each.name for each in cls.BUILDER_CONFIGS]
    if config and config not in configs:
        known = ", ".join(configs) or "none"
        raise UserError(f"data set {module} has no config {config!r}; it has: {known}")
    return cls(data_dir=pathlib.Path(data_dir).expanduser(), config=config or None)
