"""Ingest report: the kept knees in record order, and the excluded ones with their reasons."""

import collections
import dataclasses
import itertools
import json
import math
import numbers
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from knee_jax.errors import UserError
from knee_jax.ingest import fingerprint, flow
from knee_jax.targets.grades import GRADES, MISSING, NUM_CLASSES

LANDMARK_ERROR = "landmark_error"
"""Label column of sets whose landmarks a localiser finds: 0 where they come from the study's files;
the error to be expected of the joint's landmarks, in widths of the plateau, where it found them;
NaN without any.
"""

Example = dict[str, Any]
"""One knee at one visit: of a film by `example`, of an MR series by `volume.VolumeJob`."""

Label = int | float | np.integer | np.floating

IDENTITY = ("subject", "side", "visit", "cohort", "site", "source")
FINGERPRINT = ("checksum", "perceptual_hash")
"""Columns of `fingerprint`, by which a knee is known again under another name."""

INDEX_COLUMNS = (
    *("split", "record", *IDENTITY, "spacing_mm", "keypoints_valid"),
    *(*FINGERPRINT, *GRADES),
)
"""Columns of `index.csv`; a set's own label columns follow them."""


@dataclasses.dataclass(frozen=True)
class Exclusion:
    """One knee that cannot be used: a row of `exclusions.csv`.

    Attributes:
        subject: Subject id in the study, '' where unknown.
        side: 'L' or 'R' as imaged, '' where unknown.
        visit: Months since baseline, -1 where unknown.
        source: File that the knee would have come from, relative to the study's root; '' if none.
        reason: Short fixed name, by which `ingest_report.json` counts.
        detail: Description of the problem.
    """

    subject: str
    side: str
    visit: int
    source: str
    reason: str
    detail: str


@dataclasses.dataclass(frozen=True)
class Note:
    """Remark on a file that excludes no knee: a row of `notes.csv`.

    Attributes:
        subject: Subject id in the study.
        visit: Months since baseline.
        source: File, relative to the study's root.
        note: Short fixed name, by which `ingest_report.json` counts.
        meaning: What was strange about the file, and what was done.
    """

    subject: str
    visit: int
    source: str
    note: str
    meaning: str


def example(
    image: np.ndarray,
    grades: np.ndarray,
    *,
    subject: str,
    side: str,
    visit: int,
    cohort: str,
    source: str,
    site: str = "",
    spacing_mm: float = float("nan"),
    keypoints: np.ndarray | None = None,
    labels: Mapping[str, Label] | None = None,
) -> Example:
    """Make one radiograph example, oriented as a right knee.

    Args:
        image: Image, uint8 [H, W], lateral at the left.
        grades: Grades [7] in the order of `GRADES`, whole numbers, -1 where missing.
        subject: Subject id in the study.
        side: 'L' or 'R' as imaged.
        visit: Months since baseline.
        cohort: Name of the study.
        source: File that the pixels came from, relative to the study's root.
        site: Clinical site, '' where unknown.
        spacing_mm: Pixel size of `image`, mm, NaN where unknown.
        keypoints: Landmarks, float [74, 2] (x, y) in pixels of `image`, the centre of the first
            pixel at 0.5, NaN where unknown; None if there are none. They are valid if all are
            known.
        labels: Further labels by column name, one for each of the set's label columns: -1 for an
            unknown integer, NaN for an unknown float.

    Raises:
        UserError: A grade is not one of its scale, or a label is no number.
    """
    knee = f"knee {subject} {side}"
    for name, grade in zip(GRADES, grades, strict=True):
        if grade not in (MISSING, *range(NUM_CLASSES[name])):
            raise UserError(
                f"{source}: {name} of {knee} is {grade}, not a grade from 0 to "
                f"{NUM_CLASSES[name] - 1}; correct the table, or leave it empty"
            )
    for name, value in (labels or {}).items():
        if not isinstance(value, numbers.Real) or math.isinf(value):
            raise UserError(
                f"{source}: {name} of {knee} is {value}, not a number; correct the table, or "
                "leave it empty"
            )
    points = np.full((74, 2), np.nan) if keypoints is None else keypoints
    return {
        "image": np.ascontiguousarray(image),
        "keypoints": np.asarray(points, np.float32),
        "keypoints_valid": bool(np.isfinite(points).all()),
        "grades": np.asarray(grades, np.int8),
        "subject": subject,
        "side": side,
        "visit": visit,
        "cohort": cohort,
        "site": site,
        "spacing_mm": np.float32(spacing_mm),
        "source": source,
        **(labels or {}),
    }


_DAY, _YEAR = "(?:0?[1-9]|[12][0-9]|3[01])", "(?:19|20)[0-9]{2}"
_MONTH = "(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_DATE = re.compile(
    # 20041231, 2004-12-31; 31.12.2004, 12-31-2004; 31Dec2004, 31-December-2004.
    rf"(?<!\d)(?:{_YEAR}(?P<dash>[-_.]?)(?:0[1-9]|1[0-2])(?P=dash)(?:0[1-9]|[12]\d|3[01])"
    rf"|{_DAY}[-_.]{_DAY}[-_.]{_YEAR}|{_DAY}[-_. ]?{_MONTH}[-_. ]?{_YEAR})(?!\d)",
    re.IGNORECASE,
)


def mask_dates(path: str) -> str:
    """Replace every date in a path by `*`, so that the path remains a pattern for the file.

    Studies name folders by the day of the examination, which must not leave the study.
    """
    return _DATE.sub("*", path)


def without_dates(knee: Exclusion) -> Exclusion:
    """Return the exclusion with the dates in `source` and `detail` masked."""
    source, detail = mask_dates(knee.source), mask_dates(knee.detail)
    return dataclasses.replace(knee, source=source, detail=detail)


