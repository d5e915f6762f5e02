"""ResNeXt with a head of one hidden layer: progression from a radiograph.

This is the prior art that Panfilov et al. 2022 compare with (Table 1): Tiulpin et al. 2019,
"Multimodal machine learning-based knee osteoarthritis progression prediction from plain radiographs
and clinical data", without the clinical data. The trunk is torchvision's ResNeXt-50 32x4d (Xie et
al. 2017, "Aggregated residual transformations for deep neural networks").
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from knee_jax import targets
from knee_jax.config.fields import option
from knee_jax.errors import UserError
from knee_jax.models import resnet, weights
from knee_jax.models.keypoint_pooling import Head
from knee_jax.models.layers import observe

load = weights.fill


class Model(nn.Module):
    """Trunk, global average, and for each target dropout, a hidden layer, dropout, logits."""

    width: int = option(
        64,
        "Channels of the stem, even; 64 is the published network. There are half as many groups, "
        "of 4, 8, 16 and 32 channels in the four stages.",
        low=2,
    )
    targets: tuple[str, ...] = ("progression",)
    hidden: int = option(512, "Units of each head's hidden layer (ReLU).", low=1)
    dropout: float = option(
        0.5, "Dropout rate before both layers of a head, while training.", low=0, below=1
    )
    dtype: Any = jnp.float32

    needs_keypoints = False

    @nn.compact
    def __call__(
        self, image: jax.Array, keypoints: jax.Array | None = None, train: bool = False
    ) -> dict[str, jax.Array]:
        """Return float32 logits [batch, classes] of every target.

        It exposes (`layers.observe`) the last `maps`, and their average, `features`.

        Args:
            image: Normalised grey values, [batch, height, width, 1 or 3].
            keypoints: Ignored; all networks have the same call.
            train: Whether to use batch statistics and dropout (rng `dropout`).
        """
        if self.width < 2 or self.width % 2:
            raise UserError(f"width = {self.width}: resnext wants an even one")
        trunk = resnet.Trunk(50, self.width, 4, self.dtype, self.width // 2, name="trunk")
        maps = observe(self, "maps", trunk(image, train)[-1])
        x = observe(self, "features", maps.mean((1, 2), dtype=jnp.float32))
        logits = {}
        for name in self.targets:
            dropped = nn.Dropout(self.dropout, deterministic=not train)(x)
            size = targets.get(name).num_outputs
            head = Head(size, self.hidden, self.dropout, name=f"head_{name}")
            logits[name] = head(dropped, train)
        return logits
