"""Landmarks of a study's knees, found before its set is prepared.

The jobs of a preparation (`knee_jax.datasets`) run where no network does; they are given the
landmarks that the localiser has found.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from knee_jax.errors import UnusableKnee
from knee_jax.inference import placing
from knee_jax.inference.locate import JOINT, Localiser
from knee_jax.ingest import archives, crops, dicom, film, landmarks
from knee_jax.ingest.knee_files import picture_of
from knee_jax.ingest.landmark_tables import KneeLocation, KneeLocations
from knee_jax.ingest.report import LANDMARK_ERROR
from knee_jax.ingest.study import FilmJob


def localise(job: Any, localiser: Localiser) -> Any:
    """Return a job that knows the landmarks of its knees.

    Landmark files of a film, if it has them for all its knees, count first. Of a knee that is not
    found, a crop is kept without landmarks, and a film's is excluded.

    Args:
        job: Job that reads a film or a crop of one knee.
        localiser: Finder of knees.
    """
    if isinstance(job, FilmJob):
        return _film(job, localiser)
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


def _film(job: FilmJob, localiser: Localiser) -> FilmJob:
    file = job.file
    errors = dict.fromkeys(file.readings, 0.0)
    locations: KneeLocations | None = None
    if not all(_has_file(job, side) for side in file.readings):
        errors = dict.fromkeys(file.readings, math.nan)
        locations = {
            side: UnusableKnee("no_landmarks", "the localiser does not find this knee")
            for side in file.readings
        }
        try:
            radiograph = dicom.read_film(job.root / file.source, None, file.spacing_mm)
            window = film.intensity_window(radiograph.pixels, radiograph.padding)
            picture, spacing_mm = picture_of(radiograph, window)
            for knee in placing.sided(picture, localiser.find(picture), localiser):
                inside = np.all((knee.points > 0) & (knee.points < picture.shape[::-1]), axis=1)
                # Shafts may leave the film.
                points = np.where(inside[:, None], knee.points * spacing_mm, np.nan)
                if np.isfinite(points[list(JOINT)]).all():
                    locations[knee.looks] = KneeLocation(points, None, "mm")
                    errors[knee.looks] = knee.error
                else:
                    detail = "the joint is partly beyond the film"
                    locations[knee.looks] = UnusableKnee("landmarks_outside", detail)
        except UnusableKnee as problem:
            locations = dict.fromkeys(file.readings, problem)
    labels = {
        side: {**file.labels.get(side, {}), LANDMARK_ERROR: np.float32(errors[side])}
        for side in file.readings
    }
    return dataclasses.replace(
        job, file=dataclasses.replace(file, locations=locations, labels=labels)
    )


def _has_file(job: FilmJob, side: str) -> bool:
    paths = landmarks.files(job.root, job.file.source, side)
    return any(archives.exists(path) for path in paths)
