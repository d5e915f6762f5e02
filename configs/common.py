"""How a config file offers variants."""

from collections.abc import Callable, Mapping

import ml_collections

from knee_jax.errors import UserError

Config = ml_collections.ConfigDict


def variant_of(
    config: Config, variant: str, changes: Mapping[str, Callable[[Config], None]]
) -> Config:
    """Applies the named change; the empty name is the config itself.

    Raises:
        UserError: there is no variant of that name.
    """
    if variant:
        if variant not in changes:
            raise UserError(
                f"no variant '{variant}' in this config: choose {', '.join(sorted(changes))}, "
                "or none"
            )
        changes[variant](config)
    return config
