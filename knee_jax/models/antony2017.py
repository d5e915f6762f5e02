"""Network of Antony et al. 2017, with which Wang et al. compare theirs; an approximation.

"Automatic detection of knee joints and quantification of knee osteoarthritis severity using
convolutional neural networks". No code was published. Batch norm after every convolution and the
rates of dropout are taken from the paper's description as others report it, and for two classes
there are 5.47 M parameters, where Wang et al. print 5.40 M.
"""

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
    check_size,
    flatten,
    max_pool,
    observe,
    torch_bias,
    torch_uniform,
)

SIDES = (11, 5, 3, 3)
"""Sides of the kernels; the first has a stride of 2, and a 3x3 max-pool with stride 2 follows each.
"""

load = weights.fill


class Trunk(nn.Module):
    """Convolutional part.

    Attributes:
        width: Channels of the first convolution; the others have two, three and four times as many.
        dtype: Compute type.
    """

    width: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """Return the last map, [batch, 5, 8, 4 width] for an image of 200 x 300 px.

        Args:
            image: Normalised grey values, [batch, height, width, 1 or 3].
            train: Whether batch norm uses and updates batch statistics.
        """
        x = image
        for i, side in enumerate(SIDES, 1):
            x = Conv(
                i * self.width,
                side,
                2 if i == 1 else 1,
                self.dtype,
                initial=torch_uniform,
                initial_bias=torch_bias,
                name=f"conv{i}",
            )(x)
            x = nn.relu(BatchNorm(name=f"bn{i}")(x, train))
            check_size(x, 3)
            # Only windows that do not extend beyond the image.
            rows, columns = ((size - 1) // 2 for size in x.shape[1:3])
            x = max_pool(x, padding=0)[:, :rows, :columns]
            if i == 2:
                x = observe(self, "evidence", x)
        return x


class Model(nn.Module):
    """Trunk over the joint, a hidden layer over its last map, and one linear head per target.

    The paper's input is the joint, 200 x 300 px: here the middle two thirds of the knee's rows. The
    size of the hidden layer depends on that of the image.
    """

    targets: tuple[str, ...] = ("kl",)
    width: int = option(
        32,
        "Channels of the first convolution; 32 is the published network. The hidden layer has 32 "
        "times as many units.",
        low=1,
    )
    dropout: float = option(0.5, "Dropout rate before each head, while training.", low=0, below=1)
    hidden_dropout: float = option(
        0.2, "Dropout rate before the hidden layer, while training.", low=0, below=1
    )
    dtype: Any = jnp.float32

    needs_keypoints = False

    @staticmethod
    def rows_read(height: int) -> tuple[int, int]:
        """Return the first row of an image that is read, and their number."""
        rows = 2 * height // 3
        return (height - rows) // 2, rows

    @staticmethod
    def cells(name: str, size: int, count: int) -> Cells:
        """Return the places of the cells of the maps that are exposed."""
        cells = Cells()
        for i, side in enumerate(SIDES[: 2 if name == "evidence" else None]):
            cells = cells.after(side, 2 if i == 0 else 1, side // 2).after(3, 2)
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
            UserError: A target is unknown, or the image is too small.
        """
        top, rows = self.rows_read(image.shape[1])
        trunk = Trunk(self.width, self.dtype, name="trunk")
        x = flatten(observe(self, "maps", trunk(image[:, top : top + rows], train)))
        x = nn.Dropout(self.hidden_dropout, deterministic=not train)(x)
        features = nn.relu(Linear(32 * self.width, name="classifier_0")(x))
        return read_features(self, features, self.targets, dropout=self.dropout, train=train)
