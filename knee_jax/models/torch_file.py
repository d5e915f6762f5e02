"""Tensors of files that `torch.save` wrote, read without PyTorch and without executing anything.

Such a file is a pickle, whose instructions may call any function. Here they can make plain
containers and tensors; whatever else they name becomes an `Opaque` that does nothing.
"""

import collections
import dataclasses
import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
"""First number of the format before PyTorch 1.6, which is not an archive."""

_TYPES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class Opaque:
    """Stand-in for an object that is neither a container nor a tensor."""

    def __new__(cls, *_: Any, **__: Any) -> "Opaque":
        """Accept and forget whatever the object would have been made of."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


@dataclasses.dataclass(frozen=True)
class _Storage:
    """Numbers that tensors are views of; `key` names them in the file."""

    key: str
    dtype: Any


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """View of a storage, in numbers from its start."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self, stored: np.ndarray) -> np.ndarray:
        """Cut the view out of its storage.

        Raises:
            ValueError: It reaches beyond the storage.
        """
        last = self.offset + sum(
            (size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True)
        )
        if min((self.offset, *self.shape, *self.strides)) < 0 or last >= max(len(stored), 1):
            raise ValueError("a tensor reaches beyond its storage")
        steps = tuple(stride * stored.itemsize for stride in self.strides)
        if 0 in self.shape:
            return np.zeros(self.shape, stored.dtype)
        return np.lib.stride_tricks.as_strided(stored[self.offset :], self.shape, steps).copy()


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: Any, strides: Any, *_: Any
) -> "_Tensor | Opaque":
    if not isinstance(storage, _Storage):
        return Opaque()
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
}


class _Unpickler(pickle.Unpickler):
    """Reader of one pickle that knows containers and tensors only."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _TYPES:
            return _TYPES[name]
        return _ALLOWED.get((module, name), Opaque)

    def persistent_load(self, identity: Any) -> Any:
        if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
            return Opaque()
        return _Storage(str(identity[2]), identity[1])


def read(path: Path) -> Any:
    """Read a file of `torch.save`: tensors become NumPy arrays, other objects `Opaque`.

    Raises:
        ValueError: The file is not of that format, or is damaged.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _read_archive(archive)
        with path.open("rb") as file:
            return _read_stream(file)
    except (OSError, ValueError):
        raise
    except Exception as error:
        # The unpickler raises whatever the damaged instructions led to.
        raise ValueError(f"damaged: {type(error).__name__}") from error


def _read_archive(archive: zipfile.ZipFile) -> Any:
    (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
    folder = pickled.removesuffix("data.pkl")
    tree = _Unpickler(io.BytesIO(archive.read(pickled))).load()
    order = f"{folder}byteorder"
    if order in archive.namelist() and archive.read(order).strip() != b"little":
        raise ValueError("the numbers are big-endian")
    stored: dict[str, np.ndarray] = {}

    def storage(wanted: _Storage) -> np.ndarray:
        if wanted.key not in stored:
            data = archive.read(f"{folder}data/{wanted.key}")
            stored[wanted.key] = np.frombuffer(data, wanted.dtype)
        return stored[wanted.key]

    return _filled(tree, storage)


def _read_stream(file: BinaryIO) -> Any:
    if _Unpickler(file).load() != MAGIC:
        raise ValueError("not a file of torch.save")
    _Unpickler(file).load()
    _Unpickler(file).load()
    dtypes: dict[str, Any] = {}

    class Recorder(_Unpickler):
        def persistent_load(self, identity: Any) -> Any:
            found = super().persistent_load(identity)
            if isinstance(found, _Storage):
                dtypes[found.key] = found.dtype
            return found

    tree = Recorder(file).load()
    stored: dict[str, np.ndarray] = {}
    for key in _Unpickler(file).load():
        (number,) = struct.unpack("<q", file.read(8))
        dtype = np.dtype(dtypes[key])
        data = file.read(number * dtype.itemsize)
        if number < 0 or len(data) != number * dtype.itemsize:
            raise ValueError("the file ends early")
        stored[key] = np.frombuffer(data, dtype)
    return _filled(tree, lambda wanted: stored[wanted.key])


def _filled(tree: Any, storage: Callable[[_Storage], np.ndarray]) -> Any:
    """Return containers with their tensors read."""
    if isinstance(tree, _Tensor):
        return tree.read(storage(tree.storage))
    if isinstance(tree, dict):
        return {name: _filled(value, storage) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_filled(value, storage) for value in tree]
    return tree
