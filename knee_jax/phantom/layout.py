"""Layout of a study on disk; each layout has a module (`oai`, `most`)."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from knee_jax.phantom import dicom
from knee_jax.phantom.film import Processing
from knee_jax.phantom.severity import Cohort


@dataclasses.dataclass(frozen=True)
class Machine:
    """Radiography machine.

    Attributes:
        maker: Manufacturer in the DICOM header.
        height_mm: Height of the film, mm.
        aspect: Number of columns per row.
        bits: Bits stored per pixel.
        inverted: Whether films are MONOCHROME1.
        processing: Processing of light into a picture.
        shares: Probabilities of `dicom.SYNTAXES`.
    """

    maker: str
    height_mm: float
    aspect: float
    bits: int
    inverted: bool
    processing: Processing = dataclasses.field(default_factory=Processing)
    shares: tuple[float, ...] = dicom.SHARES


class Film(NamedTuple):
    """Film to be made, with its two knees (right, left) as rows of `severity.simulate`.

    Attributes:
        cohort: Cohort of the random numbers.
        machine: Machine of the film.
        path: Path of the file.
        number: Number of the subject in the cohort.
        subject, barcode: Ids.
        site: Clinical site of the subject, '' if the study has none.
        date: Date as YYYYMMDD.
        study, series: Descriptions in the header.
        knees: Right and left knee.
        rows: Height of the film, pixels.
        seed: Random seed of the cohort.
        exposure: Random stream that distinguishes the film from the subject's others.
        has_landmarks: Whether landmark files are written beside the film.
    """

    cohort: Cohort
    machine: Machine
    path: Path
    number: int
    subject: str
    site: str
    barcode: str
    date: str
    study: str
    series: str
    knees: list[dict]
    rows: int
    seed: int
    exposure: tuple[int, ...]
    has_landmarks: bool = True


@dataclasses.dataclass(frozen=True)
class Layout:
    """Layout of a study on disk.

    Attributes:
        cohort: Cohort of the knees.
        visits: Default months of the visits.
        describe: Function from (root, seed, rows, knees) to the films of one visit of a subject,
            the one that is read first; `knees` are the right and left one as rows of
            `severity.simulate`.
        write_tables: Function (root, knees, films, seed, release) that writes the tables; `knees`
            have the columns that `write_study` adds.
        places: Description of the places of films and tables.
        releases: Forms in which the tables are released; the first is the default.
    """

    cohort: Cohort
    visits: tuple[int, ...]
    describe: Callable[[Path, int, int, list[dict]], list[Film]]
    write_tables: Callable[[Path, pd.DataFrame, list[Film], int, str], None]
    places: str
    releases: tuple[str, ...] = ("study",)
