"""Compute type of networks; parameters and outputs are always float32."""

from typing import Any

import jax
import jax.numpy as jnp


def compute_dtype(name: str) -> Any:
    """Return the type named by `config.dtype`; `auto` is bfloat16, except on a CPU, float32."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)
