"""Files of weights in PyTorch's layout and ours, read without executing anything in them.

*PyTorch's layout* is a state dict of torchvision, timm or Cadene's `pretrainedmodels`
(`layer1.0.conv1.weight`, [out, in, height, width]), to which our heads add names of their own
(`head_kl.weight`). *Our layout* names each array by its path among a model's variables
(`params/trunk/layer1_0/conv1/kernel`, [height, width, in, out]). Both may be in any file.
"""

import logging
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from knee_jax.errors import UserError
from knee_jax.files import atomic_write

Source = Mapping[str, Any] | str | os.PathLike
Names = tuple[str, ...]
Arrays = dict[Names, np.ndarray]
"""Arrays in our order of axes, by their path among the variables."""

CLASSIFIER = re.compile(r"^(_?fc|last_linear|head\.fc)\.|^classifier\.(6\.)?(weight|bias)$")
"""Layer of foreign networks that is left out: its classes are not grades."""
STEMS = (
    ("conv1",),
    ("conv_stem",),
    ("layer0_conv1",),
    ("features_conv0",),
    ("features_0",),
    ("block1", "conv1"),
)
"""Names of the first convolution in the trunks of the networks."""
_PREFIX = re.compile(
    r"((module|_orig_mod|model|backbone|encoder|net|network|trunk|feature_extractor)\.)+"
)
"""Names that other software puts before those of a network that it holds."""
_COUNTER = "num_batches_tracked"
_log = logging.getLogger(__name__)
_NESTS = ("state_dict", "model_state_dict", "model", "net")
_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
_GROUPS = r"layer\d|features|classifier|blocks"
"""Modules that PyTorch nests within another, `layer1.0`, and we name side by side, `layer1_0`."""
_ALIASES = (
    # Names of modules in conversions of EfficientNet.
    (re.compile(r"(^|\.)_"), r"\1"),
    # The two hidden layers of timm's VGG are convolutions.
    (re.compile(r"^pre_logits\.fc1\."), "classifier.0."),
    (re.compile(r"^pre_logits\.fc2\."), "classifier.3."),
    # Files of DenseNet weights are older than torchvision's names.
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)"), r"\1\2"),
)
"""Names in published files, with the equivalent names of torchvision."""


def fill(variables: dict, source: Source) -> dict:
    """Fill a model's variables with weights from a file or a state dict.

    The classifier of a foreign network is skipped, and so are stages that this trunk does not have.
    Heads are loaded if the source names them (`head_kl.weight`); otherwise they keep their values.
    A stem for 3 channels is made one for 1, or the reverse, as the model needs (`with_channels`).
    That, and a prefix that is taken off, is logged.

    Args:
        variables: Result of `init` for a model whose convolutional part is named `trunk`.
        source: Source of `read`, in PyTorch's layout or ours.

    Returns:
        New variables of the same structure, float32.

    Raises:
        UserError: There are missing or unexpected keys, or shapes that do not fit; they are named.
    """
    wanted = flatten_dict(variables)
    found, names = from_source(source)
    stages = {path[2].partition("_")[0] for path in wanted if path[1] == "trunk"}
    skipped = {"layer2", "layer3", "layer4"} - stages
    for path in list(found):
        if path[1] == "trunk" and path[2].partition("_")[0] in skipped:
            del found[path]
        elif is_stem(path) and path in wanted:
            colours = (found[path].shape[2:3], wanted[path].shape[2:3])
            if colours in (((3,), (1,)), ((1,), (3,))):
                found[path] = with_channels(found[path], colours[1][0])
                _log.warning("the stem of %d channels was made one of %d", *colours[0], *colours[1])
    if prefix := prefix_of(names.values()):
        _log.warning("the weights are those below the prefix %r", prefix)
    check(found, {path: value.shape for path, value in wanted.items()}, names)
    return unflatten_dict(
        {
            path: jnp.asarray(found[path], jnp.float32) if path in found else value
            for path, value in wanted.items()
        }
    )


