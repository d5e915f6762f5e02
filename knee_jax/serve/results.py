"""Results as they are handed out: JSON, CSV, the HTML report, and the picture of one knee."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

import knee_jax
from knee_jax import pictures
from knee_jax.inference import grade, placing
from knee_jax.inference.grade import WARNING
from knee_jax.inference.predictor import Predictor
from knee_jax.landmarks import NUM_LANDMARKS, compartment
from knee_jax.report import graded as report
from knee_jax.serve.grading import Graded, Shown
from knee_jax.targets.kinds import Classes

MEDIAL = [compartment(index)[-1][-1] == "m" for index in range(NUM_LANDMARKS)]
"""Whether each landmark is medial."""


def about(predictor: Predictor) -> dict[str, Any]:
    """Return what a client must know of the model to read its rows."""
    return {
        "model": predictor.name,
        "knee_jax": knee_jax.__version__,
        "warning": WARNING,
        "has_card": bool(predictor.card),
        "targets": [
            {
                "name": target.name,
                "title": target.title,
                "classes": list(target.class_names) if isinstance(target, Classes) else [],
                "columns": list(target.output_columns()) if isinstance(target, Classes) else [],
            }
            for target in predictor.targets
        ],
    }


def as_json(predictor: Predictor, results: Sequence[Graded]) -> dict[str, Any]:
    """Return the rows, and what they mean."""
    rows = [
        dict(each.row, picture=each.shown is not None, in_doubt=is_in_doubt(each.row))
        for each in results
    ]
    return about(predictor) | {"rows": rows}


def is_in_doubt(row: grade.Row) -> bool:
    """Tell if a knee is graded without a confidence, or may be of the other side."""
    confidences = [value for name, value in row.items() if name.endswith("_confidence")]
    return row["status"] == "graded" and (
        None in confidences or placing.may_be_other_side(row["notes"])
    )


def as_csv(results: Sequence[Graded]) -> str:
    """Return the table of `knee-jax predict`."""
    text: str = grade.table_of([each.row for each in results]).to_csv(index=False)
    return text


def as_html(predictor: Predictor, results: Sequence[Graded]) -> str:
    """Return the report of `knee-jax predict`, which stands alone."""
    shown = {place: each for place, each in enumerate(results) if each.shown is not None}
    drawn = {
        place: pictures.data_uri(each.shown.draw(predictor, each.row))
        for place, each in report.first_pictures(shown)
        if each.shown is not None
    }
    table = grade.table_of([each.row for each in results])
    return report.render(table, predictor.targets, drawn, predictor.name, WARNING)


def picture(shown: Shown) -> dict[str, Any]:
    """Return the picture of a knee, its evidence and landmarks, in pixels of the picture."""
    points = shown.knee.landmarks
    known = bool(np.isfinite(points).any())
    spacing, corners = shown.knee.spacing_mm, shown.knee.corners
    return {
        "region": _uri(shown.region),
        "heat": None if shown.heat is None else _uri(shown.heat),
        "landmarks": np.round(points, 2).tolist() if known and np.isfinite(points).all() else None,
        "medial": MEDIAL,
        "spacing_mm": None if np.isnan(spacing) else spacing,
        "corners": None if shown.film is None or corners is None else corners.round(5).tolist(),
    }


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
