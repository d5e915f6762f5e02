"""One file a network family; the file's name is the network's name in a config."""

import dataclasses
import importlib
import pkgutil

import flax.linen as nn

from knee_jax.errors import UserError


def names() -> list[str]:
    """Lists the networks that `create` knows."""
    tools = ("heads", "layers", "patches", "weights")
    return [file.name for file in pkgutil.iter_modules(__path__) if file.name not in tools]


def create(name: str, **kwargs) -> nn.Module:
    """Builds the `Model` of `models/<name>.py`.

    Every model is called alike, `model.apply(variables, image, keypoints, train=..., rngs=...)`,
    and returns `{grade: logits}` (see its docstring).

    Args:
        name: one of `names()`.
        **kwargs: the attributes of that `Model`.

    Raises:
        UserError: no such network, or no such attribute.
    """
    if name not in names():
        raise UserError(f"unknown model {name!r}; choose from: {', '.join(names())}")
    model = importlib.import_module(f"{__name__}.{name}").Model
    known = {field.name for field in dataclasses.fields(model)} - {"parent", "name"}
    if unknown := sorted(set(kwargs) - known):
        raise UserError(
            f"model {name!r} takes no {', '.join(unknown)}; it takes: {', '.join(sorted(known))}"
        )
    return model(**kwargs)


def load(name: str, variables: dict, source: str) -> dict:
    """Fills the variables of the network `name` with weights from a file (see its `load`)."""
    return importlib.import_module(f"{__name__}.{name}").load(variables, source)
