"""Landmarks of a study's knees, found before its set is prepared.

The jobs of a preparation (`knee_jax.datasets`) run where no network does; they are given the
landmarks that the localiser has found.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from knee_jax.errors import UnusableKnee
from knee_jax.inference import placing, side_marker
from knee_jax.inference.found import JOINT, Found
from knee_jax.inference.landmark_comparison import Comparison, Look
from knee_jax.inference.locate import Localiser
from knee_jax.ingest import archives, crops, dicom, film, landmarks
from knee_jax.ingest.knee_files import picture_of
from knee_jax.ingest.landmark_tables import KneeLocation, KneeLocations
from knee_jax.ingest.report import LANDMARK_ERROR
from knee_jax.ingest.study import FilmJob
from knee_jax.landmarks import PLATEAU_CENTRE

NOT_FOUND = UnusableKnee("no_landmarks", "the localiser does not find this knee")
ON_OTHER = UnusableKnee("no_landmarks", "the localiser finds the knee of the landmark file alone")


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
        side_marker.check(picture, spacing_mm, found)
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
