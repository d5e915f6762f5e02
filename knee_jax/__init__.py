"""Knee osteoarthritis from radiographs and MR volumes, in JAX."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from knee_jax.inference.run import Predictor

__version__ = "0.2.0"


def load(run: str | Path) -> "Predictor":
    """Load a finished run as a predictor; see `knee_jax.inference.run.load`."""
    from knee_jax.inference import run as inference

    return inference.load(run)
