"""List what the package knows by name, one name per line.

    knee-jax list configs     for --config=NAME
    knee-jax list variants    for --config=NAME:VARIANT; several variants are separated by commas
    knee-jax list models      for --config.model.name
    knee-jax list weights     for `knee-jax predict --model`: trained models of the project
    knee-jax list datasets    for --config.data.dataset and `knee-jax prepare --dataset`
    knee-jax list tables      for `knee-jax reproduce --table`

The names are those of this installation.
"""

from collections.abc import Iterable

from knee_jax.cli import config_argument, show


def _models() -> Iterable[str]:
    from knee_jax import models

    return models.names()


def _weights() -> Iterable[str]:
    from knee_jax.inference import models

    return models.names()


def _datasets() -> Iterable[str]:
    import knee_jax.datasets as datasets

    return datasets.names()


def _tables() -> Iterable[str]:
    from knee_jax import papers

    return papers.names()


CHOICES = {
    "configs": config_argument.names,
    "variants": config_argument.variants,
    "models": _models,
    "weights": _weights,
    "datasets": _datasets,
    "tables": _tables,
}


def define_flags() -> None:
    """Define no flag."""


def main(words: list[str]) -> None:
    """Print the names."""
    show("\n".join(CHOICES[words[0]]()))
