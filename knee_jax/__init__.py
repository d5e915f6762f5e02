"""Knee osteoarthritis from radiographs and MR volumes, in JAX."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from knee_jax.inference.predictor import Predictor

__version__ = "0.2.0"


def load(model: str | Path) -> "Predictor":
    """Load one of the project's models, a run or an exported file as a predictor.

    See `knee_jax.inference.models.load`.
    """
    from knee_jax.inference import models

    return models.load(model)
