"""Pixels and keypoints from prepared ROI to network input, on the device.

One composed affine map an image (shrink, translate, rotate, scale), then intensity changes, keyed
by (seed, step, slot in the global batch): the result does not depend on devices or hosts.

Coordinates are in pixels with the first pixel's centre at 0.5, so that the image spans [0, size]
and a change of resolution is a plain scaling.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from knee_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes; every default means no change.

    Attributes:
        translation: largest shift along each axis, as a fraction of the image's size.
        rotation: largest angle either way, degrees.
        scale: lowest and highest magnification.
        gamma: lowest and highest exponent of intensities in [0, 1].
        brightness: largest relative change of intensities, either way.
        noise: standard deviation of added Gaussian noise, in units of full scale.
    """

    translation: float = 0.0
    rotation: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    gamma: tuple[float, float] = (1.0, 1.0)
    brightness: float = 0.0
    noise: float = 0.0

    def __post_init__(self):
        for name in ("scale", "gamma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise UserError(f"config.augmentation.{name} = ({low}, {high}): 0 < low <= high")


def affine(
    translation: jax.Array, angle: jax.Array, magnification: jax.Array, from_size: int, to_size: int
) -> jax.Array:
    """The map from output to input coordinates, about the image's centre.

    Args:
        translation: [2], shift of the content along x and y, output pixels.
        angle: rotation of the content, radians, positive from x towards y (clockwise as seen).
        magnification: above 1 the content grows.
        from_size: side of the input image, pixels.
        to_size: side of the output image, pixels.

    Returns:
        float32 [2, 3], such that input = matrix @ (x, y, 1).
    """
    shrink = from_size / to_size
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    linear = jnp.array([[cos, sin], [-sin, cos]]) * shrink / magnification
    # Elementwise: a product of matrices may be rounded to bfloat16 on an accelerator.
    offset = from_size / 2 - (linear * (to_size / 2 + translation)).sum(axis=1)
    return jnp.concatenate([linear, offset[:, None]], axis=1)


def map_points(matrix: jax.Array, points: jax.Array) -> jax.Array:
    """Carries keypoints [..., 2] from input to output coordinates, through the inverse map."""
    return jnp.linalg.solve(matrix[:, :2], (points - matrix[:, 2])[..., None])[..., 0]


def resample(image: jax.Array, matrix: jax.Array, size: int) -> jax.Array:
    """Bilinear resampling; what lies outside the input is zero.

    Args:
        image: [height, width], float.
        matrix: [2, 3], from output to input coordinates.
        size: side of the output, pixels.

    Returns:
        [size, size], float32.
    """
    height, width = image.shape
    centres = jnp.arange(size) + 0.5
    y, x = jnp.meshgrid(centres, centres, indexing="ij")
    # A border of two zeros makes every neighbour a valid address, without a test per pixel.
    padded = jnp.pad(image, 2)
    u = jnp.clip(matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] + 1.5, 0, width + 2.5)
    v = jnp.clip(matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] + 1.5, 0, height + 2.5)
    left, top = jnp.floor(u).astype(jnp.int32), jnp.floor(v).astype(jnp.int32)
    right_share, bottom_share = u - left, v - top
    flat, corner = padded.reshape(-1), top * (width + 4) + left

    def row(start: jax.Array) -> jax.Array:
        here = jnp.take(flat, start, mode="clip")
        beside = jnp.take(flat, start + 1, mode="clip")
        return here + right_share * (beside - here)

    upper, lower = row(corner), row(corner + width + 4)
    return upper + bottom_share * (lower - upper)


def mean_pool(image: jax.Array, factor: int) -> jax.Array:
    """Shrinks [height, width] by a whole factor through block means; a remainder is an error."""
    height, width = image.shape
    blocks = image.reshape(height // factor, factor, width // factor, factor)
    return blocks.mean(axis=(1, 3))


def _shrink_factor(from_size: int, to_size: int) -> int:
    """The largest whole factor by which block means may shrink before bilinear sampling.

    Bilinear sampling reads two pixels along each axis: shrinking by more skips pixels and aliases.
    """
    return max(f for f in range(1, max(from_size // to_size, 1) + 1) if from_size % f == 0)


def view(
    image: jax.Array, keypoints: jax.Array, key: jax.Array, size: int, augmentation: Augmentation
) -> tuple[jax.Array, jax.Array]:
    """One knee as the network sees it, before normalisation.

    Args:
        image: uint8 [side, side].
        keypoints: float32 [74, 2], pixels of `image`.
        key: random key of this knee at this step.
        size: side of the output, pixels.
        augmentation: the ranges to draw from.

    Returns:
        Intensities float32 [size, size] in about [0, 1], and keypoints in output pixels.
    """
    side = image.shape[0]
    shift, turn, zoom, bend, light, grain = jax.random.split(key, 6)
    matrix = affine(
        augmentation.translation * size * jax.random.uniform(shift, (2,), minval=-1, maxval=1),
        np.deg2rad(augmentation.rotation) * jax.random.uniform(turn, minval=-1, maxval=1),
        jax.random.uniform(zoom, minval=augmentation.scale[0], maxval=augmentation.scale[1]),
        side,
        size,
    )
    factor = _shrink_factor(side, size)
    pixels = mean_pool(image.astype(jnp.float32) / 255, factor)
    pixels = resample(pixels, matrix / factor, size)
    if augmentation.gamma != (1.0, 1.0):
        low, high = augmentation.gamma
        pixels = pixels ** jax.random.uniform(bend, minval=low, maxval=high)
    if augmentation.brightness:
        change = jax.random.uniform(light, minval=-1, maxval=1) * augmentation.brightness
        pixels = pixels * (1 + change)
    if augmentation.noise:
        pixels = pixels + augmentation.noise * jax.random.normal(grain, pixels.shape)
    return pixels, map_points(matrix, keypoints)


def views(
    batch: Mapping[str, jax.Array],
    key: jax.Array,
    size: int,
    statistics: tuple[float, float],
    augmentation: Augmentation,
) -> tuple[jax.Array, jax.Array]:
    """A batch as the network sees it.

    Args:
        batch: `image` uint8 [batch, side, side] and `keypoints` [batch, 74, 2].
        key: random key of the step, the same on every device.
        size: side of the network's input, pixels.
        statistics: mean and standard deviation of the training set's intensities in [0, 1].
        augmentation: the ranges to draw from; `Augmentation()` for evaluation.

    Returns:
        Normalised images float32 [batch, size, size, 1] and keypoints float32 [batch, 74, 2] in
        pixels of those images.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(batch["image"])))
    images, keypoints = jax.vmap(view, (0, 0, 0, None, None))(
        batch["image"], batch["keypoints"], keys, size, augmentation
    )
    mean, deviation = statistics
    return ((images - mean) / deviation)[..., None], keypoints
