"""Jobs, one per film, and exclusions of a study tree.

The layout's module (`oai`, `most`) finds films and readings; `landmarks` and `landmark_tables` read
the positions of knees on their films. Under some rules, ready crops take the place of films
(`crops`).

A film of one knee has the same landmark file for that knee as a film of both: `.pts` for a left
knee, `_f.pts` for a right one on the mirrored film.
"""

import collections
import dataclasses
import math
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from knee_jax.errors import UnusableKnee, UserError
from knee_jax.ingest import crops, dicom, film, landmarks, most, oai
from knee_jax.ingest.headers import DEFAULT_LOADER, HeaderLoader
from knee_jax.ingest.inventory import (
    DEFAULT_RULES,
    SIDES,
    UNREAD,
    Inventory,
    KneeVisit,
    Reading,
    Rules,
    apply_rules,
)
from knee_jax.ingest.landmark_tables import KneeLocations, read_locations
from knee_jax.ingest.report import Example, Exclusion, Note, example

LAYOUTS = {"oai": oai.take_inventory, "most": most.take_inventory}


@dataclasses.dataclass(frozen=True)
class FilmFile:
    """One film of the study, of both knees or of one.

    Attributes:
        subject: Subject id in the study.
        visit: Months since baseline.
        cohort: Name of the study.
        site: Clinical site, '' where unknown.
        source: Path relative to the study's root.
        masked_source: That path as it appears in the set and the report, without possible names.
        readings: Readings of the knees on it, by side; an unread knee has grades of -1.
        labels: Further labels of the knees, by side and then by column name.
        locations: Positions of the knees, by side; None: they are in `.pts` files.
        check_subject: Whether to compare subject ids; see `inventory.Rules.check_subject`.
        spacing_mm: Pixel size if the film tells none, mm; see `inventory.Rules.spacing_mm`.
    """

    subject: str
    visit: int
    cohort: str
    site: str
    source: str
    masked_source: str
    readings: dict[str, Reading]
    labels: dict[str, dict[str, np.float32]] = dataclasses.field(default_factory=dict)
    locations: KneeLocations | None = None
    check_subject: bool = True
    spacing_mm: float | None = None


@dataclasses.dataclass(frozen=True)
class FilmJob:
    """Job that reads the knees of one film, the right one first; each is kept or excluded.

    Attributes:
        root: Root folder of the study.
        file: Film.
        roi: Region of interest of each knee.
    """

    root: pathlib.Path
    file: FilmFile
    roi: film.Roi

    def __call__(self) -> list[Example | Exclusion | Note]:
        """Read the film."""
        try:
            subject = self.file.subject if self.file.check_subject else None
            radiograph = dicom.read_film(
                self.root / self.file.source, subject, self.file.spacing_mm
            )
            window = film.intensity_window(radiograph.pixels, radiograph.padding)
        except UnusableKnee as error:
            return self.exclude(error.reason, error.detail)
        located = _locate(self.root, self.file, radiograph)
        knees: list[Example | Exclusion | Note] = []
        for side in self.file.readings:
            points = located[side]
            if isinstance(points, UnusableKnee):
                knees.append(_exclude(self.file, side, points))
            else:
                image, keypoints = film.cut_roi(radiograph, window, points, side, self.roi)
                knees.append(_example(self.file, side, image, self.roi, keypoints))
        return knees + [self._note(name) for name in radiograph.notes]

    def _note(self, name: str) -> Note:
        meaning = dicom.NOTES[name]
        if name == "spacing_given":
            meaning = f"{meaning}: {self.file.spacing_mm:g} mm"
        return Note(self.file.subject, self.file.visit, self.file.masked_source, name, meaning)

    def exclude(self, reason: str, detail: str) -> list[Example | Exclusion | Note]:
        """Return all knees of the film as excluded."""
        return [
            _exclude(self.file, side, UnusableKnee(reason, detail)) for side in self.file.readings
        ]

    def paths(self) -> list[pathlib.Path]:
        """Return all paths that are read: the film and the landmark files."""
        locations = [
            landmarks.files(self.root, self.file.source, side) for side in self.file.readings
        ]
        return [self.root / self.file.source, *(path for of_side in locations for path in of_side)]


def plan_study(
    root: pathlib.Path,
    cohort: str,
    roi: film.Roi,
    layout: str = "oai",
    rules: Rules = DEFAULT_RULES,
    loader: HeaderLoader = DEFAULT_LOADER,
) -> tuple[Sequence[FilmJob | crops.CropJob], list[Exclusion], dict[str, int]]:
    """Join films, readings and sites into jobs.

    Args:
        root: Root folder of the study.
        cohort: Name of the study.
        roi: Region of interest of each knee.
        layout: Layout of the study on disk, a key of `LAYOUTS`.
        rules: Rules for tables and files.
        loader: Loader of headers.

    Returns:
        Jobs in the order of subject and visit, each of which reads the knees of one film or one
        ready crop; the knees without a film or crop of their own; and counts of things other than
        knees.

    Raises:
        UserError: There are no films, a visit with films has no readings, no subject has both, or a
            table cannot be used.
    """
    inventory = LAYOUTS[layout](root, rules, loader)
    read = dict(inventory.readings)
    notes = collections.Counter(
        {
            "knees_in_the_tables": len(read),
            "filmed_subjects_in_no_table": _num_unread(root, inventory),
            **inventory.notes,
        }
    )
    exclusions = list(inventory.exclusions)
    jobs: Sequence[FilmJob | crops.CropJob]
    if rules.landmarks == "crops":
        jobs = _plan_crops(root, cohort, roi, inventory, read, rules)
        reason, detail = "no_crop", "a reading without a crop"
    else:
        jobs, repeated = _plan_films(root, cohort, roi, inventory, read, rules, notes)
        exclusions += repeated
        reason, detail = "no_film", "a reading without a film"
    # A knee whose film is already excluded is not excluded again.
    known = {(knee.subject, knee.side, knee.visit) for knee in inventory.exclusions}
    exclusions += [
        Exclusion(subject, side, visit, "", reason, detail)
        for subject, side, visit in sorted(set(read) - known)
    ]
    return jobs, exclusions, dict(notes)


