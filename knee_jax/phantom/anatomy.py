"""Bones of one phantom knee: outlines and landmarks in millimetres.

The knee frame looks like a right knee (lateral at negative x), y grows downwards as on a film, and
the origin is the middle of the line between the two corners of the tibial plateau.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.spatial import ConvexHull

from knee_jax.landmarks import CONDYLES, FEMUR, PLATEAU, TIBIA

# Joint surfaces of the 300 real knees with KL 0-1 among the 748 that Tiulpin et al. 2019 ("KNEEL")
# annotated: mean and first five principal modes (of SD 1), in per cent of the plateau's width,
# corners of the plateau on y = 0. Rows: x, y; columns: landmarks 47, 49 .. 63, 12, 14 .. 24.
_MEAN = [
    [-50, -34.6, -19.2, -6.6, 1.1, 9.8, 18.6, 34.3, 50, -46.9, -33, -17, 0, 17.4, 33.8, 49.8],
    [0, -0.1, -3.1, -12.9, -10.2, -14.3, -1.3, 1.4, 0, -9.6, -7.7, -13.4, -24, -12.6, -4.9, -7.4],
]
_MODES = [
    [
        [0, 0.5, 0.8, 1, 0.4, 0.1, 0.2, 0.1, 0, 1.2, 1.5, 1.4, 1.1, 0.3, 0, 0.1],
        [0, 0.8, 1.1, 0.7, 1.1, 1, 0.7, 0.4, 0, 0.8, 0.9, 1, 1.6, 1, 0.6, 0.6],
    ],
    [
        [0, -0.3, -0.6, -0.9, -0.8, -1, -0.9, -0.4, 0, -0.6, -0.6, -0.8, -1.6, -1.5, -1.4, -1],
        [0, 0.4, 0.6, 0.9, 1, 0.6, 0.9, 0.7, 0, 0.3, 0.4, 0.5, 0.2, 0.6, 0.7, 0.6],
    ],
    [
        [0, -0.4, -0.8, -1, -0.2, 0.8, 0.6, 0.3, 0, -0.6, -0.7, -0.5, 0.9, 0.6, 0.1, -0.2],
        [0, -0.4, -0.4, 0, 0.1, 0.3, 0.2, 0.1, 0, -0.2, -0.2, -0.1, 1.5, 0.5, 0.3, 0.4],
    ],
    [
        [0, 0.4, 0.6, 0.9, 0.6, 0.6, 0.3, 0.2, 0, -0.1, -0.1, -0.6, -1.5, -0.4, 0, -0.2],
        [0, -0.1, -0.5, -0.8, -0.4, 0, -0.1, -0.2, 0, 0.2, 0, 0.3, 1.2, 0.3, 0.1, 0.1],
    ],
    [
        [0, 0, 0, -0.2, 0.1, 0.7, 0.5, 0.3, 0, -0.3, -0.4, -0.4, -0.8, 0.6, 1, 0.5],
        [0, 0.5, 0.6, 0.2, 0.4, 0.5, 0.2, 0.1, 0, 0.3, 0.4, 0.4, -0.8, 0, 0.1, -0.2],
    ],
]
# Plateau width of the same 300 knees (all 748: 79.1 +- 7.7 mm, osteophytes included).
WIDTH_MM, WIDTH_SD = 77.5, 7.0
# Their joint space, the least vertical gap of the bones 20-40 % of the width off the middle, is 5.7
# +- 1.1 mm laterally and 4.7 +- 0.8 medially, between straight lines and with the annotators'
# error. The value here is smaller, since the curves bulge beyond those lines: it was set so that
# the mean landmarks agree (tests/phantom/test_anatomy.py).
_SPACE_MM, _SPACE_SD = (5.5, 4.1), 0.6
_COMPARTMENTS = ((-0.40, -0.20), (0.20, 0.40))

# Rest of the outlines, drawn by hand on the plan of a PA fixed-flexion film, per cent of the width:
# the walls of both bones beyond the windows of the joint surfaces, shaft first.
_FEMUR_LATERAL = [
    (-38, -78), (-41.2, -71), (-44.5, -64), (-47.6, -57), (-50, -51), (-51.6, -45), (-52, -39),
    (-51.2, -33.5), (-49.6, -28.5), (-49.2, -24), (-50.2, -19.5), (-50, -15.5),
]  # fmt: skip
_FEMUR_MEDIAL = [
    (52, -13.5), (52.8, -19.5), (52.3, -26), (52.3, -32), (53, -38), (53.2, -44), (52.4, -50),
    (50.2, -56), (47.2, -61.5), (43.8, -67), (40.6, -72.5), (37.8, -78),
]  # fmt: skip
_TIBIA_LATERAL = [
    (-28, 66), (-30.2, 59), (-33, 52), (-36.3, 45), (-39.8, 38), (-43, 31), (-45.8, 24),
    (-48, 17), (-49.6, 10.5), (-50.6, 4.8),
]  # fmt: skip
_TIBIA_MEDIAL = [
    (50.6, 4.8), (50.2, 10.5), (48.4, 17), (45.4, 24), (41.8, 31), (38, 38), (34.6, 45),
    (31.6, 52), (29, 59), (27, 66),
]  # fmt: skip
_SHAFT_TOP = [(-21, -300), (-21, -160), (-24.5, -122), (-31, -97)]
_SHAFT_BOTTOM = [(-17.5, 300), (-18, 150), (-20.5, 110), (-24, 84)]

STEP_MM = 0.4
"""Distance of the points of the outlines, mm."""

MEDIAL_PLATEAU, LATERAL_PLATEAU = (59, 62), (48, 51)
"""Landmarks between which the joint space of a compartment is measured, about 19 to 42 % of the
width off the middle."""

FEMORAL_CONTACT = (13, 23)
"""Landmarks between which a line touches the condyles."""

_SHAFT_MM = 100.0

# Part of the femur that may bound it: so far above the joint line, and beyond those landmarks.
_JOINT_MM, _REACH_MM = 40.0, 8.0


@dataclasses.dataclass(frozen=True)
class Knee:
    """One knee in its own frame; lengths in mm.

    Attributes:
        width: Width of the tibial plateau without osteophytes.
        femur, tibia: Closed outlines, [points, 2].
        landmarks: Landmarks, [74, 2], points of those outlines.
        space: Joint space, lateral and medial, before osteophytes: the least vertical gap in the
            compartment.
        lost: Fraction of the joint space lost, lateral and medial.
        patella, fibula: Centre and half axes of the patella and of the fibular head, [2, 2].
        character: Standard normals from which the rendering draws the appearance of this knee,
            [12].
        replaced: Whether a total knee prosthesis is in its place.
    """

    width: float
    femur: np.ndarray
    tibia: np.ndarray
    landmarks: np.ndarray
    space: np.ndarray
    lost: np.ndarray
    patella: np.ndarray
    fibula: np.ndarray
    character: np.ndarray
    replaced: bool = False


class _Outline(NamedTuple):
    """Outline of a bone: points [n, 2] in mm, and the (fractional) landmark number of each."""

    points: np.ndarray
    number: np.ndarray

    def surface(self, window: range) -> np.ndarray:
        """Return the points within a window of landmarks, in order of x."""
        inside = self.points[(self.number >= window[0]) & (self.number <= window[-1])]
        return inside[np.argsort(inside[:, 0])]

    def landmarks(self, bone: range) -> np.ndarray:
        """Return the points at whole landmark numbers."""
        return np.stack([np.interp(bone, self.number, axis) for axis in self.points.T], axis=-1)


def _arc_length(points: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])


def _between(points: np.ndarray) -> np.ndarray:
    """Return points [n, 2] with the spline's midpoints between them, [2 n - 1, 2]."""
    length = _arc_length(points)
    at = np.interp(np.arange(2 * len(points) - 1) / 2, np.arange(len(points)), length)
    return CubicSpline(length, points)(at)


