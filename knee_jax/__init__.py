"""Knee osteoarthritis from radiographs and MR volumes, in JAX."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from knee_jax.inference.predictor import Predictor

__version__ = "0.2.0"


def load(model: str | Path) -> "Predictor":
    """Load one of the project's models, a run or an exported file as a predictor.

    See `knee_jax.inference.models.load`.
    """
    from knee_jax.inference import models

    return models.load(model)


def grade(
    model: "str | Path | Predictor", paths: "Sequence[str | Path]", **reading: Any
) -> "pd.DataFrame":
    """Grade the knees in some files, folders and archives, by a model or its name, run or file.

    See `knee_jax.inference.grade.grade`; `reading` are fields such as `side` and `spacing_mm`.
    """
    from knee_jax.inference import grade as grading
    from knee_jax.inference import models

    predictor = models.load(model) if isinstance(model, str | Path) else model
    return grading.grade(predictor, paths, **reading)
