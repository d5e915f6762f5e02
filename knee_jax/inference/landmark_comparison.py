"""Landmarks of the localiser beside those of a study's landmark files."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from knee_jax import targets
from knee_jax.errors import UnusableKnee
from knee_jax.inference import placing
from knee_jax.inference.found import Found, square_about
from knee_jax.inference.locate import ZOOM
from knee_jax.ingest.landmark_tables import KneeLocation
from knee_jax.ingest.study import FilmFile
from knee_jax.landmarks import NUM_LANDMARKS
from knee_jax.targets.grades import GRADES
from knee_jax.targets.places import Places

NUM_WORST, TILE = 12, 224
"""Knees whose pictures a comparison keeps, and the side of these, pixels."""


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


def _status(knee: KneeLocation | Found | UnusableKnee) -> str:
    """Return why a knee has no landmarks, '' if it has."""
    return knee.reason if isinstance(knee, UnusableKnee) else ""
