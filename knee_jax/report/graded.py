"""Page of graded knees: one self-contained HTML file beside the table of `inference.grade`."""

import dataclasses
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import pandas as pd

from knee_jax.files import write_text
from knee_jax.landmarks import SIDE_WORDS
from knee_jax.pictures import data_uri
from knee_jax.report.templates import template
from knee_jax.targets import of_kind
from knee_jax.targets.kinds import Classes, Target

T = TypeVar("T")

PAGE = "index.html"

MOST_PICTURES = 300
"""Number of knees whose pictures are in the page; those of further ones stay in their folder."""


MEASURES = (
    (
        "Joint space width",
        (("lateral", "jsw_lateral_mm"), ("medial", "jsw_medial_mm")),
        "jsw_error_mm",
        " mm",
    ),
    (
        "Joint line convergence angle, varus positive",
        (("", "joint_angle_deg"),),
        "joint_angle_error_deg",
        "°",
    ),
    (
        "Angle of the bones' axes, varus positive",
        (("", "axis_angle_deg"),),
        "axis_angle_error_deg",
        "°",
    ),
)
"""Title, columns with their words, column of the standard error and unit of what is measured."""


@dataclasses.dataclass(frozen=True)
class Bar:
    """Probability of a class, as a bar."""

    name: str
    share: float


@dataclasses.dataclass(frozen=True)
class Answer:
    """Prediction of one target.

    Attributes:
        title: Title of the target.
        text: Predicted class or value.
        bars: Probabilities of the classes; empty for values.
        remark: Expected grade and confidence.
    """

    title: str
    text: str
    bars: tuple[Bar, ...]
    remark: str


@dataclasses.dataclass(frozen=True)
class Shown:
    """One graded knee on the page; `begins_film` where the other knee of its film follows."""

    file: str
    begins_film: bool
    side: str
    picture: str
    answers: tuple[Answer, ...]
    measures: tuple[str, ...]
    notes: str


def write_page(
    out: Path,
    table: pd.DataFrame,
    targets: tuple[Target, ...],
    pictures: dict[int, Path],
    model: str,
    warning: str,
) -> Path:
    """Write the page beside the table, and return its path.

    Args:
        out: Folder to write to.
        table: Table of graded and refused knees.
        targets: Targets that were predicted.
        pictures: File of the picture of each graded row, by its place in the table.
        model: Name and version of the model.
        warning: What the results are for.
    """
    drawn = {place: _embedded(path) for place, path in first_pictures(pictures)}
    write_text(out / PAGE, render(table, targets, drawn, model, warning, table_is_beside=True))
    return out / PAGE


def first_pictures(pictures: Mapping[int, T]) -> list[tuple[int, T]]:
    """Return the pictures that a page shows: the first ones, by their place in the table."""
    return sorted(pictures.items())[:MOST_PICTURES]


def render(
    table: pd.DataFrame,
    targets: tuple[Target, ...],
    pictures: Mapping[int, str],
    model: str,
    warning: str,
    *,
    table_is_beside: bool = False,
) -> str:
    """Return the page.

    Args:
        table: Table of graded and refused knees.
        targets: Targets that were predicted.
        pictures: Picture of each graded row, as text (`pictures.data_uri`), by its place.
        model: Name and version of the model.
        warning: What the results are for.
        table_is_beside: Whether the table lies beside the page, as predictions.csv.
    """
    graded = table[table["status"] == "graded"]
    places = np.flatnonzero(table["status"] == "graded").tolist()
    files = graded["file"].tolist()
    shown = [
        Shown(
            file=row["file"],
            begins_film=row["file"] == following and row["file"] != before,
            side=SIDE_WORDS.get(row["side"], "side unknown"),
            picture=pictures.get(place, ""),
            answers=tuple(_answer(target, row) for target in targets),
            measures=tuple(_measures(row)),
            notes=row["notes"],
        )
        for place, row, before, following in zip(
            places[:MOST_PICTURES], graded.to_dict("records"), ["", *files], [*files[1:], ""]
        )
    ]
    refused = table[table["status"] == "refused"]
    return template("graded.html").render(
        title="Graded knees",
        warning=warning,
        model=model,
        number=len(graded),
        files=table["file"].nunique(),
        shown=shown,
        hidden=len(graded) - len(shown),
        refused=refused[["file", "side", "reason", "detail"]].to_dict("records"),
        counts=[_counts(t, graded) for t in of_kind([t.name for t in targets], Classes)],
        table_is_beside=table_is_beside,
    )


def _embedded(path: Path) -> str:
    """Return a picture as text for the page, smaller than its file."""
    image = cv2.imread(str(path))
    assert image is not None
    return data_uri(image[..., ::-1])


def _answer(target: Target, row: Any) -> Answer:
    predicted = row[f"{target.name}_pred"]
    if not isinstance(target, Classes):
        return Answer(target.title, target.format(predicted), (), "")
    bars = tuple(
        Bar(name, float(row[column]))
        for name, column in zip(target.class_names, target.output_columns(), strict=True)
    )
    remarks = []
    if f"{target.name}_expected" in row:
        remarks.append(f"expected {row[f'{target.name}_expected']:.2f}")
    kind = "calibrated" if row[f"{target.name}_calibrated"] else "not calibrated"
    confidence = row[f"{target.name}_confidence"]
    remarks.append(
        "no confidence is told" if pd.isna(confidence) else f"confidence {confidence:.0%} ({kind})"
    )
    return Answer(target.title, target.class_label(int(predicted)), bars, ", ".join(remarks))


def _measures(row: Mapping[Hashable, Any]) -> Iterator[str]:
    """Say which joint space widths and angles were measured, with their standard errors."""
    for title, names, error, unit in MEASURES:
        found = [
            f"{word} {row[name]:.1f}{unit}".strip()
            for word, name in names
            if pd.notna(row.get(name))
        ]
        if found:
            spread = row.get(error)
            within = f" (± {spread:.1f}{unit})" if pd.notna(spread) else ""
            yield f"{title}: {', '.join(found)}{within}"


def _counts(target: Classes, graded: pd.DataFrame) -> tuple[str, list[tuple[str, int]]]:
    """Return the title of a target and the number of knees of each class."""
    predicted = graded.get(f"{target.name}_pred", pd.Series(dtype=float))
    return target.title, [
        (name, int((predicted == number).sum())) for number, name in enumerate(target.class_names)
    ]
