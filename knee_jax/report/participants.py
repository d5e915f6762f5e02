"""Report section on the knees: their flow from the study to the parts, and who they are of.

The flow is what CONSORT and STARD ask for; the table is a paper's Table 1.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from knee_jax.report.sections import Box, Section
from knee_jax.report.tables import ABBREVIATIONS, Table
from knee_jax.targets.grades import OARSI_GRADES
from knee_jax.targets.kinds import Classes, Ordinal, Target
from knee_jax.targets.places import Places

TITLES = {
    "train": "Training",
    "unlabelled": "Unlabelled training",
    "folds": "Training and validation, in turn",
    "validation": "Validation",
    "test": "Test",
}
"""Title of each part of a run's knees."""

UNKNOWN = "not known"


def participants_section(
    parts: Mapping[str, pd.DataFrame],
    flow: Mapping[str, Mapping[str, int]],
    prepared: Mapping[str, pd.DataFrame],
    targets: Sequence[Target],
) -> Section:
    """Show the flow of the knees, and who they are of.

    Args:
        parts: Rows of an index for each part that is used, with `age`, `sex` and `bmi` if known.
        flow: Number of knees of each part that are used, and of those left out, by reason.
        prepared: Flow of knees into each prepared set, by its name (`ingest.flow`).
        targets: Targets whose labels are counted.
    """
    notes = ["Every knee at every visit counts as one; beside a box is who left there, and why."]
    return Section(
        "Knees and subjects",
        notes,
        (table_one(parts, targets),),
        flow=[*_of_sets(prepared), _of_parts(parts, flow)],
    )


def table_one(parts: Mapping[str, pd.DataFrame], targets: Sequence[Target]) -> Table:
    """Describe the subjects and knees of each part.

    Args:
        parts: Rows of an index for each part.
        targets: Targets whose labels are counted.
    """
    first = {
        name: rows.sort_values("visit", kind="stable").drop_duplicates(["cohort", "subject"])
        for name, rows in parts.items()
    }
    rows: list[tuple[str, ...]] = [
        ("Subjects", *(f"{len(each):,}" for each in first.values())),
        ("Knees", *(f"{len(_knees(each)):,}" for each in parts.values())),
        ("Knee images", *(f"{len(each):,}" for each in parts.values())),
    ]
    for title, column in (("Age, years", "age"), ("Body mass index, kg/m²", "bmi")):
        rows.append((title, *(_mean(each, column) for each in first.values())))
    rows.append(("Sex: women", *(_women(each) for each in first.values())))
    known = [row for row in rows if any(cell != UNKNOWN for cell in row[1:])]
    missing = [
        row[0].partition(",")[0].partition(":")[0].lower() for row in rows if row not in known
    ]
    for target in targets:
        known += _of_target(target, list(parts.values()))
    notes = ["Age and body mass index: mean (standard deviation), of each subject's first image."]
    if missing:
        notes = [f"Not known of these knees: {', '.join(missing)}."]
    if any(target.name in OARSI_GRADES for target in targets):
        notes.append(ABBREVIATIONS)
    header = ("", *(TITLES.get(name, name) for name in parts))
    return Table("Characteristics of subjects and knees", header, tuple(known), tuple(notes))


def _of_target(target: Target, parts: Sequence[pd.DataFrame]) -> list[tuple[str, ...]]:
    labels = [target.labels(rows) for rows in parts]
    known = [values[target.is_known(values)] for values in labels]
    both = list(zip(known, labels, strict=True))
    if isinstance(target, Places):
        return [(f"With {target.title.lower()}", *(_share(len(v), len(a)) for v, a in both))]
    if not isinstance(target, Classes):
        cells = (_mean_and_deviation(values, 2) for values in known)
        return [(f"{target.title}, {getattr(target, 'unit', '')}", *cells)]
    rows = [
        (
            f"{target.short_title}{' ' if isinstance(target, Ordinal) else ': '}{name}",
            *(_share(int((values == number).sum()), len(values)) for values in known),
        )
        for number, name in enumerate(target.class_names)
    ]
    unread = [len(all_of) - len(values) for values, all_of in both]
    if any(unread):
        rows.append((f"{target.short_title} unknown", *(f"{number:,}" for number in unread)))
    return rows


def _of_sets(prepared: Mapping[str, pd.DataFrame]) -> list[list[Box]]:
    """Return the boxes of the studies, and those of the prepared sets."""
    studies, sets = [], []
    for name, flow in prepared.items():
        excluded = flow[flow["excluded"] > 0]
        stages = excluded[excluded["reason"] == ""]
        aside = []
        for stage in stages.to_dict("records"):
            reasons = excluded[(excluded["stage"] == stage["stage"]) & (excluded["reason"] != "")]
            words = ", ".join(
                f"{each['reason'].replace('_', ' ')} {each['excluded']:,}"
                for each in reasons.to_dict("records")
            )
            aside.append(f"{stage['excluded']:,} excluded: {words}")
        begun, kept = int(flow["left"].iloc[0]), int(flow["left"].iloc[-1])
        studies.append(Box(f"{name}: knees of the study", f"{begun:,}", tuple(aside)))
        sets.append(Box(f"{name}: knees of the prepared set", f"{kept:,}"))
    return [studies, sets] if studies else []


def _of_parts(
    parts: Mapping[str, pd.DataFrame], flow: Mapping[str, Mapping[str, int]]
) -> list[Box]:
    boxes = []
    for name, rows in parts.items():
        number = rows.drop_duplicates(["cohort", "subject"])
        left_out = [
            f"{count:,} left out: {why.replace('_', ' ')}"
            for why, count in flow.get(name, {}).items()
            if why not in ("used", "read_globally") and count
        ]
        count = f"{len(rows):,} images of {len(number):,} subjects"
        boxes.append(Box(TITLES.get(name, name), count, tuple(left_out)))
    return boxes


def _knees(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.drop_duplicates(["cohort", "subject", "side"])


def _mean(rows: pd.DataFrame, column: str) -> str:
    if column not in rows:
        return UNKNOWN
    values = pd.to_numeric(rows[column], errors="coerce").dropna().to_numpy(np.float64)
    return _mean_and_deviation(values, 1)


def _mean_and_deviation(values: np.ndarray, digits: int) -> str:
    if not len(values):
        return UNKNOWN
    mean = f"{values.mean():.{digits}f}"
    return f"{mean} ({values.std(ddof=1):.{digits}f})" if len(values) > 1 else mean


def _women(rows: pd.DataFrame) -> str:
    if "sex" not in rows:
        return UNKNOWN
    known = rows[rows["sex"].isin(["F", "M"])]
    return _share(int((known["sex"] == "F").sum()), len(known)) if len(known) else UNKNOWN


def _share(number: int, of: int) -> str:
    return f"{number:,} ({100 * number / of:.0f} %)" if of else "0"
