"""What a study holds, before any film is opened; one module a layout finds it (`oai`, `most`)."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from knee_jax.grades import GRADES, MISSING
from knee_jax.ingest.account import Dropped

SIDES = ("R", "L")
"""As they lie on the film, from its left to its right."""

KneeVisit = tuple[str, str, int]
"""Subject, side, months since baseline."""


@dataclasses.dataclass(frozen=True)
class Rules:
    """How a study's tables and files are read where a researcher may decide otherwise.

    Attributes:
        rounding: what becomes of grades with decimals, see `readings.round_grades`.
        projects: OAI's reading projects that count, the preferred first.
        order: of several rows of a knee, which one counts: by 'projects', or the first in the
            'file', as in the published code; see `readings.read_readings`.
        whole: drop knees of which not every sign was read, as Tiulpin & Saarakkala 2020 did: of
            OAI sclerosis and attrition beside the seven grades.
        landmarks: where knees are on their films: 'bonefinder' (`landmarks`), 'keypoints' or
            'boxes' (`landmark_tables`); or 'crops', ready ones and no films (`ready_crops`).
        crop_spacing_mm: pixel size of ready crops.
        check_subject: whether a file is dropped whose header names another subject than its path,
            by an id of the study's form; not where ids were replaced.
    """

    rounding: str = "floor"
    projects: tuple[int, ...] = (15, 37, 42)
    order: str = "projects"
    whole: bool = False
    landmarks: str = "bonefinder"
    crop_spacing_mm: float = 0.2
    check_subject: bool = True


DEFAULT_RULES = Rules()


@dataclasses.dataclass(frozen=True)
class Reading:
    """What the readers found in one knee.

    Attributes:
        grades: int8 [7] in the order of `GRADES`, -1 where missing.
        unusable: reason for which the knee is dropped, '' where it is none.
        detail: that reason in words.
        whole: whether every sign was read that the study's readers look for.
        barcode: of the film that was read, '' where the table does not tell.
    """

    grades: np.ndarray
    unusable: str = ""
    detail: str = ""
    whole: bool = False
    barcode: str = ""


UNREAD = Reading(np.full(len(GRADES), MISSING, np.int8))
"""Of a knee that nobody read."""


def lose_uncertain(rows: Iterable[Dropped], known: Iterable[KneeVisit]) -> list[Dropped]:
    """Finds which knees are lost with images that cannot be used.

    Args:
        rows: one an image; without a side, where it may show both knees.
        known: knees that have other images, or are lost already.

    Returns:
        For each image its knees that are not known, each knee once; or a row without a side, where
        they all are.
    """
    seen = set(known)
    lost: list[Dropped] = []
    for row in rows:
        knees = [dataclasses.replace(row, side=side) for side in row.side or SIDES]
        new = [knee for knee in knees if (knee.subject, knee.side, knee.visit) not in seen]
        seen |= {(knee.subject, knee.side, knee.visit) for knee in new}
        lost += new or [dataclasses.replace(row, side="")]
    return lost


def as_wanted(reading: Reading, rules: Rules) -> Reading:
    """A reading, unusable as `not_wholly_read` where the rules want whole ones and it is none."""
    if not rules.whole or reading.whole or reading.unusable:
        return reading
    detail = "not every sign was read, which the rules ask for"
    return dataclasses.replace(reading, unusable="not_wholly_read", detail=detail)


@dataclasses.dataclass(frozen=True)
class Inventory:
    """Films and readings of a study.

    Attributes:
        films: of both knees, paths relative to the study's root by (subject, month); the first one
            is read. Of ready crops all are read, one a knee.
        readings: of the knees that somebody read.
        sites: clinical site by subject, where known.
        dropped: what cannot be used, found on the way.
        notes: counts of other things than knees.
        single_films: likewise of the films that show one knee, which no film of both shows.
        tell: what a path is called in the set and the account, where parts of it are anybody's.
    """

    films: Mapping[tuple[str, int], Sequence[str]]
    readings: Mapping[KneeVisit, Reading]
    sites: Mapping[str, str] = dataclasses.field(default_factory=dict)
    dropped: Sequence[Dropped] = ()
    notes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    single_films: Mapping[KneeVisit, Sequence[str]] = dataclasses.field(default_factory=dict)
    tell: Callable[[str], str] = str