def _trace(shaft: np.ndarray, landmarks: np.ndarray, first: int) -> _Outline:
    """Return a smooth outline through a bone's landmarks, from `first`, and symmetric shaft."""
    points = np.concatenate([shaft, landmarks, shaft[::-1] * [-1, 1]])
    length = _arc_length(points)
    at = np.arange(0, length[-1], STEP_MM)
    number = np.interp(at, length, np.arange(len(points)) - len(shaft) + first)
    return _Outline(CubicSpline(length, points)(at), number)


def _least_gaps(femur: np.ndarray, tibia: np.ndarray, width: float) -> np.ndarray:
    """Return (x, gap) of the least vertical gap of each compartment, [2, 2]."""
    found = []
    for low, high in _COMPARTMENTS:
        x = np.linspace(low * width, high * width, 26)
        gap = np.interp(x, tibia[:, 0], tibia[:, 1]) - np.interp(x, femur[:, 0], femur[:, 1])
        found.append((x[np.argmin(gap)], np.min(gap)))
    return np.array(found)


def _close_joint(femur: np.ndarray, tibia: np.ndarray, width: float, space: np.ndarray):
    """Find the motion (angle, drop in mm) of the femur that leaves `space` in the compartments."""
    angle = drop = 0.0
    for _ in range(6):
        (x_lateral, lateral), (x_medial, medial) = _least_gaps(
            _move(femur, angle, drop), tibia, width
        )
        excess = np.array([lateral, medial]) - space
        slope = (excess[1] - excess[0]) / (x_medial - x_lateral)
        angle += slope
        drop += excess[0] - slope * x_lateral
    return angle, drop


