"""What a study's layout on disk decides; one module a layout (`oai`, `most`)."""

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
    """What a film is made with.

    Attributes:
        maker: its name in the DICOM header.
        height_mm: of the film.
        aspect: columns per row.
        bits: stored per pixel.
        inverted: MONOCHROME1.
        processing: from light to picture.
        shares: how often each of `dicom.SYNTAXES` is chosen.
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
        cohort: whose random numbers it is made from.
        machine: that it is made with.
        path: of the file.
        number: of the subject in the cohort.
        subject, barcode: ids.
        site: of the subject, '' where the study does not tell.
        date: YYYYMMDD.
        study, series: their descriptions in the header.
        knees: right and left.
        rows: in pixels.
        seed: of the cohort.
        exposure: tells this film from the subject's others.
        marked: whether landmark files lie beside it.
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
    marked: bool = True


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a study lies on disk.

    Attributes:
        cohort: whose knees it holds.
        visits: months that are shown if nobody chooses.
        describe: (root, seed, rows, knees) → the films of one visit of a subject, the one that is
            read first; `knees` are its right and left one as rows of `severity.simulate`.
        write_tables: (root, knees, films, seed, release) writes what lies beside the films; `knees`
            with the columns that `write_study` adds, and all films.
        found: where the films and tables lie, for people.
        releases: in what shapes the tables are given out; the first is written if nobody chooses.
    """

    cohort: Cohort
    visits: tuple[int, ...]
    describe: Callable[[Path, int, int, list[dict]], list[Film]]
    write_tables: Callable[[Path, pd.DataFrame, list[Film], int, str], None]
    found: str
    releases: tuple[str, ...] = ("study",)
