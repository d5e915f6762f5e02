"""Evidence for a class in a network's maps: gradient times activation, cell by cell.

Networks expose intermediate values by `knee_jax.models.layers.observe`. Each value of the maps is
multiplied by the gradient of a class logit at that place, and what speaks for the class is kept
(HiResCAM, Draelos & Carin 2020; of maps before the last, LayerCAM, Jiang et al. 2021). Grad-CAM
(Selvaraju et al. 2017) would average the gradient and, behind pooling at landmarks, show heat where
no head reads.

A cell's heat is drawn about the middle of what the cell reads. That is not the middle of its share
of the picture: where layers are padded alike on both sides and halve the picture five times, it
lies 15.5 pixels before it, and where padding goes to the end 15.5 pixels behind it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from knee_jax.models.layers import Cells
from knee_jax.models.patches import PATCH, paste_patches

Variables = Mapping[str, Any]

SIDES = ("lateral", "medial")
"""Side patches, in the names of the maps of a network that reads these and not the whole knee."""

BORDER = 7
"""Pixels over which heat fades at the border of a patch, as in the pasting of Tiulpin et al. 2018.
"""


def observed(
    model: nn.Module, variables: Variables, images: jax.Array, keypoints: jax.Array | None
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of values that the network exposes, by name."""
    seen = exposed(model, variables, images, keypoints)["intermediates"]
    return {name: value.shape for name, value in by_name(seen).items()}


def heat_of(
    model: nn.Module,
    variables: Variables,
    images: jax.Array,
    keypoints: jax.Array | None,
    target: str,
    chosen: int | None = None,
) -> jax.Array | None:
    """Return the evidence for a class at every pixel, float32 [batch, size, size], 0 to 1.

    The maximum of each knee is 1; heat is zero where there is none in favour of the class.

    Args:
        model: Network.
        variables: Its variables.
        images: Inputs, [batch, size, size, channels].
        keypoints: Landmarks, [batch, 74, 2].
        target: Target whose logits count.
        chosen: Class; that of the highest logit of each knee if omitted.

    Returns:
        Heat, or None if the network exposes no maps.
    """
    names = maps_among(observed(model, variables, images, keypoints))
    if not names:
        return None
    size = images.shape[1]
    patch = patch_of(model, names)
    top, rows = model.rows_read(size) if hasattr(model, "rows_read") else (0, size)
    read = (patch, patch) if patch else (rows, size)
    seen, gradients = evidence(model, variables, images, keypoints, target, chosen)
    heat: dict[str, jax.Array] = {}
    for name in names:
        # Cells of unlike size, of several depths: by what a pixel has of them.
        cells = [cells_of(model, name, *axis) for axis in zip(read, seen[name].shape[1:3])]
        found = signed(seen[name], gradients[name]) / (cells[0].step * cells[1].step)
        grown = grow(jax.nn.relu(found), read, cells) - grow(jax.nn.relu(-found), read, cells)
        heat[_side(name)] = heat.get(_side(name), 0.0) + grown
    heat = {side: jax.nn.relu(each) for side, each in heat.items()}
    if patch:
        return normalise(_on_side_patches(heat, patch, size))
    return normalise(jnp.pad(heat[""], ((0, 0), (top, size - top - rows), (0, 0))))


def patch_of(model: nn.Module, names: tuple[str, ...]) -> int:
    """Return the side of the patches that a network reads, pixels; 0 if it reads the whole knee."""
    return getattr(model, "patch", PATCH) if names and _side(names[0]) else 0


def cells_of(model: nn.Module, name: str, size: int, count: int) -> Cells:
    """Return the places of a map's cells along an axis of what the network reads.

    Args:
        model: Network; without a method `cells` its layers are padded alike before and behind.
        name: Name of the map.
        size: Pixels of the axis.
        count: Cells along it.
    """
    return getattr(model, "cells", lambda name, *axis: Cells.halved(*axis))(name, size, count)


def signed(maps: jax.Array, gradients: jax.Array) -> jax.Array:
    """Return the evidence for a class and, below zero, against it, float32 [batch, ...]."""
    return (gradients.astype(jnp.float32) * maps.astype(jnp.float32)).sum(-1)


def class_activation(maps: jax.Array, gradients: jax.Array) -> jax.Array:
    """Return the evidence for a class, float32 [batch, ...], 0 or more (Draelos & Carin, eq. 3).

    Args:
        maps: Maps, [batch, ..., channels], of two or three spatial dimensions.
        gradients: Gradients of the class logit with respect to the maps, of the same shape.
    """
    return jax.nn.relu(signed(maps, gradients))


