"""Evidence for a class in a network's last maps: gradient times activation, cell by cell.

Networks expose intermediate values by `knee_jax.models.layers.observe`. Each value of the maps is
multiplied by the gradient of a class logit at that place, and what speaks for the class is kept
(HiResCAM, Draelos & Carin 2020). Behind a global average the gradient is the same everywhere, and
this is Grad-CAM (Selvaraju et al. 2017). Behind pooling at landmarks it is not: Grad-CAM would
average the gradient and show heat where no head reads.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from knee_jax.models.patches import PATCH, paste_patches

Variables = Mapping[str, Any]

WHOLE, SIDES = ("maps",), ("maps_lateral", "maps_medial")
"""Last maps of a network that reads the whole knee, or of its two side patches."""

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
    seen, gradients = evidence(model, variables, images, keypoints, target, chosen)
    heat = {each: class_activation(seen[each], gradients[each]) for each in names}
    if patch:
        return normalise(_on_side_patches(heat, patch, size))
    top, rows = model.rows_read(size) if hasattr(model, "rows_read") else (0, size)
    read = grow(heat["maps"], (rows, size))
    return normalise(jnp.pad(read, ((0, 0), (top, size - top - rows), (0, 0))))


def patch_of(model: nn.Module, names: tuple[str, ...]) -> int:
    """Return the side of the patches that a network reads, pixels; 0 if it reads the whole knee."""
    return getattr(model, "patch", PATCH) if names == SIDES else 0


def class_activation(maps: jax.Array, gradients: jax.Array) -> jax.Array:
    """Return the evidence for a class, float32 [batch, ...], 0 or more (Draelos & Carin, eq. 3).

    Args:
        maps: Maps, [batch, ..., channels], of two or three spatial dimensions.
        gradients: Gradients of the class logit with respect to the maps, of the same shape.
    """
    return jax.nn.relu((gradients.astype(jnp.float32) * maps.astype(jnp.float32)).sum(-1))


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
    names = maps_among({name: value.shape for name, value in seen.items()})
    means = [seen[name].astype(jnp.float32).mean((1, 2)) for name in names]
    return jnp.concatenate(means, axis=-1)


def maps_among(seen: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Return the names of the maps that explain the network, `WHOLE` or `SIDES`; or none."""
    for names in (WHOLE, SIDES):
        if all(len(seen.get(name, ())) == 4 for name in names):
            return names
    return ()


def grow(heat: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resize the last two axes of heat bilinearly; where a cell has none, its pixels have none."""
    shape = (*heat.shape[:-2], *size)
    within = jax.image.resize((heat > 0).astype(heat.dtype), shape, "nearest")
    return within * jax.image.resize(heat, shape, "linear", antialias=False)


def _on_side_patches(heat: Mapping[str, jax.Array], patch: int, size: int) -> jax.Array:
    """Place the heat of the two patches where they lie on the knee, [batch, size, size]."""
    centres = np.arange(patch) + 0.5
    fade = np.minimum(1.0, np.minimum(centres, patch - centres) / BORDER).astype(np.float32)
    lateral, medial = (grow(heat[name], (patch, patch)) * fade[:, None] * fade for name in SIDES)
    pasted, _ = paste_patches(lateral[..., None], medial[..., None], size, size)
    return pasted[..., 0]


def normalise(heat: jax.Array) -> jax.Array:
    """Divide each knee's heat [batch, ...] by its maximum; heat that is all zero stays so."""
    highest = heat.max(tuple(range(1, heat.ndim)), keepdims=True)
    return heat / jnp.where(highest > 0, highest, 1.0)
