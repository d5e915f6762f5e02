"""Networks that convolve a knee's volume in three dimensions.

They are the volumetric references of Panfilov et al. 2022, section 2.4: (2+1)D (Tran et al. 2018,
"A closer look at spatiotemporal convolutions for action recognition"), 3D ResNeXt-50 (Hara et al.
2018, "Can spatiotemporal 3D CNNs retrace the history of 2D CNNs and ImageNet?") and 3D ShuffleNet
(Köpüklü et al. 2019, "Resource efficient 3D convolutional neural networks"); layers and names of
weights are as in these authors' PyTorch code, for one channel.
"""

import types
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from knee_jax.config.fields import option
from knee_jax.errors import UserError
from knee_jax.models import weights
from knee_jax.models.heads import read_features
from knee_jax.models.layers import (
    BatchNorm,
    check_volume,
    choose,
    kaiming_normal,
    max_pool,
    observe,
    torch_uniform,
)

ARCHITECTURES = types.MappingProxyType(
    {"r2plus1d_34": (3, 4, 6, 3), "resnext3d_50": (3, 4, 6, 3), "shufflenet3d": (4, 8, 4)}
)
"""Published number of blocks in each stage, by name."""

SHUFFLE_GROUPS = 3
"""Groups of the pointwise convolutions of ShuffleNet."""

load = weights.fill

Triple = tuple[int, int, int]


class Conv(nn.Module):
    """3-D convolution without bias, padded by `(side - 1) // 2` at both ends of every axis.

    Attributes:
        features: Number of output channels.
        sides: Odd sides of the kernel, voxels.
        strides: Steps of the output grid, voxels.
        dtype: Compute type; the parameter `kernel` [*sides, in / groups, out] is float32.
        groups: Number of groups of channels, each convolved separately.
        initial: Initialiser of the kernel.
    """

    features: int
    sides: Triple
    strides: Triple = (1, 1, 1)
    dtype: Any = jnp.float32
    groups: int = 1
    initial: Callable[..., jax.Array] = kaiming_normal

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolve x [batch, slices, rows, columns, channels]."""
        shape = (*self.sides, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.initial, shape)
        return lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            self.strides,
            [((side - 1) // 2,) * 2 for side in self.sides],
            dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
            feature_group_count=self.groups,
        )


def factorised(
    x: jax.Array,
    train: bool,
    *,
    features: int,
    inner: int,
    side: int,
    strides: tuple[int, int],
    dtype: Any,
    index: int,
) -> jax.Array:
    """Convolve within slices to `inner` channels, then across slices, normalising each.

    It must be called within the `__call__` of a module, which gets the parameters: `conv<index>_s`
    and `conv<index>_t`, and in the same way `bn<index>_s` and `bn<index>_t` (of space and, in
    videos, time).

    Args:
        x: Input, [batch, slices, rows, columns, channels].
        train: Whether to use batch statistics.
        features: Channels of the result, which is not rectified.
        inner: Channels between the two convolutions.
        side: Side of both kernels.
        strides: Strides within the slices, and across them.
        dtype: Compute type.
        index: Number in the names of the parameters.
    """
    within, across = strides
    x = Conv(inner, (1, side, side), (1, within, within), dtype, name=f"conv{index}_s")(x)
    x = nn.relu(BatchNorm(name=f"bn{index}_s")(x, train))
    x = Conv(features, (side, 1, 1), (across, 1, 1), dtype, name=f"conv{index}_t")(x)
    return BatchNorm(name=f"bn{index}_t")(x, train)


def inner_channels(inputs: int, features: int, side: int) -> int:
    """Return the channels between the pair that give it as many weights as the cubic kernel.

    Tran et al. 2018, section 3.5.
    """
    return side**3 * inputs * features // (side**2 * inputs + side * features)


class FactorisedBlock(nn.Module):
    """Residual block of two factorised convolutions.

    Attributes:
        features: Channels of the result.
        stride: Stride along all axes.
        dtype: Compute type.
    """

    features: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map [B, D, H, W, C] to [B, D/stride, H/stride, W/stride, features]."""

        def convolved(x, stride, index):
            inner = inner_channels(x.shape[-1], self.features, 3)
            options = {"features": self.features, "inner": inner, "side": 3, "dtype": self.dtype}
            return factorised(x, train, strides=(stride, stride), index=index, **options)

        y = convolved(nn.relu(convolved(x, self.stride, 1)), 1, 2)
        return nn.relu(y + shortcut(x, self.features, self.stride, self.dtype, train))