def _num_unread(root: pathlib.Path, inventory: Inventory) -> int:
    """Count the subjects that have films but no reading.

    Raises:
        UserError: This holds for all of them, since the ids of films and of readings are of two
            kinds.
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
) -> tuple[list[FilmJob], list[Exclusion]]:
    """Make jobs of the films, removing the readings of their knees from `read`.

    Returns:
        Jobs, and the knees on films beyond the first one of a visit.
    """
    by_file = rules.landmarks == "bonefinder"
    located = {} if by_file else read_locations(root, rules.landmarks)
    jobs, repeated = [], []
    for subject, visit, sides, (source, *repeats) in _films(inventory):
        of_film = {
            side: apply_rules(read.pop((subject, side, visit), UNREAD), rules) for side in sides
        }
        of_sides: KneeLocations = {}
        for name in (source, (subject, visit)):
            rows = located.get(name, {})
            of_sides |= {side: rows.pop(side) for side in sides if side in rows}
        site = inventory.sites.get(subject, "")
        found = None if by_file else of_sides
        masked_source = inventory.mask_path(source)
        file = FilmFile(
            subject,
            visit,
            cohort,
            site,
            source,
            masked_source,
            of_film,
            _labels(inventory, subject, sides, visit),
            found,
            rules.check_subject,
            rules.spacing_mm,
        )
        jobs.append(FilmJob(root, file, roi))
        detail = f"{masked_source} is the film of this visit"
        repeated += [
            Exclusion(subject, side, visit, inventory.mask_path(repeat), "repeated_film", detail)
            for repeat in repeats
            for side in sides
        ]
    if not by_file:
        notes["rows_of_landmarks_without_a_film"] = sum(map(len, located.values()))
    return jobs, repeated


def _labels(
    inventory: Inventory, subject: str, sides: Iterable[str], visit: int
) -> dict[str, dict[str, np.float32]]:
    """Return the further labels of some knees of a subject, by side."""
    return {
        side: {
            name: np.float32(of_knees.get((subject, side, visit), math.nan))
            for name, of_knees in inventory.labels.items()
        }
        for side in sides
    }


def _films(inventory: Inventory) -> list[tuple[str, int, Sequence[str], Sequence[str]]]:
    """List subject, visit, sides of the knees, and the films that show them."""
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
) -> list[crops.CropJob]:
    """Make jobs of the ready crops, removing the readings of their knees from `read`."""
    region = crops.MiddleOfCrop(rules.crop_spacing_mm, roi)
    jobs = []
    for (subject, visit), sources in sorted(inventory.films.items()):
        # As on a film, the right knee first.
        for source in sorted(sources, reverse=True):
            side = crops.side_of(source)
            file = crops.CropFile(
                subject,
                side,
                visit,
                cohort,
                source,
                site=inventory.sites.get(subject, ""),
                reading=apply_rules(read.pop((subject, side, visit), UNREAD), rules),
                labels=_labels(inventory, subject, side, visit)[side],
            )
            jobs.append(crops.CropJob(root, file, region))
    return jobs


def _locate(
    root: pathlib.Path, file: FilmFile, radiograph: dicom.Film
) -> dict[str, np.ndarray | UnusableKnee]:
    """Return the landmarks [74, 2] on the film in mm, or the knee's problem, by side."""
    height, width = radiograph.pixels.shape
    size_mm = (width * radiograph.spacing_mm[0], height * radiograph.spacing_mm[1])
    points, wrong = {}, {}
    for side, reading in file.readings.items():
        try:
            if reading.unusable:
                raise UnusableKnee(reading.unusable, reading.detail)
            if file.locations is None:
                knee = landmarks.read_landmarks(root, file.source, side, size_mm[0])
            else:
                knee = _in_mm(file.locations, side, radiograph.spacing_mm)
            landmarks.check_place(knee, size_mm)
            points[side] = knee
        except UnusableKnee as error:
            wrong[side] = error
    width_mm = size_mm[0] if len(file.readings) == len(SIDES) else None
    return points | wrong | landmarks.check_orientation(points, width_mm)


def _in_mm(found: KneeLocations, side: str, spacing_mm: tuple[float, float]) -> np.ndarray:
    knee = found.get(side)
    if knee is None:
        raise UnusableKnee("no_landmarks", "the table of landmarks does not name this knee")
    if isinstance(knee, UnusableKnee):
        raise knee
    return knee.on_film(spacing_mm)


def _example(
    file: FilmFile, side: str, image: np.ndarray, roi: film.Roi, keypoints: np.ndarray
) -> Example:
    return example(
        image,
        file.readings[side].grades,
        subject=file.subject,
        side=side,
        visit=file.visit,
        cohort=file.cohort,
        site=file.site,
        source=file.masked_source,
        spacing_mm=roi.spacing_mm,
        keypoints=keypoints,
        labels=file.labels.get(side),
    )


def _exclude(file: FilmFile, side: str, error: UnusableKnee) -> Exclusion:
    knee = (file.subject, side, file.visit, file.masked_source)
    return Exclusion(*knee, error.reason, error.detail)
