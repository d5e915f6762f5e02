"""VGG networks with batch norm, identical to torchvision's.

Simonyan & Zisserman 2015, "Very deep convolutional networks for large-scale image recognition".
"""

import types
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from knee_jax.config.fields import option
from knee_jax.models import weights
from knee_jax.models.heads import read_features
from knee_jax.models.layers import (
    BatchNorm,
    Cells,
    Conv,
    Linear,
    choose,
    constant_bias,
    flatten,
    max_pool_2x2,
    observe,
)

CONVOLUTIONS = types.MappingProxyType(
    {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
)
"""Number of convolutions in each stage, by depth."""
CHANNELS = (1, 2, 4, 8, 8)
"""Channels of each stage, in multiples of the first's."""

load = weights.fill


class Trunk(nn.Module):
    """Convolutional part: five stages of 3x3 convolutions, each followed by a 2x2 max-pool.

    Layers are named as torchvision numbers them, its ReLUs and pools included.

    Attributes:
        depth: Number of layers, a key of `CONVOLUTIONS`.
        width: Channels of the first stage; 64 is the published network.
        dtype: Compute type.
    """

    depth: int
    width: int = 64
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """Return the last map, [batch, height / 32, width / 32, 8 width].

        Args:
            image: Normalised grey values, [batch, height, width, 1 or 3].
            train: Whether batch norm uses and updates batch statistics.
        """
        x, number = image, 0
        stages = choose(CONVOLUTIONS, self.depth, "VGG depth")
        for stage, (factor, convolutions) in enumerate(zip(CHANNELS, stages, strict=True)):
            for _ in range(convolutions):
                x = Conv(
                    factor * self.width,
                    3,
                    dtype=self.dtype,
                    initial_bias=constant_bias(0),
                    name=f"features_{number}",
                )(x)
                x = nn.relu(BatchNorm(name=f"features_{number + 1}")(x, train))
                number += 3
            x = max_pool_2x2(x)
            if stage == 2:
                x = observe(self, "evidence", x)
            number += 1
        return x


class Model(nn.Module):
    """Trunk, two hidden layers over all of its last map, and one linear head per target.

    The size of the first hidden layer depends on that of the image: 7 x 7 pixels of the last map at
    224 to 255 px, for which ImageNet weights are published, 9 x 9 at 288 to 319 px, with which Wang
    et al. counted their parameters (Table IV). Weights for another size can be loaded without the
    hidden layers (`knee_jax.convert --noheads`).
    """

    depth: int = option(16, "Number of layers.", choices=CONVOLUTIONS)
    targets: tuple[str, ...] = ("kl",)
    width: int = option(
        64,
        "Channels of the first stage; 64 is the published network. The hidden layers have 64 times "
        "as many units.",
        low=1,
    )
    dropout: float = option(
        0.5,
        "Dropout rate before the second hidden layer and before each head, while training.",
        low=0,
        below=1,
    )
    dtype: Any = jnp.float32

    needs_keypoints = False

    @staticmethod
    def cells(name: str, size: int, count: int) -> Cells:
        """Return the places of the cells of the maps that are exposed."""
        cells = Cells()
        for _ in range({"evidence": 3, "maps": 5}[name]):
            cells = cells.after(2, 2)
        return cells

    @nn.compact
    def __call__(
        self, image: jax.Array, keypoints: jax.Array | None = None, train: bool = False
    ) -> dict[str, jax.Array]:
        """Return float32 logits [batch, classes] of every target.

        Args:
            image: Normalised grey values, [batch, height, width, 1 or 3]; 32 px or more.
            keypoints: Ignored; all networks have the same call.
            train: Whether to use batch statistics and dropout (rng `dropout`).

        Raises:
            UserError: The depth or a target is unknown, or the image is too small.
        """
        initial: dict[str, Any] = {
            "initial": nn.initializers.normal(0.01),
            "initial_bias": constant_bias(0),
        }

        def hidden(x: jax.Array, name: str) -> jax.Array:
            return nn.relu(Linear(64 * self.width, **initial, name=name)(x))

        trunk = Trunk(self.depth, self.width, self.dtype, name="trunk")
        x = hidden(flatten(observe(self, "maps", trunk(image, train))), "classifier_0")
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = hidden(x, "classifier_3")
        return read_features(self, x, self.targets, dropout=self.dropout, train=train, **initial)