class GroupedBlock(nn.Module):
    """Bottleneck of ResNeXt: 1x1x1, grouped 3x3x3 and 1x1x1 convolutions.

    Attributes:
        features: Channels inside; the result has twice as many.
        stride: Stride along all axes.
        groups: Groups of the 3x3x3 convolution.
        dtype: Compute type.
    """

    features: int
    stride: int
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map [B, D, H, W, C] to [B, D/stride, H/stride, W/stride, 2 features]."""
        inner, strides = self.features, (self.stride,) * 3
        y = Conv(inner, (1, 1, 1), dtype=self.dtype, name="conv1")(x)
        y = nn.relu(BatchNorm(name="bn1")(y, train))
        y = Conv(inner, (3, 3, 3), strides, self.dtype, self.groups, name="conv2")(y)
        y = nn.relu(BatchNorm(name="bn2")(y, train))
        y = Conv(2 * inner, (1, 1, 1), dtype=self.dtype, name="conv3")(y)
        y = BatchNorm(name="bn3")(y, train)
        return nn.relu(y + shortcut(x, 2 * inner, self.stride, self.dtype, train))


def shortcut(x: jax.Array, features: int, stride: int, dtype: Any, train: bool) -> jax.Array:
    """Return `x`, or if shapes differ a strided 1x1x1 convolution of it, as a submodule."""
    if stride == 1 and x.shape[-1] == features:
        return x
    x = Conv(features, (1, 1, 1), (stride,) * 3, dtype, name="downsample_conv")(x)
    return BatchNorm(name="downsample_bn")(x, train)


class ShuffleBlock(nn.Module):
    """Unit of ShuffleNet: grouped pointwise convolutions around one of each channel by itself.

    With stride 2 an average of the input is concatenated to the result, otherwise the input is
    added.

    Attributes:
        features: Channels of the result.
        stride: Stride along all axes.
        groups: Groups of the first convolution; the last has `SHUFFLE_GROUPS`.
        dtype: Compute type.
    """

    features: int
    stride: int
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map [B, D, H, W, C] to [B, D/stride, H/stride, W/stride, features]."""

        def normalised(x, features, side, stride, groups, index):
            sides, strides, name = (side,) * 3, (stride,) * 3, f"conv{index}"
            x = Conv(features, sides, strides, self.dtype, groups, torch_uniform, name=name)(x)
            return BatchNorm(name=f"bn{index}")(x, train)

        inner = self.features // 4
        outer = self.features - x.shape[-1] if self.stride == 2 else self.features
        y = nn.relu(normalised(x, inner, 1, 1, self.groups, 1))
        y = normalised(shuffle(y), inner, 3, self.stride, inner, 2)
        y = normalised(y, outer, 1, 1, SHUFFLE_GROUPS, 3)
        if self.stride == 1:
            return nn.relu(y + x)
        average = nn.avg_pool(x, (2, 3, 3), (2, 2, 2), ((0, 0), (1, 1), (1, 1)))
        return nn.relu(jnp.concatenate([y, average.astype(y.dtype)], axis=-1))


def shuffle(x: jax.Array) -> jax.Array:
    """Interleave the channels of [..., channels]: the first of every group, then the second..."""
    apart = x.reshape(*x.shape[:-1], SHUFFLE_GROUPS, -1)
    return apart.swapaxes(-1, -2).reshape(x.shape)