def with_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Return a stem's kernel [side, side, in, out] for 1 channel or 3.

    Three are summed to one, and one is spread over three as thirds. Both are exact for a grey image
    that is repeated three times.
    """
    if kernel.shape[2] == channels:
        return kernel
    total = kernel.sum(2, keepdims=True)
    return total if channels == 1 else np.repeat(total / channels, channels, axis=2)


def prefix_of(names: Iterable[str]) -> str:
    """Return what other software has put before a network's names, such as 'model.', or ''.

    Raises:
        UserError: There are several networks.
    """
    names = list(names)
    stems = {torch_name(("params", "trunk", *stem, "kernel")) for stem in STEMS}
    if any("/" in name for name in names) or stems & set(names):
        return ""
    found = sorted(
        {
            name.removesuffix(stem)
            for name in names
            for stem in stems
            if name.endswith(stem) and _PREFIX.fullmatch(name.removesuffix(stem))
        }
    )
    if len(found) > 1:
        raise UserError(
            f"the weights hold several networks ({', '.join(found)}); save the one that is wanted"
        )
    if found:
        return found[0]
    # A network that is not known here: what stands before all its names.
    begins = {match[0] if (match := _PREFIX.match(name)) else "" for name in names}
    return min(begins, key=len) if len({begin.split(".")[0] for begin in begins}) == 1 else ""


def is_counter(name: str) -> bool:
    """Return whether an array counts the batches that batch norm has seen, which nothing needs."""
    return name.endswith(_COUNTER)


def check(
    found: Arrays, wanted: Mapping[Names, tuple[int, ...]], names: Mapping[Names, str]
) -> None:
    """Raise UserError unless the arrays are all of the trunk's, and whole heads.

    Args:
        found: Weights.
        wanted: Shapes of the model's variables.
        names: Names that the weights had in their source.
    """
    own = any("/" in name for name in names.values())

    def first(paths: list[Names]) -> tuple[Names, str, str]:
        """Return the first path, its name in the source, and how many more there are."""
        path = min(paths, key=lambda path: path[0] != "params")
        name = names.get(path) or ("/".join(path) if own else torch_name(path))
        return path, repr(name), f" and {len(paths) - 1} more" if len(paths) > 1 else ""

    given = {path[1] for path in found} | {"trunk"}
    complaints = []
    if missing := [path for path in wanted if path[1] in given and path not in found]:
        _, name, more = first(missing)
        complaints.append(f"they lack {name}{more}, which the model needs")
    if unexpected := [path for path in found if path not in wanted]:
        _, name, more = first(unexpected)
        complaints.append(f"they hold {name}{more}, for which the model has no place")
    if wrong := [p for p in found if p in wanted and found[p].shape != wanted[p]]:
        path, name, more = first(wrong)
        complaints.append(
            f"{name} has shape {found[path].shape}, the model needs {wanted[path]}"
            f"{more and f' (so{more})'}"
        )
        if all(is_head(path[1]) for path in wrong):
            complaints[-1] += "; knee_jax.convert --noheads leaves it out"
    if complaints:
        raise UserError(
            f"the weights do not fit the model: {'; '.join(complaints)}. They look like "
            f"{describe(found)}"
        )


def describe(found: Arrays) -> str:
    """Describe in a few words the network that the weights belong to."""
    shapes = {path[2:]: array.shape for path, array in found.items() if path[1] == "trunk"}
    stem = next((shape for path, shape in shapes.items() if is_stem(("", "trunk", *path))), None)
    if stem is None or len(stem) != 4:
        return "no network known here"

    def count(pattern: str) -> int:
        """Return how many modules match, each counted once."""
        matches = (re.match(pattern, "/".join(path)) for path in shapes)
        return len({match[0] for match in matches if match})

    blocks = [count(rf"layer{stage}_\d+/") for stage in (1, 2, 3, 4)]
    dense = [count(rf"features_denseblock{block}/denselayer\d+/") for block in (1, 2, 3, 4)]
    if any(dense):
        name, parts = "DenseNet", f"{', '.join(map(str, dense))} layers"
    elif convolutions := count(r"features_\d+/kernel"):
        name, parts = "VGG", f"{convolutions} convolutions"
    elif convolutions := count(r"block\d/conv\d+/"):
        name, parts = "Siamese network", f"{convolutions} convolutions"
    elif any(blocks):
        second = shapes.get(("layer1_0", "conv2", "kernel"), (0, 0, 0, 0))
        first = shapes.get(("layer1_0", "conv1", "kernel"), (0, 0, 0, 0))
        name = "ResNeXt" if first[-1] != second[2] else "ResNet"
        if any("se_module" in path or "se" in path for path in shapes):
            name = f"SE-{name}"
        sides = "1x1, 3x3, 1x1" if ("layer1_0", "conv3", "kernel") in shapes else "3x3, 3x3"
        parts = f"{', '.join(map(str, blocks))} blocks ({sides})"
    else:
        convolutions = count(r"conv\d+/")
        name, parts = "network", f"{convolutions} convolutions"
    return f"a {name} of {parts} with a stem of {stem[-1]} channels"


def from_source(source: Source) -> tuple[Arrays, dict[Names, str]]:
    """Read weights in PyTorch's layout or ours.

    A foreign classifier, counters of batches, and what is not below the network's prefix
    (`prefix_of`) are left out.

    Args:
        source: Source of `read`.

    Returns:
        The arrays by path, and the name that each had in the source.
    """
    found: Arrays = {}
    names: dict[Names, str] = {}
    arrays = read(source)
    prefix = prefix_of(arrays)
    for name, array in arrays.items():
        bare = name.removeprefix(prefix)
        if "/" in name:
            path = tuple(name.split("/"))
            if len(path) < 3:
                raise UserError(f"the weights hold {name!r}, which is no variable of a model")
        elif CLASSIFIER.match(bare) or is_counter(name) or not name.startswith(prefix):
            continue
        else:
            path = own_name(bare, array.ndim)
            if path[1].startswith("classifier_") and array.ndim == 4:
                array = array.reshape(len(array), -1)
            array = _own_axes(array)
            if _is_pointwise(path) and array.ndim == 4 and array.shape[:2] == (1, 1):
                array = array[0, 0]
        found[path], names[path] = array, name
    return found, names


def to_torch(arrays: Arrays) -> dict[str, np.ndarray]:
    """Return weights in PyTorch's layout: a state dict's names, [out, in, height, width]."""
    state = {}
    for path, array in arrays.items():
        array = np.asarray(array)
        if array.ndim == 2:
            array = array.T[:, :, None, None] if _is_pointwise(path) else array.T
        elif array.ndim in (4, 5):
            array = np.moveaxis(array, (-1, -2), (0, 1))
        state[torch_name(path)] = np.ascontiguousarray(array)
    return state


def to_own(arrays: Arrays) -> dict[str, np.ndarray]:
    """Return weights in our layout."""
    return {"/".join(path): np.ascontiguousarray(array) for path, array in arrays.items()}


def torch_name(path: Names) -> str:
    """Convert ('params', 'trunk', 'layer1_0', 'conv1', 'kernel') to 'layer1.0.conv1.weight'."""
    modules = path[2:-1] if path[1] == "trunk" else path[1:-1]
    name = ".".join([*modules, _LEAVES.get(path[-1], path[-1])])
    name = re.sub(rf"\b({_GROUPS})_", r"\1.", name)
    return name.replace("downsample_conv", "downsample.0").replace("downsample_bn", "downsample.1")


def own_name(name: str, axes: int) -> Names:
    """Convert 'layer1.0.conv1.weight' to ('params', 'trunk', 'layer1_0', 'conv1', 'kernel').

    A weight of one axis is batch norm's `scale`.
    """
    for alias, torchvisions in _ALIASES:
        name = alias.sub(torchvisions, name)
    name = name.replace("downsample.0", "downsample_conv").replace("downsample.1", "downsample_bn")
    *modules, leaf = re.sub(rf"\b({_GROUPS})\.", r"\1_", name).split(".")
    running = {"running_mean": "mean", "running_var": "var"}
    collection = "batch_stats" if leaf in running else "params"
    if leaf == "weight":
        leaf = "scale" if axes == 1 else "kernel"
    if not modules or not is_head(modules[0]):
        modules = ["trunk", *modules]
    return (collection, *modules, running.get(leaf, leaf))


def _own_axes(array: np.ndarray) -> np.ndarray:
    if array.ndim in (4, 5):
        return np.moveaxis(array, (0, 1), (-1, -2))
    return array.T if array.ndim == 2 else array


def _is_pointwise(path: Names) -> bool:
    """Return whether PyTorch has a 1x1 convolution where we have a linear layer."""
    scores = path[1].startswith("pool_") and path[-2:-1] == ("score",)
    return path[-1] == "kernel" and ("se_module" in path or scores)


def is_head(module: str) -> bool:
    """Return whether a module of that name belongs to the heads, not to the trunk."""
    beginnings = ("head_", "value_", "pool_", "attention_", "classifier_", "aggregator")
    return module.startswith(beginnings)


def is_stem(path: Names) -> bool:
    """Return whether a path is the first convolution's kernel, [side, side, colours, out]."""
    return path[-1] == "kernel" and path[1:-1] in {("trunk", *name) for name in STEMS}


