"""The layout of a study on disk; each layout has a module (`oai`, `most`)."""

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
    """A radiography machine.

    Attributes:
        maker: manufacturer in the DICOM header.
        height_mm: height of the film.
        aspect: columns per row.
        bits: bits stored per pixel.
        inverted: whether films are MONOCHROME1.
        processing: processing of light into a picture.
        shares: probabilities of `dicom.SYNTAXES`.
    """

    maker: str
    height_mm: float
    aspect: float
    bits: int
    inverted: bool
    processing: Processing = dataclasses.field(default_factory=Processing)
    shares: tuple[float, ...] = dicom.SHARES


class Film(NamedTuple):
    """One film to be made, with its two knees (right, left) as rows of `severity.simulate`.

    Attributes:
        cohort: cohort of the random numbers.
        machine: machine of the film.
        path: path of the file.
        number: number of the subject in the cohort.
        subject, barcode: ids.
        site: clinical site of the subject, '' where the study has none.
        date: date as YYYYMMDD.
        study, series: descriptions in the header.
        knees: right and left knee.
        rows: height in pixels.
        seed: random seed of the cohort.
        exposure: random stream that distinguishes the film from the subject's others.
        has_landmarks: whether landmark files are written beside the film.
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
    """The layout of a study on disk.

    Attributes:
        cohort: cohort of the knees.
        visits: default months of the visits.
        describe: function (root, seed, rows, knees) → the films of one visit of a subject, the one
            that is read first; `knees` are the right and left one as rows of `severity.simulate`.
        write_tables: function (root, knees, films, seed, release) that writes the tables; `knees`
            have the columns that `write_study` adds.
        places: the places of films and tables, in words.
        releases: forms in which the tables are released; the first is the default.
    """

    cohort: Cohort
    visits: tuple[int, ...]
    describe: Callable[[Path, int, int, list[dict]], list[Film]]
    write_tables: Callable[[Path, pd.DataFrame, list[Film], int, str], None]
    places: str
    releases: tuple[str, ...] = ("study",)