class Trunk(nn.Module):
    """Convolutional part: stem and stages.

    Attributes:
        arch: Architecture, a key of `ARCHITECTURES`.
        width: Channels of the stem; 64 is the published network, whatever its stem has (see
            `Model`).
        blocks: Number of blocks in each stage.
        remat: Whether to recompute the inside of each block for the gradient instead of keeping it.
        dtype: Compute type.
    """

    arch: str
    width: int
    blocks: tuple[int, ...]
    remat: bool
    dtype: Any

    @nn.compact
    def __call__(self, image: jax.Array, train: bool) -> tuple[jax.Array, ...]:
        """Return the maps of the stages.

        Args:
            image: Normalised grey values, [batch, slices, rows, columns, 1].
            train: Whether batch norm uses and updates batch statistics.
        """
        x = max_pool(nn.relu(self._stem(image, train)))
        maps = []
        for stage, blocks in enumerate(self.blocks):
            for i in range(blocks):
                x = self._block(stage, i, f"layer{stage + 1}_{i}")(x, train)
            if stage == 1:
                x = observe(self, "evidence", x)
            maps.append(x)
        return tuple(maps)

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        if self.arch == "r2plus1d_34":
            # The published number is for three channels, although there is one.
            inner = inner_channels(3, self.width, 7)
            options = {"features": self.width, "inner": inner, "side": 7, "dtype": self.dtype}
            return factorised(x, train, strides=(2, 1), index=1, **options)
        if self.arch == "resnext3d_50":
            conv = Conv(self.width, (7, 7, 7), (2, 2, 2), self.dtype, name="conv1")
        else:
            options = {"dtype": self.dtype, "initial": torch_uniform, "name": "conv1"}
            conv = Conv(shuffle_width(self.width), (3, 3, 3), **options)
        return BatchNorm(name="bn1")(conv(x), train)

    def _block(self, stage: int, i: int, name: str) -> Callable[[jax.Array, bool], jax.Array]:
        """Make block `i` of a stage, both counted from 0."""

        def make(kind, *args):
            if self.remat:
                kind = nn.remat(kind, static_argnums=(2,))
            return kind(*args, self.dtype, name=name)

        stride = 2 if i == 0 and stage > 0 else 1
        if self.arch == "r2plus1d_34":
            return make(FactorisedBlock, self.width << stage, stride)
        if self.arch == "resnext3d_50":
            return make(GroupedBlock, 2 * self.width << stage, stride, self.width // 2)
        groups = 1 if stage == i == 0 else SHUFFLE_GROUPS
        features = 10 * shuffle_width(self.width) << stage
        return make(ShuffleBlock, features, 2 if i == 0 else 1, groups)


def shuffle_width(width: int) -> int:
    """Return the channels of ShuffleNet's stem: 24 at width 64, and divisible into groups."""
    return 6 * max(width // 16, 1)


class Model(nn.Module):
    """Trunk, global average, and one linear head per target."""

    arch: str = option("r2plus1d_34", "Architecture.", choices=ARCHITECTURES)
    width: int = option(
        64,
        "Channels of the stem; 64 is the published network. (2+1)D has width, 2, 4 and 8 width "
        "channels in its stages; ResNeXt 4 to 32 width, and width / 2 groups; ShuffleNet 6 in the "
        "stem for every 16 of width, and 10, 20 and 40 times as many in its stages.",
        low=1,
    )
    blocks: tuple[int, ...] | None = option(
        None, "Blocks in each stage; None: the published ones.", low=1
    )
    targets: tuple[str, ...] = ("progression",)
    dropout: float = option(
        0.0,
        "Dropout rate before each head, while training; the published ShuffleNet has 0.2.",
        low=0,
        below=1,
    )
    remat: bool = option(
        False,
        "Compute the inside of each residual block again for the gradient instead of keeping it: "
        "about a third more operations, and a fraction of the memory.",
    )
    dtype: Any = jnp.float32

    needs_keypoints = False

    @nn.compact
    def __call__(
        self, image: jax.Array, keypoints: jax.Array | None = None, train: bool = False
    ) -> dict[str, jax.Array]:
        """Return float32 logits [batch, classes] of every target.

        It exposes (`layers.observe`) the last `maps` [batch, slices, rows, columns, channels], and
        their average, `features`.

        Args:
            image: Normalised grey values, [batch, slices, rows, columns, 1]; ShuffleNet requires a
                multiple of 16 slices.
            keypoints: Ignored; all networks have the same call.
            train: Whether to use batch statistics and dropout (rng `dropout`).

        Raises:
            UserError: The input is not a volume, or attributes or slices do not go together.
        """
        check_volume(image)
        published = choose(ARCHITECTURES, self.arch, "arch")
        blocks = tuple(self.blocks or published)
        if len(blocks) != len(published) or min(blocks) < 1:
            raise UserError(f"blocks = {blocks}: give the {len(published)} stages 1 or more each")
        if self.arch == "resnext3d_50" and self.width % 2:
            raise UserError(f"width = {self.width}: resnext3d_50 wants an even one")
        if self.arch == "shufflenet3d" and image.shape[1] % 16:
            raise UserError(
                f"shufflenet3d halves the slices four times: {image.shape[1]} slices are no "
                "multiple of 16"
            )
        trunk = Trunk(self.arch, self.width, blocks, self.remat, self.dtype, name="trunk")
        maps = observe(self, "maps", trunk(image, train)[-1])
        features = maps.mean((1, 2, 3), dtype=jnp.float32)
        return read_features(self, features, self.targets, dropout=self.dropout, train=train)
