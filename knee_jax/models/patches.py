"""Two side patches of a knee, as Siamese networks read them (Tiulpin et al. 2018).

Wang et al., Fig. 3: "two 128 x 128 pixel patches were extracted from the lateral and medial
one-third regions of the knee joint", the medial one mirrored, so that both look alike. In the
published code the first row is floor(height / 3), and the patches lie at the left and right edges
of the image.
"""

import jax
import jax.numpy as jnp

from knee_jax.errors import UserError

PATCH = 128
"""Side of a patch, pixels of a knee of 299 or 300 px (140 mm in Tiulpin et al. 2018)."""


def side_patches(image: jax.Array, size: int = PATCH) -> tuple[jax.Array, jax.Array]:
    """Cut the lateral patch, and the medial one mirrored.

    Args:
        image: Images as of right knees (lateral at the left), [batch, height, width, channels].
        size: Side of the patches, pixels.

    Returns:
        Lateral and medial patches, [batch, size, size, channels] each.

    Raises:
        UserError: The image is too small for patches of that size.
    """
    height, width = image.shape[1:3]
    top = first_row(height, width, size)
    rows = image[:, top : top + size]
    return rows[:, :, :size], rows[:, :, : width - size - 1 : -1]


def paste_patches(
    lateral: jax.Array, medial: jax.Array, height: int, width: int
) -> tuple[jax.Array, jax.Array]:
    """Place the pixels of both patches where they lie on the knee, the medial one mirrored back.

    Args:
        lateral: Lateral patches, [batch, size, size, channels].
        medial: Medial patches of the same shape, as returned by `side_patches`.
        height: Height of the knee, pixels.
        width: Width of the knee, pixels.

    Returns:
        Pasted patches, [batch, height, width, channels], zero where there is none and the mean
        where two overlap; and the number of patches on each pixel, [height, width].
    """
    size = lateral.shape[1]
    top = first_row(height, width, size)
    rows = (top, height - top - size)
    left, right = (0, width - size), (width - size, 0)

    def pad(x: jax.Array, sides: tuple[int, int]) -> jax.Array:
        return jnp.pad(x, ((0, 0), rows, sides, (0, 0)))

    total = pad(lateral, left) + pad(medial[:, :, ::-1], right)
    one = jnp.ones((1, size, size, 1))
    count = (pad(one, left) + pad(one, right))[0, :, :, 0]
    return total / jnp.maximum(count, 1)[..., None], count


def first_row(height: int, width: int, size: int) -> int:
    """Return the row of a knee at which its patches begin.

    Raises:
        UserError: The patches would not fit.
    """
    top = height // 3
    if size < 1 or top + size > height or size > width:
        raise UserError(
            f"side patches of {size} px do not fit a knee of {height} x {width} px: set "
            f"config.input.size to {-(-3 * size // 2)} or more"
        )
    return top
