"""Densely connected networks, identical to torchvision's.

Huang, Liu, van der Maaten & Weinberger 2017, "Densely connected convolutional networks"
(DenseNet-BC: bottlenecks, and half of the channels after each block).
"""

import types
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from knee_jax.config.fields import option
from knee_jax.errors import UserError
from knee_jax.models import weights
from knee_jax.models.heads import POOLINGS, read_targets
from knee_jax.models.layers import (
    BatchNorm,
    Cells,
    Conv,
    average_pool_2x2,
    choose,
    kaiming_normal_in,
    max_pool,
    observe,
)
from knee_jax.targets.grades import GRADES

BLOCKS = types.MappingProxyType(
    {
        121: (6, 12, 24, 16),
        161: (6, 12, 36, 24),
        169: (6, 12, 32, 32),
        201: (6, 12, 48, 32),
    }
)
"""Number of layers in each block, by depth."""
WIDTHS = types.MappingProxyType({121: 64, 161: 96, 169: 64, 201: 64})
"""Channels of the stem, by depth: twice the growth rate, which is what each layer adds."""

load = weights.fill


class Layer(nn.Module):
    """Batch norm, ReLU and 1x1 convolution to 4 x growth channels; the same with 3x3 to growth.

    Attributes:
        growth: Channels of the result.
        dtype: Compute type.
    """

    growth: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map [B, H, W, C] to [B, H, W, growth]."""
        for i, (features, side) in enumerate(((4 * self.growth, 1), (self.growth, 3)), 1):
            x = nn.relu(BatchNorm(name=f"norm{i}")(x, train))
            x = Conv(features, side, dtype=self.dtype, initial=kaiming_normal_in, name=f"conv{i}")(
                x
            )
        return x


class Block(nn.Module):
    """Layers that each read the block's input and the results of all layers before.

    Attributes:
        layers: Number of layers.
        growth: Channels that each layer adds.
        dtype: Compute type.
    """

    layers: int
    growth: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map [B, H, W, C] to [B, H, W, C + layers * growth]."""
        for i in range(1, self.layers + 1):
            new = Layer(self.growth, self.dtype, name=f"denselayer{i}")(x, train)
            x = jnp.concatenate([x, new], axis=-1)
        return x


class Transition(nn.Module):
    """Batch norm, ReLU, 1x1 convolution to half of the channels, and 2x2 mean.

    Attributes:
        dtype: Compute type.
    """

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map [B, H, W, C] to [B, floor(H/2), floor(W/2), C/2]."""
        x = nn.relu(BatchNorm(name="norm")(x, train))
        features = x.shape[-1] // 2
        x = Conv(features, 1, dtype=self.dtype, initial=kaiming_normal_in, name="conv")(x)
        return average_pool_2x2(x)


class Trunk(nn.Module):
    """Convolutional part: stem and four blocks, with transitions between them.

    Attributes:
        depth: Number of layers, a key of `BLOCKS`.
        width: Channels of the stem, twice the growth rate; None: those of `WIDTHS`.
        blocks: Number of layers in each of the four blocks; None: those of `BLOCKS`.
        dtype: Compute type.
    """

    depth: int
    width: int | None = None
    blocks: tuple[int, ...] | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """Return the last map, of stride 32.

        Args:
            image: Normalised grey values, [batch, height, width, 1 or 3].
            train: Whether batch norm uses and updates batch statistics.
        """
        blocks = self.blocks or choose(BLOCKS, self.depth, "DenseNet depth")
        if len(blocks) != 4 or min(blocks) < 1:
            raise UserError(f"blocks = {blocks}: give the four blocks 1 or more layers each")
        width = self.width or choose(WIDTHS, self.depth, "DenseNet depth")
        x = Conv(width, 7, 2, self.dtype, initial=kaiming_normal_in, name="features_conv0")(image)
        x = max_pool(nn.relu(BatchNorm(name="features_norm0")(x, train)))
        for i, layers in enumerate(blocks, 1):
            if i > 1:
                x = Transition(self.dtype, name=f"features_transition{i - 1}")(x, train)
            x = Block(layers, max(width // 2, 1), self.dtype, name=f"features_denseblock{i}")(
                x, train
            )
            if i == 2:
                x = observe(self, "evidence", x)
        return nn.relu(BatchNorm(name="features_norm5")(x, train))


class Model(nn.Module):
    """Trunk, global pooling, and one linear head per target."""

    depth: int = option(121, "Number of layers.", choices=BLOCKS)
    width: int | None = option(
        None, "Channels of the stem, twice the growth rate; None: the published ones.", low=2
    )
    blocks: tuple[int, ...] | None = option(
        None, "Layers in each of the four blocks; None: the published ones.", low=1
    )
    targets: tuple[str, ...] = GRADES
    pooling: str = option("average", "Global pooling, see `heads`.", choices=POOLINGS)
    dropout: float = option(0.0, "Dropout rate before each head, while training.", low=0, below=1)
    dtype: Any = jnp.float32

    needs_keypoints = False

    @staticmethod
    def cells(name: str, size: int, count: int) -> Cells:
        """Return the places of the cells of the maps that are exposed."""
        cells = Cells().after(7, 2, 3).after(3, 2, 1)
        for _ in range({"evidence": 1, "maps": 3}[name]):
            cells = cells.after(2, 2)
        return cells

    @nn.compact
    def __call__(
        self, image: jax.Array, keypoints: jax.Array | None = None, train: bool = False
    ) -> dict[str, jax.Array]:
        """Return float32 logits [batch, classes] of every target.

        Args:
            image: Normalised grey values, [batch, height, width, 1 or 3]; 29 px or more.
            keypoints: Ignored; all networks have the same call.
            train: Whether to use batch statistics and dropout (rng `dropout`).

        Raises:
            UserError: The depth, a target or the pooling is unknown, there are not four blocks, or
                the image is too small.
        """
        blocks = tuple(self.blocks) if self.blocks else None
        trunk = Trunk(self.depth, self.width, blocks, self.dtype, name="trunk")
        return read_targets(
            self,
            trunk(image, train),
            self.targets,
            pooling=self.pooling,
            dropout=self.dropout,
            dtype=self.dtype,
            train=train,
        )