def _write_rows(path: pathlib.Path, kind: type, rows: Iterable[Any]) -> None:
    """Write dataclasses of one kind as a table."""
    columns = [field.name for field in dataclasses.fields(kind)]
    table = pd.DataFrame([dataclasses.astuple(row) for row in rows], columns=columns)
    table.to_csv(path, index=False, lineterminator="\n")


def index_row(knee: Example, label_columns: Iterable[str] = ()) -> dict[str, Any]:
    """Make the knee's row of the index, of JSON values, without the number of the record.

    Args:
        knee: Example.
        label_columns: Names of its further labels.
    """
    row = {name: knee[name] for name in IDENTITY}
    # Three numbers for a volume; as few digits as a float32 needs.
    spacing_mm = np.ravel(knee["spacing_mm"])
    row["spacing_mm"] = (
        float(str(spacing_mm[0]))
        if len(spacing_mm) == 1
        else " x ".join(f"{mm:.4g}" for mm in spacing_mm)
    )
    row["keypoints_valid"] = bool(knee.get("keypoints_valid", False))
    pixels = knee["image"] if "image" in knee else knee["volume"]
    row["checksum"] = fingerprint.checksum(pixels)
    row["perceptual_hash"] = fingerprint.perceptual_hash(pixels)
    row |= dict(zip(GRADES, knee["grades"].tolist()))
    return row | {name: _label(knee[name]) for name in label_columns}


def _label(value: Label) -> int | float | None:
    """Return a label for the index: a float with 6 significant digits, None if it is NaN."""
    number: int | float = value.item() if isinstance(value, np.generic) else value
    if isinstance(number, int):
        return number
    return None if math.isnan(number) else float(f"{number:.6g}")


def _origin_of_landmarks(error: float | None) -> str:
    """Name the origin of a knee's landmarks, by the column `LANDMARK_ERROR`."""
    if error is None or math.isnan(error):
        return "knees_without_landmarks"
    return "knees_located_by_localiser" if error else "knees_located_by_files"


class IngestReport:
    """Kept and excluded knees of one preparation, and the files that list them."""

    def __init__(
        self,
        exclusions: Iterable[Exclusion] = (),
        notes: Mapping[str, int] | None = None,
        subjects: pd.DataFrame | None = None,
        label_columns: Iterable[str] = (),
    ):
        """Start with what is known before any knee is read.

        Args:
            exclusions: Knees known to be unusable.
            notes: Counts of things other than knees.
            subjects: Table with one row per subject and the column `subject`; None: unknown.
            label_columns: Names of the set's further labels, in the order of their columns.
        """
        self.kept: dict[str, list[dict]] = {}
        self.exclusions = list(map(without_dates, exclusions))
        self.notes = dict(notes or {})
        self.of_files: list[Note] = []
        self.subjects = subjects
        self.label_columns = tuple(label_columns)

    def add(
        self,
        split: str,
        kept: Iterable[dict[str, Any]],
        exclusions: Iterable[Exclusion],
        notes: Iterable[Note] = (),
    ) -> None:
        """Add the next records of a split, as rows of `index_row`, its exclusions and notes."""
        rows = self.kept.setdefault(split, [])
        kept = list(kept)
        rows += ({"split": split, "record": n} | row for n, row in enumerate(kept, len(rows)))
        if LANDMARK_ERROR in self.label_columns:
            for origin in (_origin_of_landmarks(row[LANDMARK_ERROR]) for row in kept):
                self.notes[origin] = self.notes.get(origin, 0) + 1
        self.exclusions += exclusions
        for note in notes:
            self.of_files.append(note)
            self.notes[note.note] = self.notes.get(note.note, 0) + 1

    def exclude(self, exclusions: Mapping[int, Exclusion]) -> None:
        """Exclude knees that have a record, given by the number of their row over all splits.

        The record stays where it is, and no row of the index leads to it.
        """
        numbers = itertools.count()
        for split, rows in self.kept.items():
            self.kept[split] = [row for row in rows if next(numbers) not in exclusions]
        self.exclusions += map(without_dates, exclusions.values())

    def reasons(self) -> dict[str, int]:
        """Count the excluded knees by reason, the most frequent reason first."""
        counts = collections.Counter(knee.reason for knee in self.exclusions)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def write(self, folder: pathlib.Path) -> None:
        """Write `index.csv`, `exclusions.csv`, `notes.csv`, `flow.csv` and `ingest_report.json`.

        If the subjects are known, also write `subjects.csv`, with one row per kept subject.
        """
        rows = [row for split in self.kept.values() for row in split]
        index = pd.DataFrame(rows, columns=[*INDEX_COLUMNS, *self.label_columns])
        index.to_csv(folder / "index.csv", index=False, lineterminator="\n")
        if self.subjects is not None:
            kept = index[["subject"]].drop_duplicates()
            subjects = kept.merge(self.subjects, how="left", on="subject", validate="1:1")
            path = folder / "subjects.csv"
            subjects.to_csv(path, index=False, float_format="%g", lineterminator="\n")
        _write_rows(folder / "exclusions.csv", Exclusion, self.exclusions)
        _write_rows(folder / "notes.csv", Note, self.of_files)
        flow.flow(len(rows), self.reasons()).to_csv(
            folder / "flow.csv", index=False, lineterminator="\n"
        )
        counts = {
            "seen": len(rows) + len(self.exclusions),
            "kept": len(rows),
            "excluded": self.reasons(),
            "splits": {split: len(records) for split, records in self.kept.items()},
            "notes": self.notes,
        }
        (folder / "ingest_report.json").write_text(json.dumps(counts, indent=2) + "\n")
