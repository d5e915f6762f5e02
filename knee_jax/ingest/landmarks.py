"""BoneFinder's `.pts` files → landmarks in millimetres on the film.

Two files a film: `001.pts` holds the left knee on the film as it is, `001_f.pts` the right knee on
the mirrored film. Coordinates are millimetres from the film's corner. (Facts from Tiulpin's
preprocessing module; `knee_jax.landmarks` has the scheme of the points.)
"""

import pathlib
import re

import numpy as np

from knee_jax.errors import UnusableKnee
from knee_jax.landmarks import NUM_LANDMARKS, PLATEAU

SUFFIXES = {"L": ".pts", "R": "_f.pts"}
"""What follows the film's name in the name of its landmark file, by side."""

_PLATEAU_RANGE_MM = (40.0, 130.0)
_BODY = re.compile(r"\{(.*)\}", re.DOTALL)


def read_landmarks(film: pathlib.Path, side: str, size_mm: tuple[float, float]) -> np.ndarray:
    """Reads the landmarks of one knee.

    Args:
        film: path of the radiograph beside which the landmark files lie.
        side: 'L' or 'R'.
        size_mm: width and height of the film.

    Returns:
        Float64 [74, 2], (x, y) in mm from the film's upper left corner, on the film as it is.

    Raises:
        UnusableKnee: no_landmarks, landmarks_unreadable, landmarks_count, landmarks_nan,
            landmarks_outside, landmarks_reversed (the plateau's lateral end lies medially) or
            landmarks_implausible (a plateau of 61-101 mm in 748 real knees is not 40-130 mm here).
    """
    path = film.with_name(film.name + SUFFIXES[side])
    points = _parse(path)
    if len(points) != NUM_LANDMARKS:
        detail = f"{path.name}: {len(points)} points instead of {NUM_LANDMARKS}"
        raise UnusableKnee("landmarks_count", detail)
    if not np.isfinite(points).all():
        raise UnusableKnee("landmarks_nan", f"{path.name}: a coordinate is not a number")
    # Where the file was drawn both kinds look like a left knee: medial at the image's left.
    lateral, medial = points[PLATEAU[0]], points[PLATEAU[-1]]
    if lateral[0] <= medial[0]:
        raise UnusableKnee("landmarks_reversed", f"{path.name}: lateral and medial are swapped")
    width = float(np.linalg.norm(medial - lateral))
    low, high = _PLATEAU_RANGE_MM
    if not low <= width <= high:
        detail = f"{path.name}: a tibial plateau of {width:.0f} mm; are the coordinates in mm?"
        raise UnusableKnee("landmarks_implausible", detail)
    if (points < 0).any() or (points > size_mm).any():
        detail = f"{path.name}: beyond the film of {size_mm[0]:.0f} x {size_mm[1]:.0f} mm"
        raise UnusableKnee("landmarks_outside", detail)
    if side == "R":
        points = points * (-1, 1) + (size_mm[0], 0)
    return points


def _parse(path: pathlib.Path) -> np.ndarray:
    try:
        body = _BODY.search(path.read_text())
    except FileNotFoundError as error:
        raise UnusableKnee("no_landmarks", f"{path.name} is missing") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UnusableKnee("landmarks_unreadable", f"{path.name}: {error}") from error
    try:
        rows = [line.split() for line in body[1].strip().splitlines()] if body else []
        points = np.array(rows, dtype=np.float64)
    except ValueError as error:
        raise UnusableKnee("landmarks_unreadable", f"{path.name}: {error}") from error
    if points.ndim != 2 or points.shape[1] != 2:
        raise UnusableKnee("landmarks_unreadable", f"{path.name}: no list of 'x y' in braces")
    return points
