"""Positions of knees on their films: BoneFinder's `.pts` files, and checks of any points.

A film has two files: `001.pts` holds the left knee on the film as it is, `001_f.pts` the right knee
on the mirrored film. Coordinates are millimetres from the film's corner. (Facts from Tiulpin's
preprocessing module; `knee_jax.landmarks` has the scheme of the points.) The files lie beside the
film, or at the film's path in the folder `landmarks` under the study's root; if they are in both
places, the latter count. `landmark_tables` reads tables of points instead.
"""

import pathlib
import re
from collections.abc import Mapping

import numpy as np

from knee_jax.errors import UnusableKnee
from knee_jax.ingest import archives
from knee_jax.landmarks import CONDYLES, NUM_LANDMARKS, PLATEAU, PLATEAU_CENTRE, SIDE_WORDS

SUFFIXES = {"L": ".pts", "R": "_f.pts"}
"""Suffix of the landmark file of each side, which follows the film's name."""

FOLDER = "landmarks"
"""Folder under the study's root for landmark files that are kept apart from the films."""

_PLATEAU_RANGE_MM = (40.0, 130.0)
_BODY = re.compile(r"\{(.*)\}", re.DOTALL)


def files(root: pathlib.Path, source: str, side: str) -> tuple[pathlib.Path, pathlib.Path]:
    """Return the two possible paths of a knee's landmark file: apart from the film, and beside it.

    Args:
        root: Root folder of the study.
        source: Path of the radiograph relative to it.
        side: 'L' or 'R'.
    """
    name = source + SUFFIXES[side]
    return root / FOLDER / name, root / name


def read_landmarks(root: pathlib.Path, source: str, side: str, width_mm: float) -> np.ndarray:
    """Read the landmarks of one knee.

    Args:
        root: Root folder of the study.
        source: Path of the radiograph relative to it.
        side: 'L' or 'R'.
        width_mm: Width of the film, mm.

    Returns:
        Landmarks, float64 [74, 2], (x, y) in mm from the upper left corner of the film as it is.

    Raises:
        UnusableKnee: no_landmarks, landmarks_unreadable, landmarks_count or landmarks_nan.
    """
    apart, beside = files(root, source, side)
    path = apart if archives.exists(apart) else beside
    # Without the film's name, which may be a person's.
    name = "*" + SUFFIXES[side]
    points = _parse(path, name)
    if len(points) != NUM_LANDMARKS:
        detail = f"{name}: {len(points)} points instead of {NUM_LANDMARKS}"
        raise UnusableKnee("landmarks_count", detail)
    if not np.isfinite(points).all():
        raise UnusableKnee("landmarks_nan", f"{name}: a coordinate is not a number")
    if side == "R":
        points = points * (-1, 1) + (width_mm, 0)
    return points


def check_place(points: np.ndarray, size_mm: tuple[float, float]) -> None:
    """Check that the points of one knee lie on the film and are spaced like those of a knee.

    Args:
        points: Landmarks on the film, float [74, 2], (x, y) in mm, NaN where unknown.
        size_mm: Width and height of the film, mm.

    Raises:
        UnusableKnee: landmarks_implausible (the plateau is not 40-130 mm wide; it is 61-101 mm in
            748 real knees) or landmarks_outside.
    """
    width = float(np.linalg.norm(points[PLATEAU[-1]] - points[PLATEAU[0]]))
    low, high = _PLATEAU_RANGE_MM
    if width < low or width > high:
        detail = f"a tibial plateau of {width:.0f} mm; are the coordinates in mm?"
        raise UnusableKnee("landmarks_implausible", detail)
    if (points < 0).any() or (points > size_mm).any():
        detail = f"a point is beyond the film of {size_mm[0]:.0f} x {size_mm[1]:.0f} mm"
        raise UnusableKnee("landmarks_outside", detail)


def check_orientation(
    points: Mapping[str, np.ndarray], width_mm: float | None
) -> dict[str, UnusableKnee]:
    """Check that the knees of a film are upright, not mirrored, and each in its own half.

    As seen from the front, the right knee is in the film's left half, so that the lateral side of
    each knee is the outer one on the film.

    Args:
        points: Landmarks by side, of one knee or both, float [74, 2], (x, y) in mm on the film as
            it is; NaN where unknown, but not all.
        width_mm: Width of a film of both knees, mm; None: the film shows one knee, without halves.

    Returns:
        Problems by side: upside_down (the femur is below the tibia), sides_swapped (each knee is in
        the other's half), same_half (both knees are in one half, so that one of them, it is unknown
        which, is misplaced), wrong_half (the only knee is in the other half), landmarks_reversed
        (lateral and medial are swapped).
    """
    wrong = {
        side: UnusableKnee("upside_down", "the femur is below the tibia")
        for side, knee in points.items()
        if _mean_height(knee, CONDYLES) > _mean_height(knee, PLATEAU)
    }
    upright = {side: knee for side, knee in points.items() if side not in wrong}
    half = {
        side: "R" if knee[PLATEAU_CENTRE, 0] < width_mm / 2 else "L"
        for side, knee in upright.items()
        if width_mm is not None
    }
    if any(side != found for side, found in half.items()):
        detail = ", ".join(
            f"the {SIDE_WORDS[side]} knee is in the film's {_HALVES[half[side]]} half"
            for side in half
        )
        one_half = len(half) > len(set(half.values()))
        reason = "same_half" if one_half else "sides_swapped" if len(half) == 2 else "wrong_half"
        return wrong | {side: UnusableKnee(reason, detail) for side in half}
    for side, knee in upright.items():
        towards_right = knee[PLATEAU[-1], 0] - knee[PLATEAU[0], 0]
        if towards_right * (1 if side == "R" else -1) <= 0:
            detail = "lateral and medial are swapped"
            wrong[side] = UnusableKnee("landmarks_reversed", detail)
    return wrong


_HALVES = {"R": "left", "L": "right"}
"""Halves of the film in which the patient's right and left knees are."""


def _mean_height(points: np.ndarray, window: range) -> float:
    """Return the mean y (downwards) of the known points of a window, NaN if there are none."""
    y = points[window, 1]
    known = y[np.isfinite(y)]
    return float(known.mean()) if len(known) else float("nan")


def _parse(path: pathlib.Path, name: str) -> np.ndarray:
    """Read the points of a file; `name` stands for it in error details."""
    try:
        body = _BODY.search(archives.read(path).decode())
    except FileNotFoundError as error:
        raise UnusableKnee("no_landmarks", f"{name} is missing") from error
    except OSError as error:
        detail = f"{name}: {error.strerror or 'cannot be read'}"
        raise UnusableKnee("landmarks_unreadable", detail) from error
    except UnicodeDecodeError as error:
        raise UnusableKnee("landmarks_unreadable", f"{name}: no text") from error
    try:
        rows = [line.split() for line in body[1].strip().splitlines()] if body else []
        points = np.array(rows, dtype=np.float64)
    except ValueError as error:
        # The error's own text may quote the file, which may hold a name.
        detail = f"{name}: not two numbers a line"
        raise UnusableKnee("landmarks_unreadable", detail) from error
    if points.ndim != 2 or points.shape[1] != 2:
        raise UnusableKnee("landmarks_unreadable", f"{name}: no list of 'x y' in braces")
    return points
