"""A study tree → jobs, one a film, and an account of every knee in it.

Where films and readings lie, the layout's module knows (`oai`, `most`); where a knee is on its
film, `landmarks` and `landmark_tables`. Where the rules say so, ready crops stand for films
(`ready_crops`).

A film of one knee has the landmark file that this knee has beside a film of both: `.pts` of the
left one, `_f.pts` of the right one on the mirrored film.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from knee_jax.errors import UnusableKnee, UserError
from knee_jax.ingest import dicom, film, landmarks, most, oai, ready_crops
from knee_jax.ingest.account import Dropped, Example, Note, example
from knee_jax.ingest.headers import DEFAULT_READER, Reader
from knee_jax.ingest.inventory import (
    DEFAULT_RULES,
    SIDES,
    UNREAD,
    Inventory,
    KneeVisit,
    Reading,
    Rules,
    as_wanted,
)
from knee_jax.ingest.landmark_tables import Found, read_marks

LAYOUTS = {"oai": oai.take_inventory, "most": most.take_inventory}


@dataclasses.dataclass(frozen=True)
class FilmFile:
    """One film of the study, of both knees or of one, or the ready crop of one knee.

    Attributes:
        subject: the study's subject id.
        visit: months since baseline.
        cohort: name of the study.
        site: clinical site, '' where unknown.
        source: path relative to the study's root.
        told: what that path is called in the set and the account.
        readings: by side of the knees on it; one that nobody read has grades of -1.
        marks: by side, where the knees are; None: `.pts` files tell.
        check_subject: as `inventory.Rules.check_subject`.
    """

    subject: str
    visit: int
    cohort: str
    site: str
    source: str
    told: str
    readings: dict[str, Reading]
    marks: Found | None = None
    check_subject: bool = True


@dataclasses.dataclass(frozen=True)
class FilmJob:
    """Reads the knees of one film, the patient's right one first; each is kept or dropped.

    Attributes:
        root: the study's folder.
        file: the film.
        roi: what to cut out of it.
    """

    root: pathlib.Path
    file: FilmFile
    roi: film.Roi

    def __call__(self) -> list[Example | Dropped | Note]:
        """Reads the film."""
        try:
            subject = self.file.subject if self.file.check_subject else None
            radiograph = dicom.read_film(self.root / self.file.source, subject)
            window = film.intensity_window(radiograph.pixels)
        except UnusableKnee as trouble:
            return self.lost(trouble.reason, trouble.detail)
        located = _locate(self.root, self.file, radiograph)
        knees: list[Example | Dropped | Note] = []
        for side in self.file.readings:
            points = located[side]
            if isinstance(points, UnusableKnee):
                knees.append(_drop(self.file, side, points))
            else:
                image, keypoints = film.cut(radiograph, window, points, side, self.roi)
                knees.append(_example(self.file, side, image, self.roi, keypoints))
        return knees + [Note(name) for name in radiograph.contradictions]

    def lost(self, reason: str, detail: str) -> list[Example | Dropped | Note]:
        """The knees of a film of which none can be had."""
        return [_drop(self.file, side, UnusableKnee(reason, detail)) for side in self.file.readings]

    def paths(self) -> list[pathlib.Path]:
        """All that is read: the film, and the files of landmarks."""
        marks = [landmarks.files(self.root, self.file.source, side) for side in self.file.readings]
        return [self.root / self.file.source, *(path for of_side in marks for path in of_side)]


@dataclasses.dataclass(frozen=True)
class CropJob:
    """Reads the knee of one ready crop, which is kept or dropped.

    Attributes:
        root: the study's folder.
        file: the crop, with the reading of its knee.
        roi: what is wanted of it.
        spacing_mm: its pixel size.
    """

    root: pathlib.Path
    file: FilmFile
    roi: film.Roi
    spacing_mm: float

    def __call__(self) -> list[Example | Dropped | Note]:
        """Reads the crop."""
        ((side, reading),) = self.file.readings.items()
        try:
            if reading.unusable:
                raise UnusableKnee(reading.unusable, reading.detail)
            path = self.root / self.file.source
            image = ready_crops.read_crop(path, side, self.spacing_mm, self.roi)
        except UnusableKnee as trouble:
            return self.lost(trouble.reason, trouble.detail)
        return [_example(self.file, side, image, self.roi)]

    def lost(self, reason: str, detail: str) -> list[Example | Dropped | Note]:
        """The knee of a crop that cannot be had."""
        (side,) = self.file.readings
        return [_drop(self.file, side, UnusableKnee(reason, detail))]

    def paths(self) -> list[pathlib.Path]:
        """All that is read: the crop."""
        return [self.root / self.file.source]


def plan_study(
    root: pathlib.Path,
    cohort: str,
    roi: film.Roi,
    layout: str = "oai",
    rules: Rules = DEFAULT_RULES,
    reader: Reader = DEFAULT_READER,
) -> tuple[Sequence[FilmJob | CropJob], list[Dropped], dict[str, int]]:
    """Joins films, readings and sites, and says what is to be read.

    Args:
        root: the study's folder.
        cohort: name of the study.
        roi: what to cut out of the films.
        layout: how the study lies on disk, a key of `LAYOUTS`.
        rules: how tables and files are read.
        reader: of headers.

    Returns:
        Jobs in the order of subject and visit, each of which reads the knees of one film or one
        ready crop; the knees that have no film or crop of their own; and counts of other things
        than knees.

    Raises:
        UserError: no films, no readings of a visit with films, no subject with both, or a table
            cannot be used.
    """
    inventory = LAYOUTS[layout](root, rules, reader)
    read = dict(inventory.readings)
    notes = collections.Counter(
        {
            "knees_in_the_tables": len(read),
            "filmed_subjects_in_no_table": _num_unread(root, inventory),
            **inventory.notes,
        }
    )
    dropped = list(inventory.dropped)
    jobs: Sequence[FilmJob | CropJob]
    if rules.landmarks == "crops":
        jobs = _plan_crops(root, cohort, roi, inventory, read, rules)
        reason, detail = "no_crop", "a reading without a crop"
    else:
        jobs, repeated = _plan_films(root, cohort, roi, inventory, read, rules, notes)
        dropped += repeated
        reason, detail = "no_film", "a reading without a film"
    # A knee whose film is already accounted for is not lost a second time.
    known = {(knee.subject, knee.side, knee.visit) for knee in inventory.dropped}
    dropped += [
        Dropped(subject, side, visit, "", reason, detail)
        for subject, side, visit in sorted(set(read) - known)
    ]
    return jobs, dropped, dict(notes)


def _num_unread(root: pathlib.Path, inventory: Inventory) -> int:
    """How many subjects have films and no reading.

    Raises:
        UserError: all; ids of films and of readings are of two kinds.
    """
    subjects = {subject for subject, _, _ in inventory.readings}
    filmed = {subject for subject, _ in inventory.films}
    filmed |= {subject for subject, _, _ in inventory.single_films}
    if filmed and subjects and not filmed & subjects:
        raise UserError(
            f"{root}: none of the {len(filmed)} subjects with films is in the tables of readings: "
            "use the tables of this study, with the ids that its folders have"
        )
    return len(filmed - subjects)


def _plan_films(
    root: pathlib.Path,
    cohort: str,
    roi: film.Roi,
    inventory: Inventory,
    read: dict[KneeVisit, Reading],
    rules: Rules,
    notes: collections.Counter[str],
) -> tuple[list[FilmJob], list[Dropped]]:
    """Takes the readings of the filmed knees out of `read`.

    Returns:
        Jobs; and the knees of films beyond the first one of a visit.
    """
    by_file = rules.landmarks == "bonefinder"
    marked = {} if by_file else read_marks(root, rules.landmarks)
    jobs, repeated = [], []
    for subject, visit, sides, (source, *repeats) in _films(inventory):
        of_film = {
            side: as_wanted(read.pop((subject, side, visit), UNREAD), rules) for side in sides
        }
        of_marks: Found = {}
        for name in (source, (subject, visit)):
            rows = marked.get(name, {})
            of_marks |= {side: rows.pop(side) for side in sides if side in rows}
        site = inventory.sites.get(subject, "")
        found = None if by_file else of_marks
        told = inventory.tell(source)
        file = FilmFile(
            subject, visit, cohort, site, source, told, of_film, found, rules.check_subject
        )
        jobs.append(FilmJob(root, file, roi))
        detail = f"{told} is the film of this visit"
        repeated += [
            Dropped(subject, side, visit, inventory.tell(repeat), "repeated_film", detail)
            for repeat in repeats
            for side in sides
        ]
    if not by_file:
        notes["rows_of_landmarks_without_a_film"] = sum(map(len, marked.values()))
    return jobs, repeated


def _films(inventory: Inventory) -> list[tuple[str, int, Sequence[str], Sequence[str]]]:
    """Subject, visit, sides of the knees, and films that show them: of both, and of one each."""
    both = [(subject, visit, SIDES, films) for (subject, visit), films in inventory.films.items()]
    single = [
        (subject, visit, (side,), films)
        for (subject, side, visit), films in inventory.single_films.items()
    ]
    return sorted([*both, *single], key=lambda film: (*film[:2], SIDES.index(film[2][0])))


def _plan_crops(
    root: pathlib.Path,
    cohort: str,
    roi: film.Roi,
    inventory: Inventory,
    read: dict[KneeVisit, Reading],
    rules: Rules,
) -> list[CropJob]:
    """Takes the readings of the knees that have a crop out of `read`."""
    jobs = []
    for (subject, visit), sources in sorted(inventory.films.items()):
        # As on a film, the right knee first.
        for source in sorted(sources, reverse=True):
            side = ready_crops.side_of(source)
            reading = {side: as_wanted(read.pop((subject, side, visit), UNREAD), rules)}
            site = inventory.sites.get(subject, "")
            file = FilmFile(subject, visit, cohort, site, source, source, reading)
            jobs.append(CropJob(root, file, roi, rules.crop_spacing_mm))
    return jobs


def _locate(
    root: pathlib.Path, file: FilmFile, radiograph: dicom.Film
) -> dict[str, np.ndarray | UnusableKnee]:
    """Landmarks [74, 2] on the film in mm, or what is wrong with the knee, by side."""
    height, width = radiograph.pixels.shape
    size_mm = (width * radiograph.spacing_mm[0], height * radiograph.spacing_mm[1])
    points, wrong = {}, {}
    for side, reading in file.readings.items():
        try:
            if reading.unusable:
                raise UnusableKnee(reading.unusable, reading.detail)
            if file.marks is None:
                knee = landmarks.read_landmarks(root, file.source, side, size_mm[0])
            else:
                knee = _marked(file.marks, side, radiograph.spacing_mm)
            landmarks.check_place(knee, size_mm)
            points[side] = knee
        except UnusableKnee as trouble:
            wrong[side] = trouble
    width_mm = size_mm[0] if len(file.readings) == len(SIDES) else None
    return points | wrong | landmarks.check_orientation(points, width_mm)


def _marked(found: Found, side: str, spacing_mm: tuple[float, float]) -> np.ndarray:
    knee = found.get(side)
    if knee is None:
        raise UnusableKnee("no_landmarks", "the table of landmarks does not name this knee")
    if isinstance(knee, UnusableKnee):
        raise knee
    return knee.on_film(spacing_mm)


def _example(
    file: FilmFile, side: str, image: np.ndarray, roi: film.Roi, keypoints: np.ndarray | None = None
) -> Example:
    return example(
        image,
        file.readings[side].grades,
        subject=file.subject,
        side=side,
        visit=file.visit,
        cohort=file.cohort,
        site=file.site,
        source=file.told,
        spacing_mm=roi.spacing_mm,
        keypoints=keypoints,
    )


def _drop(file: FilmFile, side: str, trouble: UnusableKnee) -> Dropped:
    knee = (file.subject, side, file.visit, file.told)
    return Dropped(*knee, trouble.reason, trouble.detail)
