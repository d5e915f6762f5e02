"""Deletion: whether a network's prediction rests on the hottest part of its picture."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

SHARE = 0.1
"""Share of a picture that is deleted."""

CELL = 8
"""Side of what is deleted at a time, pixels; the heat that is drawn is no finer."""

MOVES = ((1, 3), (3, 1))
"""Quarters of the rows and columns by which the hottest part is moved, for comparison."""

CLEAR = 1.2
"""The hottest part must count at least so many times as much as the same shape elsewhere."""


def losses(
    logits_of: Callable[[jax.Array], jax.Array], images: jax.Array, heat: jax.Array
) -> jax.Array:
    """Return the loss of the margin without the hottest tenth of a picture, and without another.

    The margin is the highest logit above the mean of the others. What is deleted is blurred, since
    a hole would be a detail that the network has never seen (Samek et al. 2017). The comparison is
    the same shape elsewhere, the mean of `MOVES`: scattered cells would change the picture less.

    Args:
        logits_of: Logits [batch, outputs] of a target for images.
        images: Inputs, [batch, rows, columns, channels].
        heat: Evidence for the class of the highest logit, [batch, rows, columns].

    Returns:
        Losses, float32 [batch, 2]; NaN where there is no heat.
    """
    rows, columns = images.shape[1] // CELL, images.shape[2] // CELL
    cells = heat[:, : rows * CELL, : columns * CELL]
    cells = cells.reshape(-1, rows, CELL, columns, CELL).mean((2, 4)).reshape(-1, rows * columns)
    rank = jnp.argsort(jnp.argsort(-cells, axis=1, stable=True), axis=1)
    hottest = (rank < round(SHARE * rows * columns)).reshape(-1, rows, columns)
    quarters = [(down * rows // 4, right * columns // 4) for down, right in MOVES]
    deleted = [hottest, *(jnp.roll(hottest, move, (1, 2)) for move in quarters)]
    smooth = _blurred(images)
    before = logits_of(images)
    chosen = before.argmax(-1)
    found = []
    for each in deleted:
        mask = each.repeat(CELL, 1).repeat(CELL, 2)
        mask = jnp.pad(mask, [(0, 0)] + [(0, n % CELL) for n in images.shape[1:3]])
        without = logits_of(jnp.where(mask[..., None], smooth, images))
        found.append(_margin(before, chosen) - _margin(without, chosen))
    both = jnp.stack([found[0], sum(found[1:]) / len(MOVES)], axis=1)
    return jnp.where(heat.any((1, 2))[:, None], both, jnp.nan)


def is_misleading(hottest: float, elsewhere: float) -> bool:
    """Tell from mean losses if the hottest part of pictures counts no more than another."""
    return not hottest > CLEAR * max(elsewhere, 0.0)


def _margin(logits: jax.Array, chosen: jax.Array) -> jax.Array:
    """Return the logit of a class above the mean of the others; the one output, if it is alone."""
    logits = logits.astype(jnp.float32)
    of_class = jnp.take_along_axis(logits, chosen[:, None], axis=1)[:, 0]
    others = logits.shape[1] - 1
    return of_class - (logits.sum(1) - of_class) / others if others else of_class


def _blurred(images: jax.Array) -> jax.Array:
    """Blur images by a Gaussian whose standard deviation is a tenth of their columns."""
    sigma = images.shape[2] / 10
    across = [_gaussian(count, sigma) for count in images.shape[1:3]]
    smooth = jnp.einsum("ys,xt,bstc->byxc", *across, images, precision="highest")
    return smooth.astype(images.dtype)


def _gaussian(count: int, sigma: float) -> np.ndarray:
    """Return the weights of all pixels of an axis in each, float32 [count, count], of sum 1."""
    at = np.arange(count)
    weights = np.exp(-0.5 * ((at[:, None] - at) / sigma) ** 2)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
