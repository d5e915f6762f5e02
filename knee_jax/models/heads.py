"""Heads that read targets from a feature map: pooling, dropout and a linear layer for each.

The networks of Tiulpin & Saarakkala 2020 ("Automatic grading of individual knee osteoarthritis
features ...") use average pooling; its supplementary trials, weighted pooling.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from knee_jax import targets
from knee_jax.errors import UserError
from knee_jax.models.layers import (
    BatchNorm,
    Conv,
    InitialBias,
    Linear,
    observe,
    torch_bias,
    torch_uniform,
)

POOLINGS = ("average", "gwap", "gwap_hidden")
"""Plain mean of the map; weighted mean; weighted mean with a hidden layer before the weights."""


class WeightedPool(nn.Module):
    """Global weighted average pooling (Qiu 2018, arXiv:1809.08264).

    It is the mean of the map's pixels with weights exp(sigmoid(score)), where a pixel's score is
    linear in its features, or in those of a hidden layer: 3x3 convolution to a sixteenth of the
    channels (as in squeeze-and-excitation; no paper gives the number), batch norm, ReLU, and
    dropout of whole channels at 0.5.

    Attributes:
        hidden: Whether there is a hidden layer.
        dtype: Compute type of the hidden layer.
    """

    hidden: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map [batch, height, width, channels] to [batch, channels], float32."""
        features = x
        if self.hidden:
            channels = max(x.shape[-1] // 16, 1)
            features = Conv(channels, 3, dtype=self.dtype, initial=torch_uniform, name="conv")(x)
            features = nn.relu(BatchNorm(name="bn")(features, train))
            features = nn.Dropout(0.5, broadcast_dims=(1, 2), deterministic=not train)(features)
        weights = jnp.exp(nn.sigmoid(Linear(1, name="score")(features)))
        return (weights * x.astype(jnp.float32)).sum((1, 2)) / weights.sum((1, 2))


def read_targets(
    model: nn.Module,
    x: jax.Array,
    names: Sequence[str],
    *,
    pooling: str,
    dropout: float,
    dtype: Any,
    train: bool,
) -> dict[str, jax.Array]:
    """Read every target from a map; must be called within the `__call__` of `model`.

    The model gets the parameters, named `head_<target>` and, with weighted pooling,
    `pool_<target>`, and exposes `maps`, and `features` if all heads read the same.

    Args:
        model: Network that the heads belong to.
        x: Map, [batch, height, width, channels].
        names: Names of the targets to predict.
        pooling: Pooling, one of `POOLINGS`.
        dropout: Dropout rate before each head, drawn separately for each.
        dtype: Compute type of a hidden layer.
        train: Whether to use batch statistics and dropout (rng `dropout`).

    Returns:
        Logits of each target, float32 [batch, outputs].

    Raises:
        UserError: A target or the pooling is unknown.
    """
    if pooling not in POOLINGS:
        raise UserError(f"unknown pooling {pooling!r}; choose from: {', '.join(POOLINGS)}")
    x = observe(model, "maps", x)
    if pooling == "average":
        average = x.mean((1, 2), dtype=jnp.float32)
        return read_features(model, average, names, dropout=dropout, train=train)
    logits = {}
    for name in names:
        pool = WeightedPool(pooling == "gwap_hidden", dtype, name=f"pool_{name}")
        logits[name] = _head(name, pool(x, train), dropout, train)
    return logits


def read_features(
    model: nn.Module,
    features: jax.Array,
    names: Sequence[str],
    *,
    dropout: float,
    train: bool,
    initial: Callable[..., jax.Array] = torch_uniform,
    initial_bias: InitialBias = torch_bias,
) -> dict[str, jax.Array]:
    """Read every target from features that all heads share, as `read_targets` does.

    Args:
        model: Network that the heads belong to; it exposes `features`.
        features: Features, [batch, features].
        names: Names of the targets to predict.
        dropout: Dropout rate before each head, drawn separately for each.
        train: Whether to apply dropout (rng `dropout`).
        initial: Initialiser of the heads' kernels.
        initial_bias: Initialiser of the heads' biases.

    Returns:
        Logits of each target, float32 [batch, outputs].

    Raises:
        UserError: A target is unknown.
    """
    features = observe(model, "features", features)
    return {
        name: _head(name, features, dropout, train, initial=initial, initial_bias=initial_bias)
        for name in names
    }


def _head(name: str, features: jax.Array, dropout: float, train: bool, **initial) -> jax.Array:
    features = nn.Dropout(dropout, deterministic=not train)(features)
    return Linear(targets.get(name).num_outputs, name=f"head_{name}", **initial)(features)
