"""Measures of a knee from its landmarks: joint space widths, and angles of the two bones.

Angles are in degrees, positive as in varus: the joint opens laterally, the knee bends outwards.
Landmarks are those of a picture that looks like a right knee.
"""

import math

import numpy as np
from scipy.interpolate import CubicSpline

from knee_jax.landmarks import CONDYLES, CONDYLES_CENTRE, FEMUR, PLATEAU, TIBIA

MEDIAL, LATERAL = (59, 62), (48, 51)
"""Landmarks of the plateau between which the joint space of a compartment is measured: about 19 to
42 % of the plateau's width off its middle, as in `targets/joint_space_width.py`.
"""

CONTACT = (13, 23)
"""Landmarks of the condyles between which their tangent touches: not at their corners, where
osteophytes grow.
"""

PAIRS = 8
"""Pairs of landmarks, one on each wall of a bone, through whose middles its axis is laid: those
farthest from the joint, about 20 to 60 mm from it.
"""

SHAPE_DEG = 1.0
"""Standard deviation of the angle of axes that the bones' shape leaves however well the landmarks
are known: the ends of the bones flare, and their middles lie off the shafts' axes. As seen on 300
phantom knees.
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


def joint_angle(points: np.ndarray) -> float:
    """Return the joint line convergence angle, degrees, NaN if landmarks of it are unknown.

    It is the angle between the line that touches both femoral condyles from below and the line
    through the middles of the loaded parts of the tibial plateau.

    Args:
        points: Landmarks, float [74, 2], NaN where unknown.
    """
    femur, tibia = joint_lines(points)
    return _between(femur, tibia)


def joint_lines(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lines of the condyles and of the plateau, as vectors from lateral to medial."""
    condyles, plateau = _curve(points[list(CONDYLES)]), _curve(points[list(PLATEAU)])
    first, half, last = (
        (number - CONDYLES[0]) * _FINE for number in (CONTACT[0], CONDYLES_CENTRE, CONTACT[1])
    )
    line = np.array([1.0, 0.0])
    if np.isfinite(condyles).all():
        # The lowest point of each side, as seen along the line through those before.
        for _ in range(8):
            below = condyles @ np.array([-line[1], line[0]])
            lateral = first + int(below[first : half + 1].argmax())
            medial = half + int(below[half : last + 1].argmax())
            line = condyles[medial] - condyles[lateral]
    else:
        line = np.full(2, np.nan)
    middles = [
        plateau[(a - PLATEAU[0]) * _FINE : (b - PLATEAU[0]) * _FINE + 1].mean(0)
        for a, b in (LATERAL, MEDIAL)
    ]
    return line, middles[1] - middles[0]


def joint_angle_error(points: np.ndarray, landmark_error: float) -> float:
    """Return the standard error of `joint_angle`, degrees.

    Each of the two lines hangs on two places, of which the errors across it count.

    Args:
        points: Landmarks, float [74, 2].
        landmark_error: Error to be expected of a landmark, in their unit; see `width_error`.
    """
    lengths = np.array([np.linalg.norm(line) for line in joint_lines(points)])
    return math.degrees(width_error(landmark_error) * math.sqrt(float((lengths**-2.0).sum())))


def axis_angle(points: np.ndarray) -> float:
    """Return the angle between the axes of femur and tibia, degrees, NaN if it is unknown.

    It is a femorotibial angle as a film of the knee alone shows it (Gielis et al. 2020 compare nine
    such): the axes go through the middles between the walls of the flared ends of the bones, not
    along the shafts, so that it differs from the angle of a long film by some degrees.

    Args:
        points: Landmarks, float [74, 2], NaN where unknown or beyond the picture.
    """
    return _between(*(_fit(middles)[0] for middles in _middles(points)))


def axis_angle_error(points: np.ndarray, landmark_error: float) -> float:
    """Return the standard error of `axis_angle`, degrees, with what the bones' shape adds."""
    variance = 0.0
    for middles in _middles(points):
        _, spread = _fit(middles)
        # Across the axis a middle has half the variance of a landmark.
        variance += (width_error(landmark_error) / 2) ** 2 / max(spread, 1e-9)
    return math.hypot(math.degrees(math.sqrt(variance)), SHAPE_DEG)


def _middles(points: np.ndarray) -> list[np.ndarray]:
    """Return the middles between the walls of femur and tibia, [PAIRS, 2] each, shaft first."""
    pairs = np.arange(PAIRS)
    return [(points[bone[0] + pairs] + points[bone[-1] - pairs]) / 2 for bone in (FEMUR, TIBIA)]


def _fit(middles: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the direction of a line through points, downwards, and their spread along it squared.

    The spread is the sum of squares; both are NaN if a point is unknown.
    """
    apart = middles - middles.mean(0)
    if not np.isfinite(apart).all():
        return np.full(2, np.nan), math.nan
    direction = np.linalg.svd(apart)[2][0]
    return direction * np.sign(direction[1] or 1.0), float(np.square(apart @ direction).sum())


def _between(first: np.ndarray, second: np.ndarray) -> float:
    """Return the angle from the second vector to the first, clockwise as seen, degrees."""
    cross = second[0] * first[1] - second[1] * first[0]
    return math.degrees(math.atan2(cross, float(first @ second)))
