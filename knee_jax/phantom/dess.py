"""DESS-like MR volumes of the phantom's knees, drawn slice by slice.

The bones are those of the films: the frontal outlines of `anatomy` give the distance of a point
from a bone's edge in that plane, from which a profile of the sagittal plane is subtracted, so that
condyles are round and plateaus flat. All other structures follow from the same severity: cartilage
as thick as the joint space allows, spurs, an effusion, and a marrow lesion.
"""

import dataclasses

import cv2
import numpy as np

from knee_jax.phantom.anatomy import Knee

FIELD_MM = (140.0, 140.0, 112.0)
"""Extent of the volume, mm: rows, columns, slices; OAI's series have 384 x 384 x 160 voxels."""

# Brightness in OAI's units, where 2047 is the maximum that its 8 bits keep (`ingest.volume`).
_AIR, _FAT, _MUSCLE, _CORTEX, _MARROW = 0.0, 330.0, 470.0, 50.0, 270.0
_CARTILAGE, _MENISCUS, _FLUID, _LESION, _TENDON = 950.0, 170.0, 1500.0, 1100.0, 110.0

_RASTER_MM = 0.35
_CORTEX_MM = 0.9
_CARTILAGE_MM = 2.5
"""Thickness of a healthy layer, mm, if the joint space leaves room for it."""


_Point = tuple[float, float, float]
"""Point x, y, z in mm: to medial, to the back, down."""


@dataclasses.dataclass(frozen=True)
class Scanner:
    """Properties of a site's scanner.

    Attributes:
        gain: Factor of all brightness.
        noise: Standard deviation of the noise.
        shading: Standard deviation of the logarithm of the coil's sensitivity over the knee.
        blur_mm: Standard deviation of the point spread in the slice, mm.
    """

    gain: float
    noise: float
    shading: float
    blur_mm: float


@dataclasses.dataclass(frozen=True)
class Findings:
    """Findings that an MR shows and a film does not.

    Attributes:
        lesion_mm: Radius of the bone marrow lesion, mm; 0 if there is none.
        medial: Whether the lesion lies in the medial compartment.
        effusion: Filling of the suprapatellar pouch, 0..1.
    """

    lesion_mm: float
    medial: bool
    effusion: float


