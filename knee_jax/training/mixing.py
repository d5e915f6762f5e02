"""Training on mixtures of two knees of a batch.

Mixup blends two images (Zhang et al. 2018, "mixup: beyond empirical risk minimization"); CutMix
pastes a rectangle of one into the other (Yun et al. 2019). The loss is that of either knee's labels
in the proportion of the images, so that any task can be trained in this way.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from knee_jax.config.schema import Mixing
from knee_jax.tasks.protocols import Labels

Loss = Callable[[Labels, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]
"""Function from labels and mask of a batch to its loss and the parts of it."""


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Images of a batch, each mixed with its neighbour's.

    Attributes:
        images: Mixed images, [batch, ...].
        share: Share of an image's own pixels, float32 scalar; None if nothing is mixed.
    """

    images: jax.Array
    share: jax.Array | None

    def loss(
        self, loss: Loss, labels: Labels, mask: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return the loss of the mixed images, and its parts, in proportion to the shares."""
        share = self.share
        if share is None:
            return loss(labels, mask)
        own = loss(labels, mask)
        other = loss(jax.tree.map(neighbour, dict(labels)), mask & neighbour(mask))
        return jax.tree.map(lambda a, b: share * a + (1 - share) * b, own, other)


def neighbour(x: jax.Array) -> jax.Array:
    """Return the next knee of each in the batch, whose order is random."""
    return jnp.roll(x, -1, axis=0)


def mix(images: jax.Array, config: Mixing, key: jax.Array) -> Mixture:
    """Mix each image with its neighbour by a share that is drawn for the batch.

    Args:
        images: Inputs of the network, [batch, height, width, channels]; for mixup of any shape.
        config: The part `mixing` of a config.
        key: Random key of the step.
    """
    blend_key, cut_key, choice_key = jax.random.split(key, 3)
    found = [
        form(images, alpha, key)
        for form, alpha, key in (
            (_blend, config.mixup, blend_key),
            (_cut, config.cutmix, cut_key),
        )
        if alpha
    ]
    if not found:
        return Mixture(images, None)
    if len(found) == 1:
        return Mixture(*found[0])
    chosen = jax.random.bernoulli(choice_key)
    return Mixture(*jax.tree.map(lambda a, b: jnp.where(chosen, a, b), *found))


def _blend(images: jax.Array, alpha: float, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    share = jax.random.beta(key, alpha, alpha)
    return share * images + (1 - share) * neighbour(images), share


def _cut(images: jax.Array, alpha: float, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Paste a rectangle of the neighbour; its sides are to the image's as sqrt(1 - share)."""
    share_key, row_key, column_key = jax.random.split(key, 3)
    side = jnp.sqrt(1 - jax.random.beta(share_key, alpha, alpha))

    def inside(key: jax.Array, size: int) -> jax.Array:
        centre = jax.random.uniform(key, maxval=size)
        return jnp.abs(jnp.arange(size) + 0.5 - centre) <= side * size / 2

    height, width = images.shape[1:3]
    pasted = inside(row_key, height)[:, None] & inside(column_key, width)
    mixed = jnp.where(pasted[..., None], neighbour(images), images)
    return mixed, 1 - pasted.mean(dtype=jnp.float32)
