"""What became of every knee: the kept ones in record order, the dropped ones with their reasons."""

import collections
import dataclasses
import json
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from knee_jax.grades import GRADES
from knee_jax.ingest import flow

Example = dict[str, Any]
"""One knee at one visit, as `example` makes it of a film and `volume.read_knee` of an MR series."""

IDENTITY = ("subject", "side", "visit", "cohort", "site", "source")
INDEX_COLUMNS = ("split", "record", *IDENTITY, "spacing_mm", "keypoints_valid", *GRADES)
PROGRESSION = "progression"
"""Last column of the index of those sets whose examples have it."""


@dataclasses.dataclass(frozen=True)
class Dropped:
    """One knee that cannot be used: a row of `quarantine.csv`.

    Attributes:
        subject: the study's subject id, '' where the file does not tell.
        side: 'L' or 'R' as imaged, '' where the file does not tell.
        visit: months since baseline, -1 where the file does not tell.
        source: file the knee would have come from, relative to the study's root; '' if none.
        reason: short fixed name, by which `account.json` counts.
        detail: what was found, in words.
    """

    subject: str
    side: str
    visit: int
    source: str
    reason: str
    detail: str


@dataclasses.dataclass(frozen=True)
class Note:
    """Something about a file that loses no knee: counted in `account.json` by its name."""

    name: str


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
    progression: int | None = None,
) -> Example:
    """Makes one radiograph example, oriented as a right knee.

    Args:
        image: uint8 [H, W], lateral at the left.
        grades: int8 [7] in the order of `GRADES`, -1 where missing.
        subject: the study's subject id.
        side: 'L' or 'R' as imaged.
        visit: months since baseline.
        cohort: name of the study.
        source: file the pixels came from, relative to the study's root.
        site: clinical site, '' where unknown.
        spacing_mm: pixel size of `image`, NaN where unknown.
        keypoints: float [74, 2] (x, y) in pixels of `image`, the first pixel's centre at 0.5, NaN
            where unknown; None where there are none. Valid, where all are known.
        progression: 0 none, 1 fast, 2 slow, -1 where unknown; None in a set that has no such
            labels.
    """
    points = np.full((74, 2), np.nan) if keypoints is None else keypoints
    knee = {
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
    }
    return knee if progression is None else knee | {PROGRESSION: np.int8(progression)}


_DAY, _YEAR = "(?:0?[1-9]|[12][0-9]|3[01])", "(?:19|20)[0-9]{2}"
_MONTH = "(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_DATE = re.compile(
    # 20041231, 2004-12-31; 31.12.2004, 12-31-2004; 31Dec2004, 31-December-2004.
    rf"(?<!\d)(?:{_YEAR}(?P<dash>[-_.]?)(?:0[1-9]|1[0-2])(?P=dash)(?:0[1-9]|[12]\d|3[01])"
    rf"|{_DAY}[-_.]{_DAY}[-_.]{_YEAR}|{_DAY}[-_. ]?{_MONTH}[-_. ]?{_YEAR})(?!\d)",
    re.IGNORECASE,
)


def mask_dates(path: str) -> str:
    """Puts `*` for every date in a path, which so stays a pattern that finds the file.

    Studies name folders by the day of the examination, which must not leave them.
    """
    return _DATE.sub("*", path)


def undated(knee: Dropped) -> Dropped:
    """A dropped knee whose `source` and `detail` do not tell the day it was imaged."""
    source, detail = mask_dates(knee.source), mask_dates(knee.detail)
    return dataclasses.replace(knee, source=source, detail=detail)


def index_row(knee: Example) -> dict[str, Any]:
    """A row of the index, of values that JSON has, without the number of the record."""
    row = {name: knee[name] for name in IDENTITY}
    # Three numbers, of a volume; as few digits as a float32 needs.
    spacing_mm = np.ravel(knee["spacing_mm"])
    row["spacing_mm"] = (
        float(str(spacing_mm[0]))
        if len(spacing_mm) == 1
        else " x ".join(f"{mm:.4g}" for mm in spacing_mm)
    )
    row["keypoints_valid"] = bool(knee.get("keypoints_valid", False))
    row |= dict(zip(GRADES, knee["grades"].tolist()))
    if PROGRESSION in knee:
        row[PROGRESSION] = int(knee[PROGRESSION])
    return row


class Account:
    """Counts the knees of one preparation and writes the account files."""

    def __init__(
        self,
        dropped: Iterable[Dropped] = (),
        notes: Mapping[str, int] | None = None,
        subjects: pd.DataFrame | None = None,
    ):
        """Starts with what is known before any knee is read.

        Args:
            dropped: knees known to be unusable.
            notes: counts that are not of knees.
            subjects: a row a subject, with the column `subject`; None where nothing is known.
        """
        self.kept: dict[str, list[dict]] = {}
        self.dropped = list(map(undated, dropped))
        self.notes = dict(notes or {})
        self.subjects = subjects

    def add(
        self,
        split: str,
        kept: Iterable[dict[str, Any]],
        dropped: Iterable[Dropped],
        notes: Iterable[str] = (),
    ) -> None:
        """Enters the next records of `split`, as rows of `index_row`, dropped knees, and notes."""
        rows = self.kept.setdefault(split, [])
        rows += ({"split": split, "record": n} | row for n, row in enumerate(kept, len(rows)))
        self.dropped += dropped
        for name in notes:
            self.notes[name] = self.notes.get(name, 0) + 1

    def reasons(self) -> dict[str, int]:
        """Number of dropped knees by reason, the most frequent first."""
        counts = collections.Counter(knee.reason for knee in self.dropped)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def write(self, folder: pathlib.Path) -> None:
        """Writes `index.csv`, `quarantine.csv`, `flow.csv` and `account.json` into `folder`.

        And `subjects.csv` where something is known of the subjects: a row for each one kept.
        """
        rows = [row for split in self.kept.values() for row in split]
        extra = [PROGRESSION] if any(PROGRESSION in row for row in rows) else []
        index = pd.DataFrame(rows, columns=[*INDEX_COLUMNS, *extra])
        index.to_csv(folder / "index.csv", index=False, lineterminator="\n")
        if self.subjects is not None:
            kept = index[["subject"]].drop_duplicates()
            subjects = kept.merge(self.subjects, how="left", on="subject", validate="1:1")
            path = folder / "subjects.csv"
            subjects.to_csv(path, index=False, float_format="%g", lineterminator="\n")
        columns = [field.name for field in dataclasses.fields(Dropped)]
        quarantine = pd.DataFrame([dataclasses.astuple(k) for k in self.dropped], columns=columns)
        quarantine.to_csv(folder / "quarantine.csv", index=False, lineterminator="\n")
        flow.flow(len(rows), self.reasons()).to_csv(
            folder / "flow.csv", index=False, lineterminator="\n"
        )
        counts = {
            "seen": len(rows) + len(self.dropped),
            "kept": len(rows),
            "dropped": self.reasons(),
            "splits": {split: len(records) for split, records in self.kept.items()},
            "notes": self.notes,
        }
        (folder / "account.json").write_text(json.dumps(counts, indent=2) + "\n")