def render(
    knee: Knee,
    findings: Findings,
    scanner: Scanner,
    shape: tuple[int, int, int],
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw one knee.

    Args:
        knee: Knee in its own frame, which looks like a right knee.
        findings: Findings in addition to those of the bones.
        scanner: Scanner of the examination.
        shape: Rows, columns and slices of the fixed field of view.
        rng: Random numbers of this examination.

    Returns:
        Volume, uint16 [slices, rows, columns]; slices lateral to medial, rows superior to inferior,
        columns anterior to posterior.
    """
    rows, columns, slices = shape
    # Shapes are drawn in pixels of about 0.7 mm, noise in the scanner's own.
    coarse = max(1, rows // 192)
    z = _centres(rows // coarse, FIELD_MM[0])[:, None]
    y = _centres(columns // coarse, FIELD_MM[1])[None, :]
    x = _centres(slices, FIELD_MM[2])
    at = x + np.float32(rng.normal(0, 1.5))  # No knee lies exactly in the middle of the coil.
    femur = _frontal(knee.femur, z[:, 0], at)
    tibia = _frontal(knee.tibia, z[:, 0], at)
    of_femur, of_tibia = _sagittal_femur(z, y), _sagittal_tibia(z, y)
    grain = rng.standard_normal((18, 24, 24), np.float32)
    shading = _shading(z, y, scanner, rng)
    edge = np.float32(max(FIELD_MM[0] / z.size, 0.5))
    sigma = scanner.blur_mm * rows / FIELD_MM[0]

    volume = np.empty((slices, rows, columns), np.uint16)
    for number, position in enumerate(at):
        plane = _Plane(knee, findings, float(position), z, y, edge)
        between, before = np.modf(number / slices * (len(grain) - 1))
        texture = (1 - between) * grain[int(before)] + between * grain[int(before) + 1]
        picture = plane.draw(
            femur[:, number, None] - of_femur,
            tibia[:, number, None] - of_tibia,
            cv2.resize(texture.astype(np.float32), (y.size, z.size)),
        )
        picture *= shading * np.float32(scanner.gain * np.exp(-(((position - 5) / 95) ** 2)))
        picture = cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_LINEAR)
        picture = cv2.GaussianBlur(picture, (0, 0), max(sigma, 0.05))
        noise = rng.standard_normal(picture.shape, np.float32)
        noise *= np.float32(scanner.noise)
        # Magnitudes are never negative.
        volume[number] = np.abs(picture + noise).clip(0, 4095)
    return volume


class _Plane:
    """One sagittal slice, in which each structure is drawn with a soft edge over those before."""

    def __init__(
        self,
        knee: Knee,
        findings: Findings,
        x: float,
        z: np.ndarray,
        y: np.ndarray,
        edge: np.float32,
    ):
        self.knee, self.findings, self.x, self.z, self.y, self.edge = knee, findings, x, z, y, edge
        self.picture = np.full((z.size, y.size), np.float32(_AIR))

    def draw(self, femur: np.ndarray, tibia: np.ndarray, grain: np.ndarray) -> np.ndarray:
        """Draw the slice and return its brightness.

        Args:
            femur: Depth of each pixel within that bone, mm.
            tibia: Depth of each pixel within that bone, mm.
            grain: Texture of the marrow, standard normal.
        """
        self._soft_tissue()
        self._joint(femur, tibia)
        self._bones(femur, tibia, grain)
        return self.picture

    def _soft_tissue(self) -> None:
        """Draw skin and fat, muscles at the back, tendons in front, and the suprapatellar pouch."""
        z, y = self.z, self.y
        skin = self._ellipse((0, 6, 0), (54, 56, 400))
        self._paint(skin, _FAT)
        self._paint(np.minimum(skin - 7, y - 22 + 0.12 * np.abs(z)), _MUSCLE)
        tendon = 2.2 - np.abs(y + 43) - 0.1 * max(abs(self.x) - 9, 0)
        self._paint(np.minimum(skin - 8, tendon), _TENDON)
        fill = self.findings.effusion
        self._paint(self._ellipse((0, -30, -42), (24, 3 + 7 * fill, 20)) + 2 * fill - 1, _FLUID)

    def _joint(self, femur: np.ndarray, tibia: np.ndarray) -> None:
        """Draw between the bones: a layer of fluid, menisci at the rim, cartilage on both bones."""
        z, y, knee = self.z, self.y, self.knee
        side = int(self.x > 0)
        lost, gap = float(knee.lost[side]), float(knee.space[side])
        across = abs(self.x) / knee.width
        space = np.minimum(np.minimum(femur, tibia) + 7, (0.47 - across) * knee.width)
        fluid = _FLUID * (0.85 + 0.15 * self.findings.effusion)
        self._paint(np.minimum(space, np.maximum(femur, tibia) + 3.2), fluid)
        rim = np.hypot((across - 0.24) / 0.24, (y - 2) / 24)
        wedge = np.minimum(space, 11 * (rim - 0.45 - 0.25 * lost))
        self._paint(np.minimum(wedge, 9 - np.abs(z)), _MENISCUS)
        # No cartilage in the notch or beyond the rim.
        covered = max(min((0.46 - across) * knee.width, (across - 0.1) * 60), 0.0)
        thick = min(_CARTILAGE_MM * (1 - lost), gap / 2, covered)
        if thick > 0.05:
            self._paint(np.minimum(femur + thick, z + 26 + 0.5 * y), _CARTILAGE)
            plateau = np.minimum(8 - z, 21 - np.abs(y - 2))
            self._paint(np.minimum(tibia + thick, plateau), _CARTILAGE)

    def _bones(self, femur: np.ndarray, tibia: np.ndarray, grain: np.ndarray) -> None:
        """Draw cortex and marrow of four bones, the patella's cartilage, and the lesion."""
        knee, radius = self.knee, self.findings.lesion_mm
        (x, z), (half_x, half_z) = knee.patella.tolist()
        patella = self._ellipse((x, -38, z), (half_x, 11, half_z))
        self._paint(np.minimum(patella + 2.2, self.y + 37), _CARTILAGE)
        (x, z), (half_x, half_z) = knee.fibula.tolist()
        fibula = self._ellipse((x, 20, z + 30), (half_x * 0.8, 9, half_z + 30))
        bones = (femur, tibia, patella, fibula)
        for bone in bones:
            self._paint(bone, _CORTEX)
        marrow = _MARROW * (1 + np.float32(0.08) * grain)
        for bone in bones:
            self._paint(bone - _CORTEX_MM, marrow)
        if radius > 0:
            x = 0.24 * knee.width * (1 if self.findings.medial else -1)
            lesion = self._ellipse((x, 3, 6 + 0.6 * radius), (radius, radius, radius))
            self._paint(np.minimum(lesion, tibia - _CORTEX_MM), _LESION, softness=2)

    def _ellipse(self, centre: _Point, axes: _Point) -> np.ndarray:
        """Return the approximate depth (mm) of each pixel within an ellipsoid."""
        cx, cy, cz = centre
        ax, ay, az = axes
        far = np.sqrt(
            np.float32(((self.x - cx) / ax) ** 2)
            + np.square((self.y - np.float32(cy)) / np.float32(ay))
            + np.square((self.z - np.float32(cz)) / np.float32(az))
        )
        return (1 - far) * np.float32(min(axes))

    def _paint(self, within: np.ndarray, value: float | np.ndarray, softness: float = 1) -> None:
        weight = within / np.float32(self.edge * softness) + np.float32(0.5)
        np.clip(weight, 0, 1, out=weight)
        self.picture += weight * (value - self.picture)


def _centres(count: int, extent: float) -> np.ndarray:
    return ((np.arange(count, dtype=np.float32) + 0.5) / count - 0.5) * np.float32(extent)


def _frontal(outline: np.ndarray, z: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the depth (mm) of points of the frontal plane in a closed outline [n, 2], [z, x]."""
    half = np.array([FIELD_MM[2] / 2 + 8, FIELD_MM[0] / 2 + 8])
    size = np.ceil(2 * half / _RASTER_MM).astype(int)
    mask = np.zeros(size[::-1], np.uint8)
    points = np.round(16 * ((outline + half) / _RASTER_MM - 0.5)).astype(np.int32)
    cv2.fillPoly(mask, [points], 1, shift=4)
    inside, outside = (cv2.distanceTransform(m, cv2.DIST_L2, 5) for m in (mask, 1 - mask))
    distance = cv2.GaussianBlur((inside - outside) * np.float32(_RASTER_MM), (0, 0), 1.0)
    at_x, at_z = np.meshgrid((x + half[0]) / _RASTER_MM - 0.5, (z + half[1]) / _RASTER_MM - 0.5)
    at = at_x.astype(np.float32), at_z.astype(np.float32)
    return np.asarray(cv2.remap(distance, *at, cv2.INTER_LINEAR))


def _profile(y: np.ndarray, half: np.ndarray, radius: float) -> np.ndarray:
    """Return the mm that an edge of `radius` takes from a bone of half thickness `half`."""
    ratio = np.abs(y) / half
    edge = radius * (1 - np.sqrt(1 - np.minimum(ratio, 1) ** 2))
    return (edge + 1.5 * np.maximum(ratio - 1, 0) * half).astype(np.float32)


def _sagittal_femur(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    # Condyles reach to the back of the shaft, which is half as thick.
    near = 1 / (1 + np.exp(-(z + 34) / 5))
    return _profile(y - 5 * near + 2, 14 + 15 * near, 21)


def _sagittal_tibia(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    near = 1 / (1 + np.exp((z - 26) / 8))
    return _profile(y - 3 * near, 14 + 10 * near, 5)


def _shading(
    z: np.ndarray, y: np.ndarray, scanner: Scanner, rng: np.random.Generator
) -> np.ndarray:
    """Return the sensitivity of the coil over a slice: a smooth factor of about 1."""
    u, v = z / np.float32(70), y / np.float32(70)
    a, b, c, d = (scanner.shading * rng.standard_normal(4)).astype(np.float32)
    return np.exp(a * u + b * v + c * u * v - np.abs(d) * (u**2 + v**2))
