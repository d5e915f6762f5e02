"""Siamese-GAP: early osteoarthritis from both sides of a knee, read at four depths.

Wang et al., "Confidence-driven deep learning framework for early detection of knee osteoarthritis",
section II-A. The layers are as in the authors' later code (KECAE), and so is the attention, which
the text does not mention but its number of parameters includes.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from knee_jax.config.fields import option
from knee_jax.errors import UserError
from knee_jax.models import weights
from knee_jax.models.heads import read_features
from knee_jax.models.layers import (
    Cells,
    Conv,
    ConvBlock,
    choose,
    constant_bias,
    global_average,
    global_max,
    kaiming_uniform,
    observe,
    torch_uniform,
)
from knee_jax.models.patches import PATCH, side_patches

CONVOLUTIONS = (2, 3, 4, 4)
"""Number of convolutions in each block; from the second block on, the first has a stride of 2."""
DEEPEST = 3
"""Block at which the evidence that it and later ones read is seen: the cells of the fourth are few
and lie in the middle of a patch, each reading nearly all of it."""
REDUCTION = 8
"""Number of channels per hidden unit of the attention."""

load = weights.fill


class ChannelAttention(nn.Module):
    """Number in (0, 1) for each channel, from the means and maxima of all (Woo et al. 2018)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [B, H, W, C] to [B, 1, 1, C], float32."""
        hidden = Conv(max(x.shape[-1] // REDUCTION, 1), 1, initial=torch_uniform, name="fc1")
        scores = Conv(x.shape[-1], 1, initial=torch_uniform, name="fc2")
        pooled = (global_average(x), global_max(x).astype(jnp.float32))
        return nn.sigmoid(sum(scores(nn.relu(hidden(p[:, None, None]))) for p in pooled))


class Trunk(nn.Module):
    """Branch of blocks of unpadded convolutions; each reads what attention has emphasised.

    The attention after the last block changes nothing that is read: it is in the published code and
    number of parameters, and takes no time.

    Attributes:
        width: Channels of the first block; each later one has twice as many.
        blocks: Number of blocks.
        attention: Whether channels are weighted between blocks.
        dtype: Compute type.
    """

    width: int = 32
    blocks: int = 4
    attention: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, patch: jax.Array, train: bool = False, side: str = "lateral"
    ) -> tuple[jax.Array, ...]:
        """Return the maps of the blocks, before attention.

        It exposes the maps through which all passes that later blocks read, those of block
        `DEEPEST`, as `evidence_<side>`.

        Args:
            patch: Normalised grey values, [batch, size, size, 1 or 3].
            train: Whether batch norm uses and updates batch statistics.
            side: Side of the knee that the patch is of.
        """
        x, maps = patch, []
        for i, convolutions in enumerate(CONVOLUTIONS[: self.blocks]):
            stride = 1 if i == 0 else 2
            block = ConvBlock(
                self.width << i, convolutions, stride, dtype=self.dtype, name=f"block{i + 1}"
            )
            x = block(x, train)
            if i + 1 == min(DEEPEST, self.blocks):
                x = observe(self, f"evidence_{side}", x)
            maps.append(x)
            if self.attention:
                x = x + x * ChannelAttention(name=f"attention{i + 1}")(x).astype(x.dtype)
        return tuple(maps)


class Model(nn.Module):
    """Both side patches through one trunk; sums of pooled blocks to one linear head per target.

    In training each side is normalised by its own statistics, and both enter the running ones, the
    lateral side first.
    """

    targets: tuple[str, ...] = ("kl0_vs_kl2",)
    width: int = option(32, "Channels of the first block; 32 is the published network.", low=1)
    attention: bool = option(
        True,
        "Channel attention, which the published code and the paper's number of parameters (2.71 M) "
        "have; its text has none (2.69 M).",
    )
    positions: tuple[int, ...] = option(
        (1, 2, 3, 4),
        "Blocks after which features are pooled (Table III); blocks after the last are left out.",
        choices=(1, 2, 3, 4),
    )
    pooling: str = option("average", "GAP or GMP (Table III).", choices=("average", "max"))
    combine: str = option(
        "add",
        "How the features of the two sides are combined (section II-A).",
        choices=("add", "concatenate"),
    )
    dropout: float = option(0.2, "Dropout rate before each head, while training.", low=0, below=1)
    patch: int = option(
        PATCH, "Side of the patches, pixels of the image; see `patches.side_patches`.", low=1
    )
    dtype: Any = jnp.float32

    needs_keypoints = False

    def cells(self, name: str, size: int, count: int) -> Cells:
        """Return the places of the cells of the maps that are exposed, on a patch."""
        last = name.rpartition("_")[2]
        block = int(last) if last.isdecimal() else min(DEEPEST, max(self.positions))
        cells = Cells()
        for i, convolutions in enumerate(CONVOLUTIONS[:block]):
            for j in range(convolutions):
                cells = cells.after(3, 2 if i > 0 and j == 0 else 1)
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
            UserError: A target, the pooling or the combination is unknown, the positions are not
                some of 1 to 4, the image is too small for the patches, or a patch too small for the
                blocks.
        """
        positions = sorted(set(self.positions))
        if not positions or not set(positions) <= set(range(1, len(CONVOLUTIONS) + 1)):
            raise UserError(f"positions = {self.positions}: name one or more of the blocks 1 to 4")
        pool = choose({"average": global_average, "max": global_max}, self.pooling, "pooling")
        combine = choose(
            {"add": sum, "concatenate": lambda sides: jnp.concatenate(sides, axis=-1)},
            self.combine,
            "combination",
        )
        trunk = Trunk(self.width, positions[-1], self.attention, self.dtype, name="trunk")
        sides = []
        for side, patch in zip(("lateral", "medial"), side_patches(image, self.patch), strict=True):
            maps = list(trunk(patch, train, side))
            for i in positions:
                if i < min(DEEPEST, positions[-1]):
                    # What this block alone adds, for later ones get the maps as they were.
                    maps[i - 1] = observe(self, f"evidence_{side}_{i}", maps[i - 1])
            pooled = [pool(maps[i - 1]).astype(jnp.float32) for i in positions]
            sides.append(jnp.concatenate(pooled, axis=-1))
        return read_features(
            self,
            combine(sides),
            self.targets,
            dropout=self.dropout,
            train=train,
            initial=kaiming_uniform,
            initial_bias=constant_bias(0.1),
        )
