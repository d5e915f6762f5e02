"""Affine maps between pixel grids, and resampling through them, on the device.

Coordinates are in pixels with the first pixel's centre at 0.5, so that the image spans [0, size]
and a change of resolution is a plain scaling.
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


def rotation(angle: jax.Array, height: int, width: int, aspect: float = 1.0) -> jax.Array:
    """The map from output to input coordinates of a rotation about the image's centre.

    Args:
        angle: Rotation of the content, radians, positive from x towards y (clockwise as seen).
        height: Height of the image, pixels.
        width: Width of the image, pixels.
        aspect: width of a pixel over its height.

    Returns:
        float32 [2, 3], such that input = matrix @ (x, y, 1).
    """
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    linear = jnp.array([[cos, sin / aspect], [-sin * aspect, cos]])
    centre = jnp.array([width, height]) / 2
    # Elementwise, as in `affine`.
    offset = centre - (linear * centre).sum(axis=1)
    return jnp.concatenate([linear, offset[:, None]], axis=1)


def rotated_side(angle: jax.Array, side: int) -> jax.Array:
    """Side of the smallest canvas of whole pixels, to rounding, that holds a rotated square."""
    return jnp.round(side * (jnp.abs(jnp.cos(angle)) + jnp.abs(jnp.sin(angle))))


def rotated_crop(angle: jax.Array, offset: jax.Array, canvas: int, size: int) -> jax.Array:
    """The map of a crop from an image that was rotated onto a canvas which grew to hold it.

    The grown canvas, whose side depends on the angle, is never computed: its frame is part of the
    map. The image's centre lies at its centre.

    Args:
        angle: rotation of the content, radians, positive from x towards y (clockwise as seen).
        offset: [2], x and y of the crop's corner in the grown canvas, pixels.
        canvas: side of the image that is rotated, pixels.
        size: side of the crop, pixels.

    Returns:
        float32 [2, 3], from coordinates of the crop to those of the image.
    """
    shift = (rotated_side(angle, canvas) - size) / 2 - offset
    # A crop does not shrink: its magnification undoes what the ratio of the sides stands for.
    return affine(shift, angle, canvas / size, canvas, size)


def map_points(matrix: jax.Array, points: jax.Array) -> jax.Array:
    """Carry keypoints [..., 2] from input to output coordinates, through the inverse map."""
    (a, b), (c, d) = matrix[:, :2]
    x, y = jnp.moveaxis(points - matrix[:, 2], -1, 0)
    return jnp.stack([d * x - b * y, a * y - c * x], axis=-1) / (a * d - b * c)


def resample(image: jax.Array, matrix: jax.Array, size: int | tuple[int, int]) -> jax.Array:
    """Bilinear resampling; what lies outside the input is zero.

    Args:
        image: [height, width], float.
        matrix: [2, 3], from output to input coordinates.
        size: side of the output, or its height and width, pixels.

    Returns:
        [size, size] or [*size], float32.
    """
    height, width = image.shape
    of_rows, of_columns = (size, size) if isinstance(size, int) else size
    y, x = jnp.meshgrid(jnp.arange(of_rows) + 0.5, jnp.arange(of_columns) + 0.5, indexing="ij")
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
    """Shrink [height, width] by a whole factor through block means; a remainder is an error."""
    height, width = image.shape
    blocks = image.reshape(height // factor, factor, width // factor, factor)
    return blocks.mean(axis=(1, 3))


def shrink_factor(from_size: int, to_size: int) -> int:
    """The largest whole factor by which block means may shrink before bilinear sampling.

    Bilinear sampling reads two pixels along each axis: shrinking by more skips pixels and aliases.
    """
    return max(f for f in range(1, max(from_size // to_size, 1) + 1) if from_size % f == 0)


def resize(image: jax.Array, size: int) -> jax.Array:
    """Block means by a whole factor, then bilinear resizing; the border's pixels go on outside.

    Args:
        image: [side, side], float.
        size: side of the output, pixels.

    Returns:
        [size, size], float32.
    """
    pooled = mean_pool(image, shrink_factor(image.shape[0], size))
    return jax.image.resize(pooled, (size, size), "linear", antialias=False)
