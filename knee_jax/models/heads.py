"""From a map of features to grades: pooling, dropout and a linear head, for each grade by itself.

The networks of Tiulpin & Saarakkala 2020 ( "Automatic grading of individual knee
osteoarthritis features ..."): average pooling; its supplementary trials: weighted pooling.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from knee_jax.errors import UserError
from knee_jax.grades import NUM_CLASSES
from knee_jax.models.layers import BatchNorm, Conv, Linear, choose, torch_uniform

POOLINGS = ("average", "gwap", "gwap_hidden")
"""Plain mean of the map; weighted mean; weighted mean with a hidden layer before the weights."""


class WeightedPool(nn.Module):
    """Global weighted average pooling (Qiu 2018, arXiv:1809.08264).

    The mean of the map's pixels with weights exp(sigmoid(score)), where a pixel's score is linear
    in its features, or in those of a hidden layer: 3x3 convolution to a sixteenth of the channels
    (as squeeze-and-excitation has; no paper says how many), batch norm, ReLU, and dropout of
    whole channels at 0.5.

    Attributes:
        hidden: whether there is that layer.
        dtype: its compute type.
    """

    hidden: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, channels], float32."""
        features = x
        if self.hidden:
            channels = max(x.shape[-1] // 16, 1)
            features = Conv(channels, 3, dtype=self.dtype, initial=torch_uniform, name="conv")(x)
            features = nn.relu(BatchNorm(name="bn")(features, train))
            features = nn.Dropout(0.5, broadcast_dims=(1, 2), deterministic=not train)(features)
        weights = jnp.exp(nn.sigmoid(Linear(1, name="score")(features)))
        return (weights * x.astype(jnp.float32)).sum((1, 2)) / weights.sum((1, 2))


def read_grades(
    x: jax.Array,
    grades: Sequence[str],
    *,
    pooling: str,
    dropout: float,
    dtype: Any,
    train: bool,
) -> dict[str, jax.Array]:
    """Logits of every grade; to be called within a model's `__call__`, which gets the parameters.

    They are named `head_<grade>` and, with weighted pooling, `pool_<grade>`.

    Args:
        x: [batch, height, width, channels].
        grades: from `knee_jax.grades.GRADES`.
        pooling: one of `POOLINGS`.
        dropout: rate before each head, drawn for each by itself.
        dtype: compute type of a hidden layer.
        train: batch statistics and dropout (rng `dropout`).

    Returns:
        Float32 [batch, classes] by grade.

    Raises:
        UserError: unknown grade or pooling.
    """
    if pooling not in POOLINGS:
        raise UserError(f"unknown pooling {pooling!r}; choose from: {', '.join(POOLINGS)}")
    average = x.mean((1, 2), dtype=jnp.float32)
    logits = {}
    for grade in grades:
        classes = choose(NUM_CLASSES, grade, "grade")
        pooled = average
        if pooling != "average":
            pool = WeightedPool(pooling == "gwap_hidden", dtype, name=f"pool_{grade}")
            pooled = pool(x, train)
        pooled = nn.Dropout(dropout, deterministic=not train)(pooled)
        logits[grade] = Linear(classes, name=f"head_{grade}")(pooled)
    return logits
