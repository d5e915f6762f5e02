"""Config file of ml_collections whose argument is the `config.json` of a run."""

import json
from pathlib import Path
from typing import Any

import ml_collections

from knee_jax.errors import UserError


def get_config(path: str) -> ml_collections.ConfigDict:
    """Return the config of a run.

    Raises:
        UserError: There is no such file, or it does not hold a config in JSON.
    """
    try:
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from None
    except ValueError as error:
        raise UserError(f"{path}: is not JSON ({error})") from None
    if not isinstance(fields, dict):
        raise UserError(f"{path}: holds no config")
    return ml_collections.ConfigDict(_with_tuples(fields))


def _with_tuples(value: Any) -> Any:
    # JSON has only lists; the sequences of a config are tuples.
    if isinstance(value, dict):
        return {name: _with_tuples(each) for name, each in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value
