"""Squeeze-and-excitation networks, identical to the PyTorch ports of the Caffe originals.

Hu, Shen & Sun 2018, "Squeeze-and-excitation networks": SE-ResNet-50 and SE-ResNeXt-50 32x4d, as in
Cadene's `pretrainedmodels` and timm's `legacy_seresnet50` and `legacy_seresnext50_32x4d`.
"""

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
    Linear,
    max_pool,
    observe,
    torch_uniform,
)
from knee_jax.targets.grades import GRADES

ARCHITECTURES = ("se_resnet50", "se_resnext50_32x4d")

load = weights.fill


class SqueezeExcite(nn.Module):
    """Scaling of each channel by a number in (0, 1) that depends on the means of all channels.

    Attributes:
        reduction: Number of channels per hidden unit.
    """

    reduction: int = 16

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [B, H, W, C] to the same shape and type."""
        means = x.mean((1, 2), dtype=jnp.float32)
        hidden = nn.relu(Linear(max(x.shape[-1] // self.reduction, 1), name="fc1")(means))
        scale = nn.sigmoid(Linear(x.shape[-1], name="fc2")(hidden))
        return x * scale[:, None, None].astype(x.dtype)


class Block(nn.Module):
    """Bottleneck of 1x1, 3x3 and 1x1 convolutions, rescaled before the shortcut is added.

    Attributes:
        inner: Channels of the 3x3 convolution.
        features: Channels of the result.
        groups: Groups of the 3x3 convolution. Caffe's SE-ResNet, without groups, has its stride on
            the first 1x1 convolution, SE-ResNeXt on the 3x3.
        stride: Stride of the block.
        stride_first: Whether the first convolution has the stride.
        dtype: Compute type.
    """

    inner: int
    features: int
    groups: int
    stride: int
    stride_first: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map [B, H, W, C] to [B, ceil(H/stride), ceil(W/stride), features]."""

        def normalised(x, features, side, stride, name, groups=1):
            x = Conv(features, side, stride, self.dtype, groups, torch_uniform, name=name)(x)
            return BatchNorm(name=name.replace("conv", "bn"))(x, train)

        first, second = (self.stride, 1) if self.stride_first else (1, self.stride)
        y = nn.relu(normalised(x, self.inner, 1, first, "conv1"))
        y = nn.relu(normalised(y, self.inner, 3, second, "conv2", self.groups))
        y = normalised(y, self.features, 1, 1, "conv3")
        y = SqueezeExcite(name="se_module")(y)
        if x.shape != y.shape:
            x = normalised(x, self.features, 1, self.stride, "downsample_conv")
        return nn.relu(y + x)


class Trunk(nn.Module):
    """Convolutional part: stem and four stages.

    Attributes:
        arch: Architecture, one of `ARCHITECTURES`.
        width: Channels of the stem; 64 is the published network. SE-ResNeXt has half as many
            groups, of 4, 8, 16 and 32 channels in the four stages.
        blocks: Number of blocks in each stage.
        dtype: Compute type.
    """

    arch: str = "se_resnext50_32x4d"
    width: int = 64
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        """Return the maps of the stages; that of stage s (from 1) has stride 2^(s + 1).

        Args:
            image: Normalised grey values, [batch, height, width, 1 or 3].
            train: Whether batch norm uses and updates batch statistics.
        """
        if self.arch not in ARCHITECTURES:
            raise UserError(f"unknown arch {self.arch!r}; choose from: {', '.join(ARCHITECTURES)}")
        if len(self.blocks) != 4 or min(self.blocks) < 1:
            raise UserError(f"blocks = {self.blocks}: give the four stages 1 or more each")
        grouped = self.arch == "se_resnext50_32x4d"
        groups = max(self.width // 2, 1) if grouped else 1
        x = Conv(self.width, 7, 2, self.dtype, initial=torch_uniform, name="layer0_conv1")(image)
        x = max_pool(nn.relu(BatchNorm(name="layer0_bn1")(x, train)), padding=0)
        maps = []
        for stage, blocks in enumerate(self.blocks):
            planes = self.width << stage
            for i in range(blocks):
                x = Block(
                    inner=groups * (4 << stage) if grouped else planes,
                    features=4 * planes,
                    groups=groups,
                    stride=2 if stage > 0 and i == 0 else 1,
                    stride_first=not grouped,
                    dtype=self.dtype,
                    name=f"layer{stage + 1}_{i}",
                )(x, train)
            if stage == 1:
                x = observe(self, "evidence", x)
            maps.append(x)
        return tuple(maps)


class Model(nn.Module):
    """Trunk, global pooling, and one linear head per target.

    The defaults, except for `pooling`, are those of Tiulpin & Saarakkala 2020 (with dropout 0.5).
    """

    arch: str = option("se_resnext50_32x4d", "Architecture.", choices=ARCHITECTURES)
    width: int = option(64, "Channels of the stem; 64 is the published network.", low=1)
    blocks: tuple[int, int, int, int] = option(
        (3, 4, 6, 3), "Residual blocks in each of the four stages.", low=1
    )
    targets: tuple[str, ...] = GRADES
    pooling: str = option("average", "Global pooling, see `heads`.", choices=POOLINGS)
    dropout: float = option(0.0, "Dropout rate before each head, while training.", low=0, below=1)
    dtype: Any = jnp.float32

    needs_keypoints = False

    @staticmethod
    def cells(name: str, size: int, count: int) -> Cells:
        """Return the places of the cells of the maps that are exposed."""
        stem = Cells().after(7, 2, 3).after(3, 2)
        return Cells(stem.first, {"evidence": 8, "maps": 32}[name])

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
        trunk = Trunk(self.arch, self.width, tuple(self.blocks), self.dtype, name="trunk")
        return read_targets(
            self,
            trunk(image, train)[-1],
            self.targets,
            pooling=self.pooling,
            dropout=self.dropout,
            dtype=self.dtype,
            train=train,
        )
