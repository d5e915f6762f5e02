"""`--config`: names of configs, config files, and the `config.json` of a run."""

import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from knee_jax.cli import nearest, saved_config
from knee_jax.errors import UserError


def define_flag() -> None:
    """Define `--config`."""
    from ml_collections import config_flags

    config_flags.DEFINE_config_file(
        "config",
        help_string="NAME or NAME:VARIANT of a config (`knee-jax list variants`), a config file "
        "(PATH.py:VARIANT), or a run's config.json; --config.FIELD=VALUE changes a field.",
        lock_config=True,
    )


def names() -> list[str]:
    """Return the names of the configs that come with the package."""
    import knee_jax.configs as configs

    modules = [each.name for each in pkgutil.iter_modules(configs.__path__)]
    return sorted(name for name in modules if hasattr(module(name), "get_config"))


def variants() -> list[str]:
    """Return every config with each of its variants, as in `kpn:demo`."""
    return [f"{name}:{variant}" for name in names() for variant in module(name).VARIANTS]


def module(name: str) -> Any:
    """Return the module of a config."""
    return importlib.import_module(f"knee_jax.configs.{name}")


def rewrite(arguments: Sequence[str]) -> list[str]:
    """Replace the value of `--config` by one that ml_collections takes, FILE.py:ARGUMENT.

    Raises:
        UserError: Neither a config nor a file has that name.
    """
    rewritten, is_value = [], False
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if is_value:
            argument = resolve(argument)
        elif flag in ("--config", "-config") and equals:
            argument = f"{flag}={resolve(value)}"
        is_value = argument in ("--config", "-config")
        rewritten.append(argument)
    return rewritten


def resolve(value: str) -> str:
    """Return the file and argument that a value of `--config` stands for.

    Raises:
        UserError: Neither a config nor a file has that name.
    """
    path, colon, variant = value.partition(":")
    if path.startswith("~"):
        path = str(Path(path).expanduser())
        value = f"{path}{colon}{variant}"
    if Path(path).is_dir():
        raise UserError(
            f"--config={value}: is a folder; name a config, a config file, or a run's "
            f"{Path(path) / 'config.json'}"
        )
    if path.endswith(".json"):
        return f"{saved_config.__file__}:{path}"
    if not path.endswith(".py"):
        if path not in names():
            raise UserError(
                f"--config={value}: there is no config '{path}'{nearest(path, names())}"
            )
        return f"{module(path).__file__}{colon}{variant}"
    name = Path(path).stem
    if not Path(path).exists() and name in names():
        raise UserError(
            f"{path}: no such file; the config of the package is --config={name}{colon}{variant}"
        )
    return value
