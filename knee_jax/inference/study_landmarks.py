"""Landmarks of a study's knees, found before its set is prepared.

The jobs of a preparation (`knee_jax.datasets`) run where no network does; they are given the
landmarks that the localiser has found.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from knee_jax import targets
from knee_jax.errors import UnusableKnee
from knee_jax.inference import placing
from knee_jax.inference.found import JOINT, Found, square_about
from knee_jax.inference.locate import ZOOM, Localiser
from knee_jax.ingest import archives, crops, dicom, film, landmarks
from knee_jax.ingest.knee_files import picture_of
from knee_jax.ingest.landmark_tables import KneeLocation, KneeLocations
from knee_jax.ingest.report import LANDMARK_ERROR
from knee_jax.ingest.study import FilmFile, FilmJob
from knee_jax.landmarks import NUM_LANDMARKS, PLATEAU_CENTRE
from knee_jax.targets.grades import GRADES
from knee_jax.targets.places import Places

NUM_WORST, TILE = 12, 224
"""Knees whose pictures a comparison keeps, and the side of these, pixels."""

NOT_FOUND = UnusableKnee("no_landmarks", "the localiser does not find this knee")
ON_OTHER = UnusableKnee("no_landmarks", "the localiser finds the knee of the landmark file alone")


@dataclasses.dataclass(frozen=True)
class Look:
    """A film as the localiser sees it.

    Attributes:
        picture: Film, uint8 [height, width].
        spacing_mm: Width and height of its pixels, mm.
        knees: Knee of each side, in pixels of the picture, or why there is none.
    """

    picture: np.ndarray
    spacing_mm: tuple[float, float]
    knees: Mapping[str, Found | UnusableKnee]

    @property
    def size_mm(self) -> tuple[float, float]:
        """Width and height of the film, mm."""
        height, width = self.picture.shape
        return width * self.spacing_mm[0], height * self.spacing_mm[1]

    def in_mm(self, knee: Found) -> np.ndarray:
        """Return a knee's landmarks in mm on the film, [74, 2], NaN beyond it."""
        return placing.within(knee.points, self.picture) * self.spacing_mm


@dataclasses.dataclass(frozen=True)
class Worst:
    """Picture of a knee on which landmark file and localiser differ much.

    Attributes:
        name: Subject, side and visit.
        error_mm: Mean distance of the landmarks, mm.
        image: Square about the knee, uint8 [side, side].
        by_files, by_model: Landmarks in pixels of it, [74, 2].
    """

    name: str
    error_mm: float
    image: np.ndarray
    by_files: np.ndarray
    by_model: np.ndarray


class Comparison:
    """Landmarks of the localiser beside those of the study's files, knee by knee.

    Attributes:
        worst: The knees on which they differ most, the worst first.
    """

    def __init__(self) -> None:
        self.worst: list[Worst] = []
        self._rows: list[dict[str, Any]] = []
        self._given: list[np.ndarray] = []
        self._found: list[np.ndarray] = []

    def add(
        self, file: FilmFile, given: Mapping[str, KneeLocation | UnusableKnee], look: Look
    ) -> None:
        """Add the knees of a film; `given` has those that have a landmark file."""
        for side, reading in file.readings.items():
            by_file = given.get(side, UnusableKnee("no_landmarks", "no landmark file"))
            found = look.knees[side]
            true = np.full((NUM_LANDMARKS, 2), np.nan)
            places = np.full((NUM_LANDMARKS, 3), np.nan)
            if isinstance(by_file, KneeLocation):
                true = by_file.points
            if isinstance(found, Found):
                places = np.column_stack([look.in_mm(found), found.errors * look.spacing_mm[0]])
            row = {
                "subject": file.subject,
                "side": side,
                "visit": file.visit,
                "source": file.masked_source,
                "kl": int(reading.grades[GRADES.index("kl")]),
                "by_files": _status(by_file),
                "by_model": _status(found),
            }
            self._rows.append(row)
            self._given.append(true)
            self._found.append(places)
            distances = np.linalg.norm(places[:, :2] - true, axis=1)
            if np.isfinite(distances).any():
                self._keep(row, float(np.nanmean(distances)), true, look, found)

    def _keep(
        self, row: Mapping[str, Any], error: float, true: np.ndarray, look: Look, knee: Any
    ) -> None:
        """Keep a knee's picture if it is among the worst."""
        if len(self.worst) >= NUM_WORST and error <= self.worst[-1].error_mm:
            return
        points = true / look.spacing_mm
        of_files = dataclasses.replace(knee, points=points, looks="R")
        square = square_about(of_files, 1.15 * ZOOM)
        middle = np.array(square.centre) - square.side / 2
        name = f"{row['subject']} {row['side']} {row['visit']}m"
        self.worst.append(
            Worst(
                name,
                error,
                square.cut(look.picture, TILE),
                *((each - middle) * TILE / square.side for each in (points, knee.points)),
            )
        )
        self.worst.sort(key=lambda each: -each.error_mm)
        del self.worst[NUM_WORST:]

    def table(self) -> pd.DataFrame:
        """Return one row per knee, as a predictions table has them, in mm on the film.

        `by_files` and `by_model` are empty, or say why there are no landmarks.
        """
        target = targets.get("landmarks")
        assert isinstance(target, Places)
        shape = (len(self._rows), NUM_LANDMARKS, -1)
        given, found = (np.array(each).reshape(shape) for each in (self._given, self._found))
        columns = target.truths(given) | target.predictions(found)
        rows = pd.DataFrame(self._rows).assign(spacing_mm=1.0)
        return pd.concat([rows, pd.DataFrame(columns)], axis=1)