def _move(points: np.ndarray, angle: float, drop: float) -> np.ndarray:
    """Rotate points by `angle` (radians, clockwise on the film) about the origin; lower them."""
    cos, sin = np.cos(angle), np.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]]) + (0, drop)


def _grow(outline: _Outline, corner: int, length: float, direction: np.ndarray) -> _Outline:
    """Grow an osteophyte: extend the outline to a blunt point, `length` mm at landmark `corner`."""
    points, number = outline
    tip = points[np.argmin(np.abs(number - corner))]
    distance = np.linalg.norm(points - tip, axis=1) / (1.6 + 0.42 * length)
    bump = length * np.exp(-(distance**1.4)) * (np.abs(number - corner) < 6)
    return _Outline(points + bump[:, None] * direction / np.linalg.norm(direction), number)


def _healthy_bones(rng: np.random.Generator, width: float) -> tuple[_Outline, _Outline]:
    """Draw femur and tibia without osteophytes."""
    shape = np.array(_MEAN) + np.tensordot(rng.normal(0, 0.9, len(_MODES)), _MODES, 1)
    surface, condyles = _between(shape.T[:9]), _between(shape.T[9:])
    condyles[[5, 7], 1] -= 0.8  # The roof of the notch is an arch.

    def wall(drawn):
        # Separate for every knee: bones are stouter or slimmer, and bumpy.
        scale = 1 + rng.normal(0, 0.025) * np.array([1, 0.4])
        return np.array(drawn) * scale + rng.normal(0, 0.45, (len(drawn), 2))

    def bone(shaft, lateral, joint, medial, first):
        points = np.concatenate([wall(lateral), joint, wall(medial)])
        return _trace(np.array(shaft) * width / 100, points * width / 100, first)

    return (
        bone(_SHAFT_TOP, _FEMUR_LATERAL, condyles, _FEMUR_MEDIAL, FEMUR.start),
        bone(_SHAFT_BOTTOM, _TIBIA_LATERAL, surface, _TIBIA_MEDIAL, TIBIA.start),
    )


def make_knee(
    rng: np.random.Generator, spurs: np.ndarray, lost: np.ndarray, width: float, flexion: float
) -> Knee:
    """Draw a knee.

    Args:
        rng: Random numbers of the subject and side, so that a knee looks the same at all visits.
        spurs: Lengths of the osteophytes FL, FM, TL, TM, mm.
        lost: Fraction of the joint space lost, lateral and medial.
        width: Width of the plateau, mm.
        flexion: Change of the joint space by the positioning at this visit, mm.
    """
    femur, tibia = _healthy_bones(rng, width)
    full = np.array(_SPACE_MM) * width / WIDTH_MM + _SPACE_SD * rng.standard_normal(2)
    full = np.maximum(full, 2.7) + flexion
    space = np.maximum(full * (1 - np.asarray(lost)), 0.25)
    # The joint is closed on the surfaces without osteophytes, which hardly change the space.
    angle, drop = _close_joint(femur.surface(CONDYLES), tibia.surface(PLATEAU), width, space)

    # Femoral osteophytes point outwards and down, tibial ones outwards and up.
    toward = np.array([(-1, 0.3), (1, 0.3), (-1, -0.35), (1, -0.35)])
    toward += rng.normal(0, 0.12, (4, 2))
    femur = _grow(femur, CONDYLES[0], spurs[0], toward[0])
    femur = _grow(femur, CONDYLES[-1], spurs[1], toward[1])
    tibia = _grow(tibia, PLATEAU[0], spurs[2], toward[2])
    tibia = _grow(tibia, PLATEAU[-1], spurs[3], toward[3])
    femur = femur._replace(points=_move(femur.points, angle, drop))

    character = rng.standard_normal(12)
    patella = np.array([[-3, -43], [27, 25]]) + character[:4].reshape(2, 2) * [[3, 5], [1.5, 1.5]]
    fibula = np.array([[-49, 27], [12, 14]]) + character[4:8].reshape(2, 2) * [[3.5, 3], [1, 1]]
    return Knee(
        width=width,
        femur=femur.points,
        tibia=tibia.points,
        landmarks=np.concatenate([femur.landmarks(FEMUR), tibia.landmarks(TIBIA)]),
        space=space,
        lost=np.asarray(lost, float),
        patella=patella * width / 100,
        fibula=fibula * width / 100,
        character=character,
    )