def read(source: Source) -> dict[str, np.ndarray]:
    """Read a state dict, or arrays by name.

    A state dict that is nested in a checkpoint (`state_dict`, `model_state_dict`, `model`, `net`)
    is taken from there.

    Args:
        source: Mapping of names to arrays, or a local `.npz` or `.safetensors` file, or one of
            PyTorch's (`.pth`, `.pt`, Lightning's `.ckpt`, Hugging Face's `.bin`).

    Returns:
        Arrays by name; floating-point ones are float32.

    Raises:
        UserError: The file does not exist, its format is unknown or broken, a library is missing,
            or something in it is not an array.
    """
    if isinstance(source, Mapping):
        tensors, title = source, "the mapping"
    else:
        tensors, title = _read_file(Path(source)), str(source)
    nests = [name for name in _NESTS if isinstance(tensors.get(name), Mapping)]
    if len(nests) > 1:
        raise UserError(f"{title}: holds several state dicts ({', '.join(nests)}); give one alone")
    if nests:
        tensors = tensors[nests[0]]
    if not tensors:
        raise UserError(f"{title}: holds no weights")
    arrays = {}
    for name, value in tensors.items():
        name = str(name)
        try:
            array = np.asarray(value.float() if hasattr(value, "is_floating_point") else value)
            arrays[name] = array if array.dtype.kind in "iub" else array.astype(np.float32)
        except Exception as error:
            raise UserError(f"{title}: {name!r} is not an array; give a bare state dict") from error
    return arrays


