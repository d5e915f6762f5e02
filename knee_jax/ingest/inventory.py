"""Inventory of a study, taken by its layout (`oai`, `most`) before any film is opened."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from knee_jax.ingest.report import Exclusion
from knee_jax.targets.grades import GRADES, MISSING

SIDES = ("R", "L")
"""Sides in the order of the film, from its left to its right."""

KneeVisit = tuple[str, str, int]
"""Subject, side, months since baseline."""


@dataclasses.dataclass(frozen=True)
class Rules:
    """Rules for reading a study's tables and files, where researchers may decide otherwise.

    Attributes:
        rounding: Rounding of grades with decimals; see `readings.round_grades`.
        projects: OAI's reading projects that count, the preferred one first.
        order: Choice among several rows of a knee: by 'projects', or the first in the 'file', as in
            the published code; see `readings.read_readings`.
        fully_read: Whether to exclude knees with an unread sign, as Tiulpin & Saarakkala 2020 did.
            OAI's signs include sclerosis and attrition in addition to the seven grades.
        landmarks: Source of the knees' positions on their films: 'bonefinder' (`landmarks`),
            'keypoints' or 'boxes' (`landmark_tables`); or 'crops', ready crops in place of films
            (`crops`).
        crop_spacing_mm: Pixel size of ready crops, mm.
        check_subject: Whether to exclude a file whose header has another subject id, of the study's
            form, than its path; False if ids were replaced.
        spacing_mm: Pixel size of films whose headers tell none, mm; None: they are unusable.
    """

    rounding: str = "floor"
    projects: tuple[int, ...] = (15, 37, 42)
    order: str = "projects"
    fully_read: bool = False
    landmarks: str = "bonefinder"
    crop_spacing_mm: float = 0.2
    check_subject: bool = True
    spacing_mm: float | None = None


DEFAULT_RULES = Rules()


@dataclasses.dataclass(frozen=True)
class Reading:
    """Readers' grades of one knee.

    Attributes:
        grades: Grades, int8 [7] in the order of `GRADES`, -1 where missing.
        unusable: Reason for which the knee is excluded, '' where there is none.
        detail: Description of that reason.
        fully_read: Whether every sign that the study's readers look for was read.
        barcode: Barcode of the film that was read, '' where unknown.
    """

    grades: np.ndarray
    unusable: str = ""
    detail: str = ""
    fully_read: bool = False
    barcode: str = ""


UNREAD = Reading(np.full(len(GRADES), MISSING, np.int8))
"""Reading of a knee that was not read."""


def exclude_uncertain(rows: Iterable[Exclusion], known: Iterable[KneeVisit]) -> list[Exclusion]:
    """Return the knees that are excluded because of unusable images.

    Args:
        rows: One row per image, without a side if it may show both knees.
        known: Knees that have other images, or are already excluded.

    Returns:
        For each image, its knees that are not known, each knee once; or a row without a side if all
        of them are known.
    """
    known_knees = set(known)
    exclusions: list[Exclusion] = []
    for row in rows:
        knees = [dataclasses.replace(row, side=side) for side in row.side or SIDES]
        new = [knee for knee in knees if (knee.subject, knee.side, knee.visit) not in known_knees]
        known_knees |= {(knee.subject, knee.side, knee.visit) for knee in new}
        exclusions += new or [dataclasses.replace(row, side="")]
    return exclusions


def apply_rules(reading: Reading, rules: Rules) -> Reading:
    """Return the reading, made unusable (`not_wholly_read`) if it lacks signs that rules demand."""
    if not rules.fully_read or reading.fully_read or reading.unusable:
        return reading
    detail = "not every sign was read, which the rules ask for"
    return dataclasses.replace(reading, unusable="not_wholly_read", detail=detail)


@dataclasses.dataclass(frozen=True)
class Inventory:
    """Films and readings of a study.

    Attributes:
        films: Films of both knees by (subject, month), as paths relative to the study's root; the
            first one is read. Ready crops are all read, one per knee.
        readings: Readings of the knees that were read.
        sites: Clinical site by subject, where known.
        exclusions: Knees that cannot be used.
        notes: Counts of things other than knees.
        single_films: Films that show one knee, where no film shows both.
        labels: Further labels, by column name and then by knee and visit.
        mask_path: Function that masks the parts of a path that may name a person.
    """

    films: Mapping[tuple[str, int], Sequence[str]]
    readings: Mapping[KneeVisit, Reading]
    sites: Mapping[str, str] = dataclasses.field(default_factory=dict)
    exclusions: Sequence[Exclusion] = ()
    notes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    single_films: Mapping[KneeVisit, Sequence[str]] = dataclasses.field(default_factory=dict)
    labels: Mapping[str, Mapping[KneeVisit, float]] = dataclasses.field(default_factory=dict)
    mask_path: Callable[[str], str] = str
