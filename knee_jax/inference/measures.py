"""Measures of a knee from its landmarks."""

import math

import numpy as np
from scipy.interpolate import CubicSpline

from knee_jax.landmarks import CONDYLES, CONDYLES_CENTRE, PLATEAU

MEDIAL, LATERAL = (59, 62), (48, 51)
"""Landmarks of the plateau between which the joint space of a compartment is measured: about 19 to
42 % of the plateau's width off its middle, as in `targets/joint_space_width.py`.
"""

_FINE = 20
"""Points between two landmarks."""


def joint_space_widths(points: np.ndarray) -> tuple[float, float]:
    """Return the minimum joint space width, lateral and medial, in the unit of the landmarks.

    It is the least distance between the smooth curves through the landmarks of the condyle and of
    the part of the plateau that bears its load.

    Args:
        points: Landmarks, float [74, 2]; NaN where unknown, with which the width is NaN.
    """
    condyles, plateau = _curve(points[list(CONDYLES)]), _curve(points[list(PLATEAU)])
    half = (CONDYLES_CENTRE - CONDYLES[0]) * _FINE
    widths = []
    for part, femur in ((LATERAL, condyles[: half + 1]), (MEDIAL, condyles[half:])):
        first, last = ((number - PLATEAU[0]) * _FINE for number in part)
        tibia = plateau[first : last + 1]
        widths.append(float(np.linalg.norm(femur[:, None] - tibia, axis=-1).min()))
    return widths[0], widths[1]


def _curve(points: np.ndarray) -> np.ndarray:
    """Return a smooth curve through points, with `_FINE` steps from each to the next."""
    number = (len(points) - 1) * _FINE + 1
    if not np.isfinite(points).all():
        return np.full((number, 2), np.nan)
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    length += 1e-6 * np.arange(len(points))
    at = np.interp(np.linspace(0, len(points) - 1, number), np.arange(len(points)), length)
    return np.asarray(CubicSpline(length, points)(at))


def width_error(landmark_error: float) -> float:
    """Return the standard error of a width, in the unit of the landmarks' error to be expected.

    Two landmarks bound a width. Their expected error is half of their mean distance from the truth,
    which for a Gaussian in the plane is 0.63 of its standard deviation along an axis.
    """
    return math.sqrt(2) * landmark_error / 0.63
