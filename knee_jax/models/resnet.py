"""Residual networks, equal to torchvision's to the pixel.

He, Zhang, Ren & Sun 2016, "Deep residual learning for image recognition", with the stride of a
bottleneck on its 3x3 convolution (torchvision's "v1.5").
"""

import re
import types
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from knee_jax.errors import UserError
from knee_jax.grades import GRADES, NUM_CLASSES
from knee_jax.models import weights
from knee_jax.models.layers import BatchNorm, Conv, Linear, choose, max_pool

BLOCKS = types.MappingProxyType({18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)})
"""Residual blocks in each stage, by depth."""


class Block(nn.Module):
    """One residual block: two 3x3 convolutions, or the 1x1, 3x3, 1x1 bottleneck (x4 channels).

    Attributes:
        features: channels inside the block.
        stride: of its first 3x3 convolution and of the shortcut.
        bottleneck: which of the two kinds.
        dtype: compute type.
    """

    features: int
    stride: int
    bottleneck: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H/stride, W/stride, features or 4 features]."""
        inner, stride = self.features, self.stride
        if self.bottleneck:
            layers = [(inner, 1, 1), (inner, 3, stride), (4 * inner, 1, 1)]
        else:
            layers = [(inner, 3, stride), (inner, 3, 1)]
        shortcut = x
        for i, (features, side, step) in enumerate(layers, 1):
            x = Conv(features, side, step, self.dtype, name=f"conv{i}")(x)
            x = BatchNorm(name=f"bn{i}")(x, train)
            if i < len(layers):
                x = nn.relu(x)
        if shortcut.shape != x.shape:
            shortcut = Conv(x.shape[-1], 1, stride, self.dtype, name="downsample_conv")(shortcut)
            shortcut = BatchNorm(name="downsample_bn")(shortcut, train)
        return nn.relu(x + shortcut)


class Trunk(nn.Module):
    """The convolutional part: stem and up to four stages of residual blocks.

    Attributes:
        depth: 18, 34 or 50.
        width: channels of the stem and of the first stage's blocks; 64 is the published network.
        stages: how many of the four stages there are; later ones have no parameters.
        dtype: compute type.
    """

    depth: int
    width: int = 64
    stages: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        """Returns the stages' maps; that of stage s (from 1) has stride 2^(s + 1).

        Args:
            image: [batch, height, width, 1 or 3], normalised grey values.
            train: whether batch norm uses, and collects, the statistics of the batch.
        """
        x = Conv(self.width, 7, 2, self.dtype, name="conv1")(image)
        x = max_pool(nn.relu(BatchNorm(name="bn1")(x, train)))
        maps = []
        for stage, blocks in enumerate(choose(BLOCKS, self.depth, "ResNet depth")[: self.stages]):
            for i in range(blocks):
                stride = 2 if stage > 0 and i == 0 else 1
                name = f"layer{stage + 1}_{i}"
                x = Block(self.width << stage, stride, self.depth == 50, self.dtype, name=name)(
                    x, train
                )
            maps.append(x)
        return tuple(maps)


class Model(nn.Module):
    """Trunk, global average pooling, and one linear head a grade.

    Attributes:
        depth: 18, 34 or 50.
        width: channels of the stem; 64 is the published network.
        grades: the grades to read, from `knee_jax.grades.GRADES`.
        dropout: rate before the heads, while training.
        dtype: compute type of the trunk.
    """

    depth: int = 18
    width: int = 64
    grades: tuple[str, ...] = GRADES
    dropout: float = 0.0
    dtype: Any = jnp.float32

    needs_keypoints = False

    @nn.compact
    def __call__(
        self, image: jax.Array, keypoints: jax.Array | None = None, train: bool = False
    ) -> dict[str, jax.Array]:
        """Returns float32 logits [batch, classes] of every grade.

        Args:
            image: [batch, height, width, 1 or 3], normalised grey values.
            keypoints: ignored; all models are called alike.
            train: batch statistics and dropout (rng `dropout`).
        """
        x = Trunk(self.depth, self.width, 4, self.dtype, name="trunk")(image, train)[-1]
        x = x.mean((1, 2), dtype=jnp.float32)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return {
            grade: Linear(choose(NUM_CLASSES, grade, "grade"), name=f"head_{grade}")(x)
            for grade in self.grades
        }


def load(variables: dict, source: weights.Source) -> dict:
    """Fills a model's trunk with weights in torchvision's layout.

    The source's classifier `fc` is skipped: its classes are not grades. So are stages that this
    trunk does not have. Our own heads are taken where the source names them (`head_kl.weight`),
    otherwise they keep their values. A stem made for 3 channels is summed to 1 where the model
    has 1, which is exact for a grey image repeated three times.

    Args:
        variables: what `init` returned for a model whose trunk is `Trunk`.
        source: see `weights.read`.

    Returns:
        New variables of the same structure.

    Raises:
        UserError: a missing or unexpected key, or a shape that does not fit, by name.
    """
    arrays = weights.read(source)
    filled = {}
    for path, value in flatten_dict(variables).items():
        name = _torch_name(path)
        if name in arrays:
            filled[path] = _fit(name, arrays.pop(name), value.shape)
        elif path[1] == "trunk":
            raise UserError(f"the weights lack {name!r}, which the model needs")
        else:
            filled[path] = value
    stages = {path[2].partition("_")[0] for path in filled if path[1] == "trunk"}
    skipped = ({"fc", "layer2", "layer3", "layer4"}) - stages
    for name in arrays:
        if name.partition(".")[0] not in skipped and not name.endswith("num_batches_tracked"):
            raise UserError(f"the weights hold {name!r}, for which the model has no place")
    return unflatten_dict(filled)


def _torch_name(path: tuple[str, ...]) -> str:
    """('params', 'trunk', 'layer1_0', 'conv1', 'kernel') to 'layer1.0.conv1.weight'."""
    leaf = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    modules = [re.sub(r"^(layer\d)_", r"\1.", module) for module in path[1:-1] if module != "trunk"]
    name = ".".join([*modules, leaf.get(path[-1], path[-1])])
    return name.replace("downsample_conv", "downsample.0").replace("downsample_bn", "downsample.1")


def _fit(name: str, array: np.ndarray, shape: tuple[int, ...]) -> jax.Array:
    """Brings PyTorch's axes into our order and the stem to our channels."""
    ours = array.transpose({4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim, range(array.ndim)))
    if name == "conv1.weight" and ours.ndim == 4 and ours.shape[2] == 3 and shape[2] == 1:
        ours = ours.sum(2, keepdims=True)
    if ours.shape != shape:
        raise UserError(f"the weights' {name!r} has shape {ours.shape}, the model needs {shape}")
    return jnp.asarray(ours, jnp.float32)
