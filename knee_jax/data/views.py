"""Predictions averaged over several views of an image: mirrored, magnified, shifted."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from knee_jax.config.schema import Evaluation
from knee_jax.data import augment, geometry
from knee_jax.targets.kinds import Target

Forward = Callable[[jax.Array], Mapping[str, jax.Array]]
"""Function from inputs of a network [batch, ...] to decoded outputs [batch, ...] by target."""


def averaged(
    forward: Forward, images: jax.Array, evaluation: Evaluation, targets: Sequence[Target]
) -> dict[str, jax.Array]:
    """Return decoded outputs, averaged over the views that the config asks for.

    In a mirrored image lateral is medial, and outputs are exchanged accordingly; other values that
    `forward` returns, such as features, are plainly averaged.

    Args:
        forward: Prediction.
        images: Inputs of the network, [batch, height, width, channels].
        evaluation: The part `evaluation` of a config.
        targets: Targets of the run.
    """
    views = _moved(images, evaluation)
    number = len(views)
    if evaluation.mirror:
        views += [augment.mirror(view) for view in views]
    if len(views) == 1:
        return dict(forward(images))
    decoded = {
        name: values.reshape(len(views), images.shape[0], *values.shape[1:])
        for name, values in forward(jnp.concatenate(views)).items()
    }
    opposites = {target.name: target.opposite or target.name for target in targets}

    def mean(name: str) -> jax.Array:
        of_mirrored = decoded[opposites.get(name, name)][number:]
        return jnp.concatenate([decoded[name][:number], of_mirrored]).mean(0)

    return {name: mean(name) for name in decoded}


def _moved(images: jax.Array, evaluation: Evaluation) -> list[jax.Array]:
    """Return the image at every magnification and shift; by default the image alone."""
    step = evaluation.shift
    shifts = [(0.0, 0.0)]
    if step:
        shifts += [(step, 0.0), (-step, 0.0), (0.0, step), (0.0, -step)]
    return [
        images if (scale, shift) == (1.0, (0.0, 0.0)) else _move(images, scale, shift)
        for scale in evaluation.scales
        for shift in shifts
    ]


def _move(images: jax.Array, scale: float, shift: tuple[float, float]) -> jax.Array:
    size = images.shape[1]
    matrix = geometry.affine(jnp.array(shift) * size, jnp.float32(0), scale, size, size)
    each_channel = jax.vmap(geometry.resample, (-1, None, None), -1)
    return jax.vmap(each_channel, (0, None, None))(images, matrix, size)
