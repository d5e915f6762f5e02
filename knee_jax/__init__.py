"""Knee osteoarthritis from radiographs and MR volumes, in JAX."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from knee_jax.inference.predictor import Predictor
    from knee_jax.report.opened_run import OpenedRun

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


def open_run(path: str | Path, data_dir: str | Path = "data") -> "OpenedRun":
    """Open a finished run for reading: its predictions, metrics, training curves and knees.

    Args:
        path: Folder of the run.
        data_dir: Folder of prepared sets, from which pictures of knees are read.

    Raises:
        UserError: The folder holds no run.
    """
    from knee_jax.report import opened_run

    return opened_run.open_run(path, data_dir)
