"""Conversion of weight files between PyTorch's layout and that of this package; also of runs."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from knee_jax import models
from knee_jax.errors import UserError
from knee_jax.models import densenet, resnet, vgg, weights
from knee_jax.workdir.checkpoint import Checkpoints

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"resnet{depth}": ("resnet", {"depth": depth}) for depth in resnet.BLOCKS},
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
) -> str:
    """Convert a file of weights, or the best checkpoint of a run.

    Args:
        source: Local `.pth`, `.safetensors` or `.npz` file in either layout (see
            `models/weights.py`), or the folder of a run.
        out: File to write: `.npz`, `.safetensors` or `.pth`.
        model: Key of `MODELS`; every key and shape of the trunk is checked against it. Required if
            the source is in PyTorch's layout.
        layout: Layout of the result, `ours` or `torch`; None: `ours` for `.npz`, otherwise `torch`.
        width: Channels of that model's stem; None: as published.
        heads: Whether to keep our heads.

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
    if model:
        check(found, names, model, width, str(source))
    if not heads:
        found = {path: array for path, array in found.items() if not weights.is_head(path[1])}
    written = weights.to_own(found) if layout == "ours" else weights.to_torch(found)
    weights.write(out, written)

    left_out = sorted(arrays.keys() - {names[path] for path in found})
    layers = sorted({name.replace("/", ".").rpartition(".")[0] for name in left_out})
    kept = sorted({path[1] for path in found if weights.is_head(path[1])})
    place = "our" if layout == "ours" else "PyTorch's"
    numbers = sum(array.size for path, array in found.items() if path[0] == "params")
    return "\n".join(
        [
            f"read      {source}: {weights.describe(found)}",
            f"kept      {numbers:,} parameters; heads: {', '.join(kept) or 'none'}",
            f"left out  {', '.join(layers) or 'nothing'}",
            f"wrote     {out}, in {place} layout",
        ]
    )


def check(
    found: weights.Arrays,
    names: dict[weights.Names, str],
    model: str,
    width: int | None,
    title: str,
) -> None:
    """Raise UserError unless the arrays are those of the trunk of `model`, and of our heads."""
    if model not in MODELS:
        raise UserError(f"--model={model}: choose from {', '.join(MODELS)}")
    name, attributes = MODELS[model]
    if width:
        attributes = attributes | {"width": width}
    network = models.create(name, **attributes)
    colours = [array.shape[2:3] for path, array in found.items() if weights.is_stem(path)]
    image = jnp.zeros((1, 64, 64, 1 if colours == [(1,)] else 3))
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
