"""A study tree → jobs, one a film, and an account of every knee in it.

Where films and readings lie, the layout's module knows (`oai`, `most`); landmarks lie beside the
films (`landmarks`). A film of one knee has the landmark file that this knee has beside a film of
both: `.pts` of the left one, `_f.pts` of the right one on the mirrored film.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence

from knee_jax.errors import UnusableKnee
from knee_jax.ingest import dicom, film, landmarks, most, oai
from knee_jax.ingest.account import Dropped, Example, example
from knee_jax.ingest.headers import DEFAULT_READER, Reader
from knee_jax.ingest.inventory import DEFAULT_RULES, SIDES, UNREAD, Inventory, Reading, Rules

LAYOUTS = {"oai": oai.take_inventory, "most": most.take_inventory}


@dataclasses.dataclass(frozen=True)
class FilmFile:
    """One film of the study, of both knees or of one.

    Attributes:
        subject: the study's subject id.
        visit: months since baseline.
        cohort: name of the study.
        site: clinical site, '' where unknown.
        source: path relative to the study's root.
        readings: by side of the knees on it; one that nobody read has grades of -1.
    """

    subject: str
    visit: int
    cohort: str
    site: str
    source: str
    readings: dict[str, Reading]


def plan_study(
    root: pathlib.Path,
    cohort: str,
    roi: film.Roi,
    layout: str = "oai",
    rules: Rules = DEFAULT_RULES,
    reader: Reader = DEFAULT_READER,
) -> tuple[list[Callable[[], list[Example | Dropped]]], list[Dropped], dict[str, int]]:
    """Joins films, readings and sites, and says what is to be read.

    Args:
        root: the study's folder.
        cohort: name of the study.
        roi: what to cut out of the films.
        layout: how the study lies on disk, a key of `LAYOUTS`.
        rules: how tables and files are read.
        reader: of headers.

    Returns:
        Jobs in the order of subject and visit, each of which reads the knees of one film; the knees
        that have no film of their own; and counts of other things than knees.

    Raises:
        UserError: no films, no readings of a visit with films, or a table lacks a column.
    """
    inventory = LAYOUTS[layout](root, rules, reader)
    read = dict(inventory.readings)
    jobs: list[Callable[[], list[Example | Dropped]]] = []
    dropped = list(inventory.dropped)
    for subject, visit, sides, (source, *repeats) in _films(inventory):
        of_film = {side: read.pop((subject, side, visit), UNREAD) for side in sides}
        site = inventory.sites.get(subject, "")
        file = FilmFile(subject, visit, cohort, site, source, of_film)
        jobs.append(functools.partial(read_film, root, file, roi))
        detail = f"{source} is the film of this visit"
        dropped += [
            Dropped(subject, side, visit, repeat, "repeated_film", detail)
            for repeat in repeats
            for side in sides
        ]
    # A knee whose film is already accounted for is not lost a second time.
    known = {(knee.subject, knee.side, knee.visit) for knee in inventory.dropped}
    dropped += [
        Dropped(subject, side, visit, "", "no_film", "a reading without a film")
        for subject, side, visit in sorted(set(read) - known)
    ]
    return jobs, dropped, dict(inventory.notes)


def _films(inventory: Inventory) -> list[tuple[str, int, Sequence[str], Sequence[str]]]:
    """Subject, visit, sides of the knees, and films that show them: of both, and of one each."""
    both = [(subject, visit, SIDES, films) for (subject, visit), films in inventory.films.items()]
    single = [
        (subject, visit, (side,), films)
        for (subject, side, visit), films in inventory.single_films.items()
    ]
    return sorted([*both, *single], key=lambda film: (*film[:2], SIDES.index(film[2][0])))


def read_film(root: pathlib.Path, file: FilmFile, roi: film.Roi) -> list[Example | Dropped]:
    """Reads the knees of one film, the patient's right one first; each is kept or dropped."""
    path = root / file.source
    try:
        radiograph = dicom.read_film(path)
        window = film.intensity_window(radiograph.pixels)
    except UnusableKnee as trouble:
        return [_drop(file, side, trouble) for side in file.readings]
    return [_read_knee(path, file, side, radiograph, window, roi) for side in file.readings]


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
        if reading.unusable:
            raise UnusableKnee(reading.unusable, reading.detail)
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
