"""Targets of prediction. A file that defines `TARGETS` adds targets, `DICHOTOMIES` endpoints.

Nothing else needs to know of a new target: networks size their heads, batches carry its labels, and
tables, metrics and reports follow the object.
"""

import difflib
import functools
import importlib
import pkgutil
import types
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, cast

from knee_jax.errors import UserError
from knee_jax.targets.kinds import Binary, Dichotomy, Target


@functools.cache
def _declared(kind: str) -> tuple[Any, ...]:
    files = sorted(file.name for file in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in files]
    return tuple(each for module in modules for each in getattr(module, kind, ()))


@functools.cache
def all_targets() -> Mapping[str, Target]:
    """Return every target by its name, in the order of tables."""
    return types.MappingProxyType({target.name: target for target in _declared("TARGETS")})


@functools.cache
def dichotomies() -> Mapping[str, Dichotomy]:
    """Return every two-class endpoint by its name; a binary target is one of its own."""
    declared = {each.name: each for each in _declared("DICHOTOMIES")}
    binary = {
        name: Dichotomy(name, target.title, (name,), 1)
        for name, target in all_targets().items()
        if isinstance(target, Binary)
    }
    return types.MappingProxyType(declared | binary)


def get(name: str) -> Target:
    """Return the target of that name.

    Raises:
        UserError: There is no such target.
    """
    known = all_targets()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? There are" if near else "choose from"
        raise UserError(f"unknown target {name!r}; {hint}: {', '.join(known)}")
    return known[name]


def get_all(names: Iterable[str]) -> tuple[Target, ...]:
    """Return the targets of some names, in the order of the names."""
    return tuple(get(name) for name in names)


Kind = TypeVar("Kind")


def of_kind(names: Iterable[str], kind: type[Kind]) -> tuple[Kind, ...]:
    """Return those of the named targets that are of a kind, such as `kinds.Classes`."""
    return tuple(cast(Kind, target) for target in get_all(names) if isinstance(target, kind))
