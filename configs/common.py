"""Variants of a config file."""

from collections.abc import Callable, Mapping

import ml_collections

from knee_jax.config.fields import nearest
from knee_jax.errors import UserError

Config = ml_collections.ConfigDict


def variant_of(
    config: Config, variant: str, changes: Mapping[str, Callable[[Config], None]]
) -> Config:
    """Apply the named changes, separated by commas; the empty name is the config itself.

    Raises:
        UserError: there is no variant of that name.
    """
    for name in variant.split(",") if variant else ():
        if name not in changes:
            raise UserError(
                f"no variant {name!r} in this config: {nearest(name, sorted(changes))}; several "
                "are separated by commas"
            )
        changes[name](config)
    return config


def paper_row(file: str, variant: str) -> str:
    """Return the name that the papers' tables (`knee_jax.papers`) give a variant.

    At any budget (`demo`), and on the paper's own knees as on others (`oai`).
    """
    named = (name for name in variant.split(",") if name not in ("demo", "oai"))
    return f"{file}:{','.join(named)}".removesuffix(":")
