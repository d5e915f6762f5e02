"""Compute type of networks; parameters and outputs are always float32."""

from typing import Any

import jax.numpy as jnp

from knee_jax.models.layers import on_cpu


def compute_dtype(name: str) -> Any:
    """Return the type named by `config.dtype`; `auto` is bfloat16, except on a CPU, float32."""
    if name == "auto":
        name = "float32" if on_cpu() else "bfloat16"
    return jnp.dtype(name)
