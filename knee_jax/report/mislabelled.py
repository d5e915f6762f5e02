"""Sheet of the knees whose label a model contradicts most."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from knee_jax import targets
from knee_jax.errors import UserError
from knee_jax.metrics.predictions import targets_in
from knee_jax.report import opened_run
from knee_jax.report.examples import Example, example_drawing
from knee_jax.report.front import Front
from knee_jax.report.page import write_page
from knee_jax.report.sections import Section
from knee_jax.report.tables import Table
from knee_jax.targets.kinds import Classes

ROWS = 48
"""Number of knees in the table of the page."""


def target_in(table: pd.DataFrame, name: str | None) -> Classes:
    """Return a target of a table that has classes: the named one, or the first.

    Raises:
        UserError: There is none.
    """
    known = targets.of_kind(targets_in(table), Classes)
    found = next((each for each in known if name in (None, each.name)), None)
    if found is None:
        names = ", ".join(each.name for each in known) or "none"
        raise UserError(f"the table has no classes of {name or 'any target'}: it has {names}")
    return found


def pictures_of(
    source: Path, data_dir: Path, part: str, listed: pd.DataFrame, number: int
) -> list[np.ndarray]:
    """Return the pictures of the first knees of a list; none where the set is not at hand.

    Args:
        source: Run, or a table, which has no pictures.
        data_dir: Folder of prepared sets.
        part: Part that the knees belong to.
        listed: Result of `label_quality.list_mislabelled`.
        number: Number of knees.
    """
    if not source.is_dir() or not (source / "config.json").is_file():
        return []
    run = opened_run.open_run(source, data_dir)
    try:
        return [
            opened_run.Knee(run, part, row).image() for _, row in listed.head(number).iterrows()
        ]
    except UserError as error:
        print(f"no pictures (--data_dir names the folder of prepared sets): {error}")
        return []


def write_sheet(
    path: Path,
    listed: pd.DataFrame,
    target: Classes,
    images: Sequence[np.ndarray],
    planted: pd.DataFrame | None = None,
) -> Path:
    """Write the page, and return its path.

    Args:
        path: Path of the page.
        listed: Result of `label_quality.list_mislabelled`.
        target: Target that was judged.
        images: Pictures of the first knees, uint8 [height, width] each.
        planted: Result of `label_quality.planted`, if it was tried.
    """
    drawings = [
        example_drawing(f"knee_{place:03d}", _example(row, target, image), _words(row, target))
        for place, (image, (_, row)) in enumerate(zip(images, listed.iterrows()), start=1)
    ]
    header = (
        "",
        "Subject",
        "Side",
        "Visit",
        "Read",
        "Predicted",
        "Its probability",
        "That of read",
    )
    rows = tuple(
        (
            str(place),
            *(str(row[name]) for name in ("subject", "side", "visit")),
            target.class_label(int(row[target.name])),
            target.class_label(int(row[f"{target.name}_pred"])),
            f"{row['own_probability'] + row['contradiction']:.2f}",
            f"{row['own_probability']:.3f}",
        )
        for place, (_, row) in enumerate(listed.head(ROWS).iterrows(), start=1)
    )
    notes = (
        "The least probable label first. That a model contradicts a label does not make it wrong: "
        "it is worth a second look.",
        "All are in mislabelled.csv, beside this page.",
    )
    sections = [Section("Least probable labels", notes, (Table("", header, rows),), drawings)]
    if planted is not None:
        sections.append(Section("Labels changed on purpose", (), (planted_table(planted),)))
    title = f"Labels to look at again: {target.title}"
    write_page(path, title, sections, Front(summary(listed, target)))
    return path


def summary(listed: pd.DataFrame, target: Classes) -> str:
    """Say in a sentence how many labels are contradicted."""
    wrong = int((listed[target.name] != listed[f"{target.name}_pred"]).sum())
    return (
        f"Of {len(listed):,} labelled knees {wrong:,} are predicted otherwise, and "
        f"{int(listed['issue'].sum()):,} have a label issue by confident learning."
    )


def planted_table(planted: pd.DataFrame) -> Table:
    """Return how many of the changed labels are found: mean, and range over the seeds."""
    number, rows = int(planted.attrs["number"]), []
    for change, each in planted.groupby("change", sort=False):
        cells = [
            f"{each[name].mean():.1f}  [{each[name].min()}, {each[name].max()}]"
            for name in ("first", "first_double", "issues_planted", "issues")
        ]
        rows.append((f"to {'a neighbour' if change == 'neighbour' else 'any class'}", *cells))
    header = (
        "Changed",
        f"Among the first {number}",
        f"Among the first {2 * number}",
        "Among the issues",
        "Issues",
    )
    note = f"{number} labels changed on purpose, {planted['seed'].nunique()} times: mean [range]."
    return Table("", header, tuple(rows), (note,))


def _example(row: pd.Series, target: Classes, image: np.ndarray) -> Example:
    name = target.name
    return Example(
        image=image,
        truth={name: row[name]},
        prediction={name: row[f"{name}_pred"]},
        caption=f"{row['subject']} {row['side']}, month {row['visit']}",
    )


def _words(row: pd.Series, target: Classes) -> str:
    read, predicted = (
        target.class_label(int(row[n])) for n in (target.name, f"{target.name}_pred")
    )
    shares = row["own_probability"], row["own_probability"] + row["contradiction"]
    return f"read {read} ({shares[0]:.2f}), predicted {predicted} ({shares[1]:.2f})"
