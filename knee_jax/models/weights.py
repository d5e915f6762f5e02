"""Reading foreign weights, a state dict in memory or in a file, without executing anything."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from knee_jax.errors import UserError

Source = Mapping[str, Any] | str | os.PathLike


def read(source: Source) -> dict[str, np.ndarray]:
    """Reads a state dict.

    Args:
        source: a mapping of names to arrays, or a local `.npz`, `.safetensors` or `.pth` file.

    Returns:
        The arrays by name, float32 where they are floats.

    Raises:
        UserError: no such file, an unknown or broken format, a missing library, or something in
            it that is not an array.
    """
    if isinstance(source, Mapping):
        tensors, title = source, "the mapping"
    else:
        tensors, title = _read_file(Path(source)), str(source)
    arrays = {}
    for name, value in tensors.items():
        try:
            array = np.asarray(value.float() if hasattr(value, "is_floating_point") else value)
            arrays[name] = array if array.dtype.kind in "iub" else array.astype(np.float32)
        except Exception as error:
            raise UserError(f"{title}: {name!r} is not an array; give a bare state dict") from error
    return arrays


def _read_file(path: Path) -> Mapping[str, Any]:
    readers = {".npz": _npz, ".safetensors": _safetensors, ".pth": _torch, ".pt": _torch}
    if path.suffix not in readers:
        raise UserError(f"{path}: weights must be one of {', '.join(readers)}")
    if not path.is_file():
        raise UserError(f"{path}: no such file of weights")
    try:
        tensors = readers[path.suffix](path)
    except ImportError as error:
        raise UserError(f"{path}: reading it needs a library: pip install {error.name}") from error
    except Exception as error:
        first_line = str(error).strip().partition("\n")[0]
        raise UserError(f"{path}: cannot be read as weights ({first_line})") from error
    if not isinstance(tensors, Mapping):
        raise UserError(f"{path}: holds no state dict but a {type(tensors).__name__}")
    return tensors


def _npz(path: Path) -> Mapping[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def _safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors.numpy import load_file

    return load_file(path)


def _torch(path: Path) -> Mapping[str, Any]:
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)
