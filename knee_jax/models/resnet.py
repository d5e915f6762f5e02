"""Residual networks, identical to torchvision's.

He, Zhang, Ren & Sun 2016, "Deep residual learning for image recognition", with the stride of a
bottleneck on its 3x3 convolution (torchvision's "v1.5").
"""

import types
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from knee_jax.config.fields import option
from knee_jax.models import weights
from knee_jax.models.heads import POOLINGS, read_targets
from knee_jax.models.layers import BatchNorm, Conv, choose, max_pool, observe
from knee_jax.targets.grades import GRADES

BLOCKS = types.MappingProxyType(
    {
        10: (1, 1, 1, 1),
        18: (2, 2, 2, 2),
        34: (3, 4, 6, 3),
        50: (3, 4, 6, 3),
        101: (3, 4, 23, 3),
        152: (3, 8, 36, 3),
    }
)
"""Number of residual blocks in each stage, by depth; from 50 on they are bottlenecks.
The paper has none of 10 layers, the smallest of this form."""

load = weights.fill


class Block(nn.Module):
    """Residual block: two 3x3 convolutions, or the 1x1, 3x3, 1x1 bottleneck (x4 channels).

    Attributes:
        features: Channels inside the block.
        stride: Stride of its first 3x3 convolution and of the shortcut.
        bottleneck: Whether the block is a bottleneck.
        dtype: Compute type.
        groups: Groups of the 3x3 convolution of a bottleneck; more than one makes it a ResNeXt's,
            with twice the channels inside (Xie et al. 2017, Table 1).
    """

    features: int
    stride: int
    bottleneck: bool
    dtype: Any
    groups: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map [B, H, W, C] to [B, H/stride, W/stride, features or 4 features]."""
        outer, stride = self.features, self.stride
        if self.bottleneck:
            inner = outer if self.groups == 1 else 2 * outer
            layers = [(inner, 1, 1, 1), (inner, 3, stride, self.groups), (4 * outer, 1, 1, 1)]
        else:
            layers = [(outer, 3, stride, 1), (outer, 3, 1, 1)]
        shortcut = x
        for i, (features, side, step, groups) in enumerate(layers, 1):
            x = Conv(features, side, step, self.dtype, groups, name=f"conv{i}")(x)
            x = BatchNorm(name=f"bn{i}")(x, train)
            if i < len(layers):
                x = nn.relu(x)
        if shortcut.shape != x.shape:
            shortcut = Conv(x.shape[-1], 1, stride, self.dtype, name="downsample_conv")(shortcut)
            shortcut = BatchNorm(name="downsample_bn")(shortcut, train)
        return nn.relu(x + shortcut)


class Trunk(nn.Module):
    """Convolutional part: stem and up to four stages of residual blocks.

    Attributes:
        depth: Number of layers, a key of `BLOCKS`.
        width: Channels of the stem and of the first stage's blocks; 64 is the published network.
        stages: Number of stages, up to four; later ones have no parameters.
        dtype: Compute type.
        groups: Groups of the 3x3 convolutions of depth 50 (see `Block`).
        remat: Whether to recompute the inside of each block for the gradient instead of keeping it.
    """

    depth: int
    width: int = 64
    stages: int = 4
    dtype: Any = jnp.float32
    groups: int = 1
    remat: bool = False

    @nn.compact
    def __call__(
        self, image: jax.Array, train: bool = False, evidence: str = "evidence"
    ) -> tuple[jax.Array, ...]:
        """Return the maps of the stages; that of stage s (from 1) has stride 2^(s + 1).

        Args:
            image: Normalised grey values, [batch, height, width, 1 or 3].
            train: Whether batch norm uses and updates batch statistics.
            evidence: Name under which the second stage's maps are exposed; empty: they are not.
        """
        x = Conv(self.width, 7, 2, self.dtype, name="conv1")(image)
        x = max_pool(nn.relu(BatchNorm(name="bn1")(x, train)))
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        maps = []
        for stage, blocks in enumerate(choose(BLOCKS, self.depth, "ResNet depth")[: self.stages]):
            for i in range(blocks):
                x = block(
                    self.width << stage,
                    2 if stage > 0 and i == 0 else 1,
                    self.depth >= 50,
                    self.dtype,
                    self.groups,
                    name=f"layer{stage + 1}_{i}",
                )(x, train)
            if stage == 1 and evidence:
                x = observe(self, evidence, x)
            maps.append(x)
        return tuple(maps)


class Model(nn.Module):
    """Trunk, global pooling, and one linear head per target."""

    depth: int = option(18, "Number of layers.", choices=BLOCKS)
    width: int = option(64, "Channels of the stem; 64 is the published network.", low=1)
    targets: tuple[str, ...] = GRADES
    pooling: str = option("average", "Global pooling, see `heads`.", choices=POOLINGS)
    dropout: float = option(0.0, "Dropout rate before each head, while training.", low=0, below=1)
    dtype: Any = jnp.float32

    needs_keypoints = False

    @nn.compact
    def __call__(
        self, image: jax.Array, keypoints: jax.Array | None = None, train: bool = False
    ) -> dict[str, jax.Array]:
        """Return float32 logits [batch, classes] of every target.

        Args:
            image: Normalised grey values, [batch, height, width, 1 or 3].
            keypoints: Ignored; all networks have the same call.
            train: Whether to use batch statistics and dropout (rng `dropout`).
        """
        trunk = Trunk(self.depth, self.width, 4, self.dtype, name="trunk")
        return read_targets(
            self,
            trunk(image, train)[-1],
            self.targets,
            pooling=self.pooling,
            dropout=self.dropout,
            dtype=self.dtype,
            train=train,
        )