def evidence(
    model: nn.Module,
    variables: Variables,
    images: jax.Array,
    keypoints: Any,
    target: str,
    chosen: int | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the values that the network exposes, and the gradients of a class logit by them."""

    def logit(perturbations: Any) -> tuple[jax.Array, Any]:
        outputs, seen = model.apply(
            {**variables, "perturbations": perturbations},
            images,
            keypoints,
            train=False,
            mutable=["intermediates"],
        )
        logits = outputs[target]
        # A continuous target has one output, which is the highest.
        classes = logits.argmax(-1) if chosen is None else jnp.full(logits.shape[0], chosen)
        # Knees do not interact in evaluation, so the gradient of the sum is each knee's own.
        of_class = jnp.take_along_axis(logits, classes[:, None], axis=1)
        return of_class.sum(), seen["intermediates"]

    shapes = exposed(model, variables, images, keypoints)["perturbations"]
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    gradients, seen = jax.grad(logit, has_aux=True)(nothing)
    return by_name(seen), by_name(gradients)


def exposed(
    model: nn.Module, variables: Variables, images: jax.Array, keypoints: jax.Array | None
) -> dict[str, Any]:
    """Return the shapes of exposed values: `intermediates` and `perturbations`."""

    def look(variables: Variables, images: jax.Array, keypoints: Any) -> Any:
        return model.apply(
            variables,
            images,
            keypoints,
            train=False,
            mutable=["intermediates", "perturbations"],
        )

    _, seen = jax.eval_shape(look, variables, images, keypoints)
    return {"intermediates": {}, "perturbations": {}} | dict(seen)


def by_name(seen: Mapping[str, Any]) -> dict[str, Any]:
    """Return the exposed values by name, wherever they are in the network."""
    values = {path[-1]: value for path, value in flatten_dict(seen).items()}
    return {name: v[0] if isinstance(v, tuple) else v for name, v in values.items()}


def features_of(seen: Mapping[str, jax.Array]) -> jax.Array:
    """Return what describes an image as a whole, float32 [batch, features].

    It is the input of the heads, or the mean of the last maps where heads pool for themselves.

    Args:
        seen: Values that a network exposes, by name.
    """
    if "features" in seen:
        return seen["features"].astype(jnp.float32)
    names = [name for name in sorted(seen) if name.split("_")[0] == "maps"]
    means = [seen[name].astype(jnp.float32).mean((1, 2)) for name in names]
    return jnp.concatenate(means, axis=-1)


def maps_among(seen: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Return the names of the maps that explain a network of films, or none.

    They are `evidence` or else `maps`, or those of both side patches, of one or several depths.
    """
    for kind in ("evidence", "maps"):
        shapes = {name: shape for name, shape in seen.items() if name.split("_")[0] == kind}
        names = tuple(sorted(name for name, shape in shapes.items() if len(shape) == 4))
        if {_side(name) for name in names} in ({""}, set(SIDES)):
            return names
    return ()


def _side(name: str) -> str:
    """Return the side in the name of a map; empty if it is of the whole knee."""
    return (*name.split("_"), "")[1]


def grow(heat: jax.Array, size: tuple[int, int], cells: Sequence[Cells] | None = None) -> jax.Array:
    """Enlarge the last two axes of heat bilinearly; where a cell has none, its pixels have none.

    A pixel belongs to the cell whose centre is nearest, at the border too.

    Args:
        heat: Heat, [..., h, w], 0 or more.
        size: Pixels of both axes.
        cells: Places of the cells along both axes; if omitted, they share the pixels evenly.
    """
    counts = heat.shape[-2:]
    cells = cells or [Cells.evenly(*axis) for axis in zip(size, counts)]
    linear, nearest = zip(*map(shares, size, counts, cells), strict=True)

    def spread(x: jax.Array, rows: np.ndarray, columns: np.ndarray) -> jax.Array:
        return jnp.einsum("yh,...hw,xw->...yx", rows, x, columns, precision="highest")

    within = spread((heat > 0).astype(jnp.float32), *nearest)
    return jnp.where(within > 0, spread(heat, *linear), 0.0)


def shares(size: int, count: int, cells: Cells) -> tuple[np.ndarray, np.ndarray]:
    """Return the shares of the cells in each pixel of an axis, float32 [size, count], of sum 1.

    The first are linear in the distance of the two nearest cells, the second the nearest cell's.
    """
    at = np.clip((np.arange(size) + 0.5 - cells.first) / cells.step, 0, count - 1)[:, None]
    linear = np.maximum(0, 1 - np.abs(at - np.arange(count)))
    nearest = np.floor(at + 0.5) == np.arange(count)
    return linear.astype(np.float32), nearest.astype(np.float32)


def _on_side_patches(heat: Mapping[str, jax.Array], patch: int, size: int) -> jax.Array:
    """Place the heat of both patches, by side, where they lie on the knee, [batch, size, size]."""
    centres = np.arange(patch) + 0.5
    fade = np.minimum(1.0, np.minimum(centres, patch - centres) / BORDER).astype(np.float32)
    lateral, medial = (heat[side] * fade[:, None] * fade for side in SIDES)
    pasted, _ = paste_patches(lateral[..., None], medial[..., None], size, size)
    return pasted[..., 0]


def normalise(heat: jax.Array) -> jax.Array:
    """Divide each knee's heat [batch, ...] by its maximum; heat that is all zero stays so."""
    highest = heat.max(tuple(range(1, heat.ndim)), keepdims=True)
    return heat / jnp.where(highest > 0, highest, 1.0)