def write(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name to an `.npz`, `.safetensors` or `.pth` file, atomically.

    Raises:
        UserError: The kind of file is unknown, or a library is missing.
    """
    path = Path(path)
    writers = {".npz": _write_npz, ".safetensors": _write_safetensors, ".pth": _write_torch}
    if path.suffix not in writers:
        raise UserError(f"{path}: weights can be written to {', '.join(writers)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_write(path) as unfinished:
            writers[path.suffix](unfinished, arrays)
    except ImportError as error:
        raise UserError(
            f"{path}: writing it needs a library: pip install {_library(error)}"
        ) from error


def _read_file(path: Path) -> Mapping[str, Any]:
    readers = {".npz": _npz, ".safetensors": _safetensors}
    readers |= dict.fromkeys((".pth", ".pt", ".ckpt", ".bin"), _torch)
    if path.suffix not in readers:
        raise UserError(f"{path}: weights must be one of {', '.join(readers)}")
    if not path.is_file():
        raise UserError(f"{path}: no such file of weights")
    try:
        tensors = readers[path.suffix](path)
    except ImportError as error:
        raise UserError(
            f"{path}: reading it needs a library: pip install {_library(error)}"
        ) from error
    except Exception as error:
        # The libraries' own messages advise reading the file unsafely.
        raise UserError(
            f"{path}: cannot be read as weights: it is broken, or holds more than plain arrays; "
            "download it again, or save its bare state dict"
        ) from error
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
    from knee_jax.models import torch_file

    return torch_file.read(path)


def _library(error: ImportError) -> str:
    return (error.name or "").partition(".")[0]


def _write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    np.savez(path, **arrays)  # type: ignore[arg-type]


def _write_safetensors(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    from safetensors.numpy import save

    # Not by `save_file`, whose files are not readable by other users.
    path.write_bytes(save(dict(arrays)))


def _write_torch(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    import torch

    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)
