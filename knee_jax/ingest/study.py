"""A study tree laid out as OAI's → jobs, one a film, and an account of every knee in it.

{month}m/{release}/{subject}/{date}/{barcode}/001 is a bilateral film, its landmarks lie beside it
(`landmarks`), and tables/ holds the readings of every visit (`readings`) and the enrollees.
"""

import collections
import dataclasses
import functools
import pathlib
from collections.abc import Callable

import numpy as np

from knee_jax.errors import UnusableKnee, UserError
from knee_jax.grades import GRADES, MISSING
from knee_jax.ingest import dicom, film, landmarks, readings
from knee_jax.ingest.account import Dropped, Example, example
from knee_jax.ingest.readings import Reading

SIDES = ("R", "L")
"""As they lie on the film, from its left to its right."""

_FILMS = "[0-9][0-9]m/*/*/*/*/001"
_UNREAD = Reading(np.full(len(GRADES), MISSING, np.int8), prosthesis=False)


@dataclasses.dataclass(frozen=True)
class FilmFile:
    """One film of the study.

    Attributes:
        subject: the study's subject id.
        visit: months since baseline.
        cohort: name of the study.
        site: clinical site, '' where unknown.
        source: path relative to the study's root.
        readings: by side; a knee that nobody read has grades of -1.
    """

    subject: str
    visit: int
    cohort: str
    site: str
    source: str
    readings: dict[str, Reading]


def plan_study(
    root: pathlib.Path, cohort: str, roi: film.Roi
) -> tuple[list[Callable[[], list[Example | Dropped]]], list[Dropped], dict[str, int]]:
    """Joins films, readings and sites, and says what is to be read.

    Args:
        root: the study's folder.
        cohort: name of the study.
        roi: what to cut out of the films.

    Returns:
        Jobs in the order of subject and visit, each of which reads one film's two knees; the knees
        that have no film of their own; and counts of rows of the tables.

    Raises:
        UserError: no films, a visit with films but without its table, or a table lacks a column.
    """
    paths = _find_films(root)
    tables = root / "tables"
    sites = readings.read_sites(tables)
    read, notes = _read_tables(tables, sorted({visit for _, visit in paths}))
    jobs: list[Callable[[], list[Example | Dropped]]] = []
    dropped: list[Dropped] = []
    for (subject, visit), (source, *repeats) in sorted(paths.items()):
        of_film = {side: read.pop((subject, side, visit), _UNREAD) for side in SIDES}
        file = FilmFile(subject, visit, cohort, sites.get(subject, ""), source, of_film)
        jobs.append(functools.partial(read_film, root, file, roi))
        detail = f"{source} is the film of this visit"
        dropped += [
            Dropped(subject, side, visit, repeat, "repeated_film", detail)
            for repeat in repeats
            for side in SIDES
        ]
    dropped += [
        Dropped(subject, side, visit, "", "no_film", "a reading without a film")
        for subject, side, visit in sorted(read)
    ]
    return jobs, dropped, notes


def _find_films(root: pathlib.Path) -> dict[tuple[str, int], list[str]]:
    """Paths of the films by (subject, month), relative to `root`, sorted."""
    films = collections.defaultdict(list)
    for path in sorted(root.glob(_FILMS)):
        month, _, subject, *_ = path.relative_to(root).parts
        films[subject, int(month.removesuffix("m"))].append(path.relative_to(root).as_posix())
    if not films:
        layout = "{month}m/{release}/{subject}/{date}/{barcode}/001"
        raise UserError(f"{root}: no films are here; they should lie as {layout}")
    return films


def _read_tables(
    tables: pathlib.Path, visits: list[int]
) -> tuple[dict[tuple[str, str, int], Reading], dict[str, int]]:
    read: dict[tuple[str, str, int], Reading] = {}
    notes: collections.Counter[str] = collections.Counter()
    for visit in visits:
        # Nobody read the films of interim visits such as months 18 and 30.
        if visit in readings.VISITS:
            found, counts = readings.read_readings(tables, visit)
            read |= {(*knee, visit): reading for knee, reading in found.items()}
            notes.update(counts)
    return read, dict(notes)


def read_film(root: pathlib.Path, file: FilmFile, roi: film.Roi) -> list[Example | Dropped]:
    """Reads the two knees of one film, the patient's right one first; each is kept or dropped."""
    path = root / file.source
    try:
        radiograph = dicom.read_film(path)
        window = film.intensity_window(radiograph.pixels)
    except UnusableKnee as trouble:
        return [_drop(file, side, trouble) for side in SIDES]
    return [_read_knee(path, file, side, radiograph, window, roi) for side in SIDES]


def _read_knee(
    path: pathlib.Path,
    file: FilmFile,
    side: str,
    radiograph: dicom.Film,
    window: tuple[float, float],
    roi: film.Roi,
) -> Example | Dropped:
    reading = file.readings[side]
    height, width = radiograph.pixels.shape
    size_mm = (width * radiograph.spacing_mm[0], height * radiograph.spacing_mm[1])
    try:
        if reading.prosthesis:
            raise UnusableKnee("prosthesis", "read as .P: the joint has been replaced")
        points = landmarks.read_landmarks(path, side, size_mm)
    except UnusableKnee as trouble:
        return _drop(file, side, trouble)
    image, keypoints = film.cut(radiograph, window, points, side, roi)
    return example(
        image,
        reading.grades,
        subject=file.subject,
        side=side,
        visit=file.visit,
        cohort=file.cohort,
        site=file.site,
        source=file.source,
        spacing_mm=roi.spacing_mm,
        keypoints=keypoints,
    )


def _drop(file: FilmFile, side: str, trouble: UnusableKnee) -> Dropped:
    knee = (file.subject, side, file.visit, file.source)
    return Dropped(*knee, trouble.reason, trouble.detail)
