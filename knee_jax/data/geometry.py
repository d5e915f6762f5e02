"""Affine maps between pixel grids, and resampling through them, on the device.

Coordinates are in pixels with the centre of the first pixel at 0.5, so that the image spans [0,
size] and a change of resolution is a plain scaling.
"""

import jax
import jax.numpy as jnp


def affine(
    translation: jax.Array,
    angle: jax.Array,
    magnification: jax.Array | float,
    from_size: int,
    to_size: int,
) -> jax.Array:
    """Return the affine map from output to input coordinates, about the image's centre.

    Args:
        translation: Shift of the content along x and y, output pixels, [2].
        angle: Rotation of the content, radians, positive from x towards y (clockwise as seen).
        magnification: Magnification of the content; above 1 it grows.
        from_size: Side of the input image, pixels.
        to_size: Side of the output image, pixels.

    Returns:
        Matrix such that input = matrix @ (x, y, 1), float32 [2, 3].
    """
    shrink = from_size / to_size
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    linear = jnp.array([[cos, sin], [-sin, cos]]) * shrink / magnification
    # Elementwise, since matrix products may be rounded to bfloat16 on an accelerator.
    offset = from_size / 2 - (linear * (to_size / 2 + translation)).sum(axis=1)
    return jnp.concatenate([linear, offset[:, None]], axis=1)


def rotation(angle: jax.Array, height: int, width: int, aspect: float = 1.0) -> jax.Array:
    """Return the map from output to input coordinates of a rotation about the image's centre.

    Args:
        angle: Rotation of the content, radians, positive from x towards y (clockwise as seen).
        height: Height of the image, pixels.
        width: Width of the image, pixels.
        aspect: Width of a pixel divided by its height.

    Returns:
        Matrix such that input = matrix @ (x, y, 1), float32 [2, 3].
    """
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    linear = jnp.array([[cos, sin / aspect], [-sin * aspect, cos]])
    centre = jnp.array([width, height]) / 2
    # Elementwise, as in `affine`.
    offset = centre - (linear * centre).sum(axis=1)
    return jnp.concatenate([linear, offset[:, None]], axis=1)


def rotated_side(angle: jax.Array, side: int) -> jax.Array:
    """Return the side of the smallest canvas, in whole pixels, that holds a rotated square."""
    return jnp.round(side * (jnp.abs(jnp.cos(angle)) + jnp.abs(jnp.sin(angle))))


def rotated_crop(angle: jax.Array, offset: jax.Array, canvas: int, size: int) -> jax.Array:
    """Return the map of a crop from an image rotated onto a canvas that grew to hold it.

    The grown canvas, whose side depends on the angle, is never computed: its frame is part of the
    map. The image's centre coincides with its centre.

    Args:
        angle: Rotation of the content, radians, positive from x towards y (clockwise as seen).
        offset: Corner of the crop in the grown canvas, x and y, pixels, [2].
        canvas: Side of the image that is rotated, pixels.
        size: Side of the crop, pixels.

    Returns:
        Matrix from coordinates of the crop to those of the image, float32 [2, 3].
    """
    shift = (rotated_side(angle, canvas) - size) / 2 - offset
    # A crop does not shrink: the magnification undoes the ratio of the sides.
    return affine(shift, angle, canvas / size, canvas, size)


def map_points(matrix: jax.Array, points: jax.Array) -> jax.Array:
    """Map keypoints [..., 2] from input to output coordinates, through the inverse map."""
    (a, b), (c, d) = matrix[:, :2]
    x, y = jnp.moveaxis(points - matrix[:, 2], -1, 0)
    return jnp.stack([d * x - b * y, a * y - c * x], axis=-1) / (a * d - b * c)


def resample(image: jax.Array, matrix: jax.Array, size: int | tuple[int, int]) -> jax.Array:
    """Resample an image bilinearly; outside the input it is zero.

    Args:
        image: Image, float [height, width].
        matrix: Map from output to input coordinates, [2, 3].
        size: Side of the output, or its height and width, pixels.

    Returns:
        Resampled image, float32 [size, size] or [*size].
    """
    height, width = image.shape
    of_rows, of_columns = (size, size) if isinstance(size, int) else size
    y, x = jnp.meshgrid(jnp.arange(of_rows) + 0.5, jnp.arange(of_columns) + 0.5, indexing="ij")
    # With a border of two zeros every neighbour has a valid address, without a test per pixel.
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
    """Shrink [height, width] by an integer factor through block means; a remainder is an error."""
    height, width = image.shape
    blocks = image.reshape(height // factor, factor, width // factor, factor)
    return blocks.mean(axis=(1, 3))


def shrink_factor(from_size: int, to_size: int) -> int:
    """Return the largest integer factor to shrink by block means before bilinear sampling.

    Bilinear sampling reads two pixels along each axis: shrinking further skips pixels and aliases.
    """
    return max(f for f in range(1, max(from_size // to_size, 1) + 1) if from_size % f == 0)


def resize(image: jax.Array, size: int) -> jax.Array:
    """Shrink by block means, then resize bilinearly, extending the border pixels outwards.

    Args:
        image: Image, float [side, side].
        size: Side of the output, pixels.

    Returns:
        Resized image, float32 [size, size].
    """
    pooled = mean_pool(image, shrink_factor(image.shape[0], size))
    return jax.image.resize(pooled, (size, size), "linear", antialias=False)