def localise(job: Any, localiser: Localiser, comparison: Comparison | None = None) -> Any:
    """Return a job that knows the landmarks of its knees.

    Of a film's knee its landmark file counts first. Of a knee that is not found, a crop is kept
    without landmarks, and a film's is excluded.

    Args:
        job: Job that reads a film or a crop of one knee.
        localiser: Finder of knees.
        comparison: Comparison to which the knees are added; without one, films that have landmark
            files of all their knees are not looked at.
    """
    if isinstance(job, FilmJob):
        return _film(job, localiser, comparison)
    assert isinstance(job, crops.CropJob)
    return _crop(job, localiser)


def _crop(job: crops.CropJob, localiser: Localiser) -> crops.CropJob:
    error, points = math.nan, None
    try:
        image = crops.read_crop(job.root / job.file.source, job.file.side, job.region)
        # Mirrored already if it is a left knee, so that it must look like a right one.
        (found,) = localiser.find(np.ascontiguousarray(image), most=1, looks="R")
        error, points = found.error, found.points
    except UnusableKnee:
        pass
    labels = {**job.file.labels, LANDMARK_ERROR: np.float32(error)}
    file = dataclasses.replace(job.file, labels=labels)
    return dataclasses.replace(job, file=file, keypoints=points)


def _film(job: FilmJob, localiser: Localiser, comparison: Comparison | None) -> FilmJob:
    file = job.file
    filed = [side for side in file.readings if _has_file(job, side)]
    errors = {side: 0.0 if side in filed else math.nan for side in file.readings}
    locations: KneeLocations | None = None
    if comparison is not None or len(filed) < len(file.readings):
        try:
            look = _look(job, localiser)
        except UnusableKnee:
            # The job reads the film again, and says why it cannot be used.
            return _with(job, errors, None)
        given = {side: _of_file(job, side, look) for side in filed}
        if comparison is not None:
            comparison.add(file, given, look)
        if len(filed) < len(file.readings):
            locations = dict(given)
            for side in errors.keys() - given.keys():
                locations[side], errors[side] = _of_model(side, look, given)
    return _with(job, errors, locations)


def _with(job: FilmJob, errors: Mapping[str, float], locations: KneeLocations | None) -> FilmJob:
    """Return a job with the errors and positions of its knees."""
    labels = {
        side: {**job.file.labels.get(side, {}), LANDMARK_ERROR: np.float32(error)}
        for side, error in errors.items()
    }
    file = dataclasses.replace(job.file, locations=locations, labels=labels)
    return dataclasses.replace(job, file=file)


def _look(job: FilmJob, localiser: Localiser) -> Look:
    """Look at a film for its knees.

    Raises:
        UnusableKnee: The film cannot be read.
    """
    file = job.file
    radiograph = dicom.read_film(job.root / file.source, None, file.spacing_mm)
    window = film.intensity_window(radiograph.pixels, radiograph.padding)
    picture, spacing_mm = picture_of(radiograph, window)
    knees: dict[str, Found | UnusableKnee] = dict.fromkeys(file.readings, NOT_FOUND)
    try:
        found = placing.sided(picture, localiser.find(picture), localiser)
        knees |= {knee.looks: knee.problem or knee for knee in found if knee.looks in knees}
    except UnusableKnee as problem:
        knees = dict.fromkeys(knees, problem)
    return Look(picture, spacing_mm, knees)


def _of_file(job: FilmJob, side: str, look: Look) -> KneeLocation | UnusableKnee:
    """Return a knee's position as its landmark file has it, or what is wrong with that."""
    try:
        points = landmarks.read_landmarks(job.root, job.file.source, side, look.size_mm[0])
        landmarks.check_place(points, look.size_mm)
    except UnusableKnee as problem:
        return problem
    return KneeLocation(points, None, "mm")


def _of_model(
    side: str, look: Look, given: Mapping[str, KneeLocation | UnusableKnee]
) -> tuple[KneeLocation | UnusableKnee, float]:
    """Return a knee's position as the localiser found it, and the error to be expected."""
    knee = look.knees[side]
    if isinstance(knee, UnusableKnee):
        return knee, math.nan
    # Shafts may leave the film.
    points = look.in_mm(knee)
    if not np.isfinite(points[list(JOINT)]).all():
        detail = "the joint is partly beyond the film"
        return UnusableKnee("landmarks_outside", detail), math.nan
    middle, width = points[PLATEAU_CENTRE], knee.width * look.spacing_mm[0]
    for other in given.values():
        if isinstance(other, KneeLocation):
            away = np.linalg.norm(other.points[PLATEAU_CENTRE] - middle)
            if away < 0.6 * width:
                return ON_OTHER, math.nan
    return KneeLocation(points, None, "mm"), knee.error


def _has_file(job: FilmJob, side: str) -> bool:
    paths = landmarks.files(job.root, job.file.source, side)
    return any(archives.exists(path) for path in paths)


def _status(knee: KneeLocation | Found | UnusableKnee) -> str:
    """Return why a knee has no landmarks, '' if it has."""
    return knee.reason if isinstance(knee, UnusableKnee) else ""
