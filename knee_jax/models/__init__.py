"""Networks, one file per family; a file that defines `Model` is a network, named by the file."""

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import flax.linen as nn

from knee_jax.config import fields
from knee_jax.errors import UserError
from knee_jax.models import weights


@functools.cache
def names() -> tuple[str, ...]:
    """List the networks that `create` knows."""
    files = [file.name for file in pkgutil.iter_modules(__path__)]
    return tuple(name for name in files if hasattr(_module(name), "Model"))


def find(name: str) -> type[nn.Module]:
    """Return the class of a network; its `option` fields are what a config may set.

    Raises:
        UserError: There is no such network.
    """
    try:
        return _module(name).Model
    except (ImportError, AttributeError):
        hint = fields.nearest(name, names())
        raise UserError(f"unknown model {name!r}: {hint}") from None


def create(
    name: str, *, targets: Sequence[str] | None = None, dtype: Any = None, **options: Any
) -> nn.Module:
    """Build a network.

    Every network has the same call, `model.apply(variables, image, keypoints, train=...,
    rngs=...)`, and returns `{target: logits}` (see its docstring).

    Args:
        name: One of `names()`.
        targets: Names of the targets to predict; the network's usual ones if omitted.
        dtype: Compute type of the trunk; float32 if omitted.
        **options: Further fields of `config.model`.

    Raises:
        UserError: There is no such network, or it has no such field or value.
    """
    fixed: dict[str, Any] = {} if targets is None else {"targets": tuple(targets)}
    fixed |= {} if dtype is None else {"dtype": dtype}
    return fields.build(find(name), options, "config.model", **fixed)


IMAGENET = "imagenet"
"""Source of published weights in `config.init_from`, instead of a file."""


def find_weights(name: str, options: Mapping[str, Any], source: str) -> str:
    """Return the file of initial weights that `config.init_from` names.

    Args:
        name: Name of the network.
        options: Fields of the network.
        source: A file, or `IMAGENET` for a network whose file defines where its weights are.

    Raises:
        UserError: Published weights are not known for the network, or not installed.
    """
    if source != IMAGENET:
        return source
    module = _module(name)
    if not hasattr(module, IMAGENET):
        having = ", ".join(each for each in names() if hasattr(_module(each), IMAGENET))
        raise UserError(
            f"config.init_from = 'imagenet': is known for {having}; for {name} convert a file of "
            "weights by `knee-jax convert`, and name it"
        )
    return str(getattr(module, IMAGENET)(options))


def load(name: str, variables: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Fill the variables of a network with weights from a file.

    The network's own `load` is used if its file defines one; otherwise parameters are matched by
    name (`weights.fill`).
    """
    loader: Callable[..., dict[str, Any]] = getattr(_module(name), "load", weights.fill)
    return loader(dict(variables), source)


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")