def medial_joint_space(knee: Knee) -> float:
    """Measure the minimum medial joint space width as a film shows it, in mm.

    It is the least distance in any direction between the femur and the part of the tibial plateau
    between two landmarks, both edges including osteophytes.
    """
    first, last = (_place(knee.tibia, knee.landmarks[number]) for number in MEDIAL_PLATEAU)
    tibia = _densify(knee.tibia[first : last + 1])
    femur = _densify(knee.femur[np.abs(knee.femur[:, 1]) < _JOINT_MM])
    near = (femur[:, 0] > tibia[0, 0] - _REACH_MM) & (femur[:, 0] < tibia[-1, 0] + _REACH_MM)
    return float(np.linalg.norm(tibia[:, None] - femur[near], axis=-1).min())


def joint_angle(knee: Knee) -> float:
    """Measure the joint line convergence angle as a film shows it, degrees, positive as in varus.

    The femur's line is the edge of the convex hull of its end that spans the notch, corners with
    osteophytes left out; the tibia's goes through the middles of the loaded parts of the plateau.
    """
    first, middle, last = (_place(knee.femur, knee.landmarks[n]) for n in (*FEMORAL_CONTACT, 18))
    first, middle, last = sorted((first, middle, last))
    condyles = knee.femur[first : last + 1]
    notch = float(knee.femur[middle, 0])
    hull = condyles[ConvexHull(condyles).vertices]
    edges = zip(hull, np.roll(hull, -1, axis=0), strict=True)
    # Two edges span it, that below the bone and that above.
    spans = [edge for edge in edges if (edge[0][0] <= notch) != (edge[1][0] <= notch)]
    ends = max(spans, key=lambda edge: edge[0][1] + edge[1][1])
    low, high = sorted(ends, key=lambda point: point[0])
    middles = []
    for window in (LATERAL_PLATEAU, MEDIAL_PLATEAU):
        begin, end = (_place(knee.tibia, knee.landmarks[number]) for number in window)
        middles.append(knee.tibia[begin : end + 1].mean(axis=0))
    return _angle(high - low) - _angle(middles[1] - middles[0])


def shaft_angle(knee: Knee) -> float:
    """Measure the angle between the axes of the two shafts, degrees, positive as in varus.

    The axes go through the middles of the shafts at their far end and some 100 mm nearer.
    """
    femur, tibia = (
        np.stack([(bone[n] + bone[-1 - n]) / 2 for n in (0, round(_SHAFT_MM / STEP_MM))])
        for bone in (knee.femur, knee.tibia)
    )
    return _angle(femur[1] - femur[0]) - _angle(tibia[0] - tibia[1])


def _place(outline: np.ndarray, point: np.ndarray) -> int:
    """Return the number of the outline's point that is next to a point."""
    return int(np.linalg.norm(outline - point, axis=1).argmin())


def _angle(vector: np.ndarray) -> float:
    """Return the direction of a vector, degrees, clockwise as seen."""
    return float(np.degrees(np.arctan2(vector[1], vector[0])))


def _densify(points: np.ndarray) -> np.ndarray:
    """Return points [n, 2] with three more on the line between each and the next."""
    at = np.linspace(0, len(points) - 1, 4 * (len(points) - 1) + 1)
    return np.stack([np.interp(at, np.arange(len(points)), axis) for axis in points.T], axis=-1)
