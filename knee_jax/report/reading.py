"""Page of a reading study: how readers agree, and the knees that they differ on, side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from knee_jax import pictures
from knee_jax.files import write_text
from knee_jax.reading.agreement import (
    Agreement,
    agreements,
    disagreements,
    readers_table,
)
from knee_jax.reading.study import Study
from knee_jax.report.examples import WIDTH
from knee_jax.report.front import Front
from knee_jax.report.page import write_page
from knee_jax.report.sections import Drawing, Section
from knee_jax.report.tables import Table, target_title
from knee_jax.targets.kinds import Ordinal

SHOWN = 24
"""Number of knees that a page shows of each grade, those that raters differ most on."""

INTERVALS = (
    "Kappa is quadratic; its interval is 95 %, of 1,000 bootstrap resamples by subject. A reader "
    "beside the same reader is of knees that came twice, without the reader being told."
)


def write_agreement(out: Path, study: Study, predicted: Mapping[str, pd.Series]) -> Path:
    """Write `readers.csv`, `readings.csv`, `agreement.csv` and `agreement.html`.

    Args:
        out: Folder, made if it is missing.
        study: Study.
        predicted: Grades of a model by name of the grade, indexed by the knees' ids.

    Returns:
        Path of the page.
    """
    knees, readings = study.knees(), study.readings()
    found = agreements(readings, study.grades, predicted)
    out.mkdir(parents=True, exist_ok=True)
    for name, table in (
        ("readers.csv", readers_table(knees, readings, study.grades)),
        ("readings.csv", readings.drop(columns="knee")),
        ("agreement.csv", pd.DataFrame(found, columns=Agreement._fields)),
    ):
        write_text(out / name, table.to_csv(index=False, float_format="%.6g"))
    sections = []
    if tables := agreement_tables(found):
        sections.append(Section("Agreement", (INTERVALS,), tables))
    sections += [_differing(study, readings, g, predicted.get(g.name)) for g in study.grades]
    title = f"Reading of {len(knees):,} knees"
    write_page(out / "agreement.html", title, sections, Front(_lead(study)))
    return out / "agreement.html"


def agreement_tables(found: Sequence[Agreement]) -> list[Table]:
    """Return a table of the agreements for each grade."""
    header = ("", "Knees", "Kappa", "95 % interval", "Equal", "Within one grade")
    return [
        Table(
            target_title(grade),
            header,
            tuple(
                (
                    f"{each.first}, twice"
                    if each.first == each.second
                    else f"{each.first} and {each.second}",
                    f"{each.n:,}",
                    _number(each.kappa),
                    f"[{_number(each.kappa_low)}, {_number(each.kappa_high)}]",
                    f"{each.exact:.3f}",
                    f"{each.within_one:.3f}",
                )
                for each in found
                if each.grade == grade
            ),
        )
        for grade in dict.fromkeys(each.grade for each in found)
    ]


def _lead(study: Study) -> str:
    words = [f"{reader} ({done:,} of {n:,})" for reader, (done, n) in study.readers().items()]
    return "Readers: " + (", ".join(words) or "nobody yet") + "."


def _differing(
    study: Study, readings: pd.DataFrame, grade: Ordinal, predicted: pd.Series | None
) -> Section:
    table = disagreements(readings, grade.name, predicted)
    shown = table.head(SHOWN)
    images = study.pictures(shown.index.to_list())
    names = {
        knee["id"]: f"{knee['file']} {knee['side']}" for knee in study.knees().to_dict("records")
    }
    drawings: list[Drawing] = []
    for knee, given in zip(shown.index.to_list(), shown.drop(columns="range").to_dict("records")):
        words = ", ".join(f"{r} {value:g}" for r, value in given.items() if not pd.isna(value))
        where = names[knee].strip()
        picture = pictures.knee(_decoded(images[knee]), WIDTH)
        name = f"{grade.name}_{len(drawings) + 1:03d}"
        drawings.append(Drawing(name, f"Knee radiograph, {words}", picture, f"{words}. {where}"))
    note = f"{len(table):,} knees have different grades, those that differ most first."
    return Section(f"Disagreements: {grade.title}", (note,), drawings=drawings)


def _decoded(picture: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    return image


def _number(value: float) -> str:
    return "undefined" if pd.isna(value) else f"{value:.3f}"
