"""Siamese network of Tiulpin et al. 2018, with which Wang et al. compare theirs.

"Automatic knee osteoarthritis diagnosis from plain radiographs: a deep learning-based approach",
with the layers of the published code (DeepKnee's KneeNet).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from knee_jax.config.fields import option
from knee_jax.models import weights
from knee_jax.models.heads import read_features
from knee_jax.models.layers import (
    Cells,
    ConvBlock,
    constant_bias,
    global_average,
    kaiming_uniform,
    max_pool_2x2,
    observe,
)
from knee_jax.models.patches import PATCH, side_patches

BLOCKS = ((3, 2), (2, 1), (1, 1))
"""Convolutions of each block, and the stride of the first."""

load = weights.fill


class Trunk(nn.Module):
    """Branch of three blocks of unpadded convolutions, with 2x2 max-pools between them.

    Attributes:
        width: Channels of the first block; the others have twice and four times as many.
        dtype: Compute type.
    """

    width: int = 64
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, patch: jax.Array, train: bool = False) -> jax.Array:
        """Return the last map, [batch, 10, 10, 4 width] for a patch of 128 px.

        Args:
            patch: Normalised grey values, [batch, size, size, 1 or 3].
            train: Whether batch norm uses and updates batch statistics.
        """
        x = patch
        for i, (convolutions, stride) in enumerate(BLOCKS):
            if i > 0:
                x = max_pool_2x2(x)
            name = f"block{i + 1}"
            x = ConvBlock(self.width << i, convolutions, stride, 1e-3, self.dtype, name=name)(
                x, train
            )
        return x


class Model(nn.Module):
    """Both side patches through one trunk, averaged and joined, and one linear head per target.

    In training each side is normalised by its own statistics, and both enter the running ones, the
    lateral side first. The published predictions are those of three networks with their logits
    added.
    """

    targets: tuple[str, ...] = ("kl",)
    width: int = option(
        64,
        "Channels of the first block: 64 in the released networks; 128 has the number of "
        "parameters that Wang et al. print, but for the head (2.37 M in place of 2.36 M).",
        low=1,
    )
    dropout: float = option(0.2, "Dropout rate before each head, while training.", low=0, below=1)
    patch: int = option(
        PATCH, "Side of the patches, pixels of the image; see `patches.side_patches`.", low=1
    )
    dtype: Any = jnp.float32

    needs_keypoints = False

    @staticmethod
    def cells(name: str, size: int, count: int) -> Cells:
        """Return the places of the cells of the maps that are exposed, on a patch."""
        cells = Cells()
        for i, (convolutions, stride) in enumerate(BLOCKS):
            cells = cells.after(2, 2) if i > 0 else cells
            for j in range(convolutions):
                cells = cells.after(3, stride if j == 0 else 1)
        return cells

    @nn.compact
    def __call__(
        self, image: jax.Array, keypoints: jax.Array | None = None, train: bool = False
    ) -> dict[str, jax.Array]:
        """Return float32 logits [batch, classes] of every target.

        Args:
            image: Normalised grey values of a whole knee, [batch, height, width, 1 or 3].
            keypoints: Ignored; all networks have the same call.
            train: Whether to use batch statistics and dropout (rng `dropout`).

        Raises:
            UserError: A target is unknown, the image is too small for the patches, or a patch too
                small for the blocks.
        """
        trunk = Trunk(self.width, self.dtype, name="trunk")
        sides = []
        for side, patch in zip(("lateral", "medial"), side_patches(image, self.patch), strict=True):
            maps = observe(self, f"maps_{side}", trunk(patch, train))
            sides.append(global_average(maps))
        return read_features(
            self,
            jnp.concatenate(sides, axis=-1),
            self.targets,
            dropout=self.dropout,
            train=train,
            initial=kaiming_uniform,
            initial_bias=constant_bias(0.1),
        )
