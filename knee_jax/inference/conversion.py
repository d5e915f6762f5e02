"""Conversion of weight files between PyTorch's layout and that of this package; also of runs."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from knee_jax import models
from knee_jax.errors import UserError
from knee_jax.models import densenet, vgg, weights
from knee_jax.workdir.checkpoint import Checkpoints

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"resnet{depth}": ("resnet", {"depth": depth}) for depth in (18, 34, 50, 101, 152)},
    **{f"densenet{depth}": ("densenet", {"depth": depth}) for depth in densenet.BLOCKS},
    **{f"vgg{depth}_bn": ("vgg", {"depth": depth}) for depth in vgg.CONVOLUTIONS},
    "resnext50_32x4d": ("resnext", {}),
    "se_resnet50": ("senet", {"arch": "se_resnet50"}),
    "se_resnext50_32x4d": ("senet", {"arch": "se_resnext50_32x4d"}),
}
"""Our `model.name` and its attributes for each network whose weights others publish."""


def convert(
    source: str | Path,
    out: str | Path,
    model: str | None = None,
    *,
    layout: str | None = None,
    width: int | None = None,
    heads: bool = True,
    channels: int | None = None,
    partial: bool = False,
) -> str:
    """Convert a file of weights, or the best checkpoint of a run.

    Args:
        source: Local file in either layout (see `models/weights.py`), or the folder of a run.
        out: File to write: `.npz`, `.safetensors` or `.pth`.
        model: Key of `MODELS`; every key and shape of the trunk is checked against it. Required if
            the source is in PyTorch's layout.
        layout: Layout of the result, `ours` or `torch`; None: `ours` for `.npz`, otherwise `torch`.
        width: Channels of that model's stem; None: as published.
        heads: Whether to keep our heads.
        channels: Channels that the stem reads in the result, 1 or 3; None: as it is.
        partial: Whether a trunk that lacks layers, or has others, gives what fits; the rest is
            random, and heads are left out.

    Returns:
        Summary of what was read, left out and written, several lines.

    Raises:
        UserError: A mistake that the user can mend, in one line.
    """
    source, out = Path(source), Path(out)
    if layout is None:
        layout = "ours" if out.suffix == ".npz" else "torch"
    arrays = read_run(source) if source.is_dir() else weights.read(source)
    found, names = weights.from_source(arrays)
    if not model and not all("/" in name for name in names.values()):
        raise UserError(
            f"{source}: name the network that the weights are of, --model={'|'.join(MODELS)}; "
            f"they look like {weights.describe(found)}"
        )
    if partial and not model:
        raise UserError(
            f"--partial fits {source} into a network: name it, --model={'|'.join(MODELS)}"
        )
    stem = next((path for path in found if weights.is_stem(path)), None)
    read_channels = found[stem].shape[2] if stem and found[stem].ndim == 4 else None
    if channels and channels != read_channels:
        if stem is None or read_channels not in (1, 3):
            raise UserError(f"{source}: has no stem of 1 or 3 channels to make one of {channels}")
        found[stem] = weights.with_channels(found[stem], channels)
    fresh: list[str] = []
    if partial and model:
        found, fresh = fill_up(found, model, width, str(source))
    elif model:
        check(found, names, model, width, str(source))
    if not heads:
        found = {path: array for path, array in found.items() if not weights.is_head(path[1])}
    written = weights.to_own(found) if layout == "ours" else weights.to_torch(found)
    weights.write(out, written)

    left_out = arrays.keys() - {names[path] for path in found if path in names}
    counters = sum(map(weights.is_counter, left_out))
    layers = _layers(name for name in left_out if not weights.is_counter(name))
    if counters:
        layers.append(f"{counters} counters of batch norm")
    kept = sorted({path[1] for path in found if weights.is_head(path[1])})
    place = "our" if layout == "ours" else "PyTorch's"
    numbers = sum(array.size for path, array in found.items() if path[0] == "params")
    lines = [f"read      {source}: {weights.describe(found)}"]
    if prefix := weights.prefix_of(arrays):
        lines.append(f"prefix    {prefix} is taken off the names")
    lines.append(f"kept      {numbers:,} parameters; heads: {', '.join(kept) or 'none'}")
    if channels and channels != read_channels:
        how = "summed to 1" if channels == 1 else "spread over 3 in thirds"
        lines.append(f"stem      its {read_channels} input channels are {how}")
    if fresh:
        lines.append(f"random    {', '.join(fresh)}")
    lines.append(f"left out  {', '.join(layers) or 'nothing'}")
    return "\n".join([*lines, f"wrote     {out}, in {place} layout"])


def _layers(names: Iterable[str]) -> list[str]:
    """Return the layers of some arrays, sorted."""
    return sorted({name.replace("/", ".").rpartition(".")[0] for name in names})


def fill_up(
    found: weights.Arrays, model: str, width: int | None, title: str
) -> tuple[weights.Arrays, list[str]]:
    """Return the trunk of `model` with those arrays that fit it, the rest at random.

    Returns:
        All arrays of the trunk, and the names of the layers that are random.

    Raises:
        UserError: Not even the stem fits.
    """
    network, image = _network(found, model, width)
    wanted = flatten_dict(jax.eval_shape(network.init, jax.random.key(0), image))
    fits = {
        path: array
        for path, array in found.items()
        if path in wanted and not weights.is_head(path[1]) and array.shape == wanted[path].shape
    }
    if not any(weights.is_stem(path) for path in fits):
        raise UserError(
            f"{title}: nothing fits a {model}, not even the first layer; it looks like "
            f"{weights.describe(found)}"
        )
    # It runs once, so that optimising it would take most of the time.
    initialise = jax.jit(network.init, compiler_options={"xla_backend_optimization_level": 0})
    random = flatten_dict(initialise(jax.random.key(0), image))
    trunk = {path: np.asarray(a) for path, a in random.items() if not weights.is_head(path[1])}
    return trunk | fits, _layers(weights.torch_name(path) for path in trunk.keys() - fits.keys())


def _network(found: weights.Arrays, model: str, width: int | None) -> tuple[Any, jax.Array]:
    """Return a network of `MODELS`, and an image with as many channels as the weights read."""
    if model not in MODELS:
        raise UserError(f"--model={model}: choose from {', '.join(MODELS)}")
    name, attributes = MODELS[model]
    if width:
        attributes = attributes | {"width": width}
    colours = [array.shape[2:3] for path, array in found.items() if weights.is_stem(path)]
    image = jnp.zeros((1, 64, 64, 1 if colours == [(1,)] else 3))
    return models.create(name, **attributes), image


def check(
    found: weights.Arrays,
    names: dict[weights.Names, str],
    model: str,
    width: int | None,
    title: str,
) -> None:
    """Raise UserError unless the arrays are those of the trunk of `model`, and of our heads."""
    network, image = _network(found, model, width)
    wanted = flatten_dict(jax.eval_shape(network.init, jax.random.key(0), image))
    try:
        weights.check(
            {path: array for path, array in found.items() if not weights.is_head(path[1])},
            {path: leaf.shape for path, leaf in wanted.items() if not weights.is_head(path[1])},
            names,
        )
    except UserError as error:
        raise UserError(f"{title} does not hold a {model}: {error}") from error


def read_run(folder: Path) -> dict[str, Any]:
    """Read the network of the best (otherwise the latest) checkpoint of a run, in our layout."""
    checkpoints = folder / "checkpoints"
    if not checkpoints.is_dir():
        raise UserError(
            f"{folder} holds no run (checkpoints/ is missing): name a run's folder, of a "
            "cross-validation a fold's"
        )
    with Checkpoints(checkpoints, read_only=True) as saved:
        step = saved.best_step() or saved.latest_step()
        if step is None:
            raise UserError(f"{checkpoints} holds no checkpoint yet")
        variables = saved.restore_variables(step)
    return weights.to_own(flatten_dict(variables))
