"""Bilateral PA fixed-flexion film: two legs before a detector, in detector counts.

Film coordinates are in mm from the upper left corner of the upper left pixel, so that pixel i has
its centre at (i + 0.5) * spacing. The patient's right knee is on the film's left.
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np

from knee_jax.phantom import render
from knee_jax.phantom.anatomy import Knee

# From the 748 real knees of Tiulpin et al. 2019 ("KNEEL"): tilt of the plateau once oriented as a
# right knee -1.0 +- 2.4 degrees (correlation of the two sides 0.5), height of the joint on the film
# 180 +- 29 mm after removing the table's padding, the two knees 182 +- 35 mm apart (28 pairs) and
# within 5 mm of the same height. Both spreads are narrowed here to keep two knees on every film.
_TILT_DEG, _TILT_SD, _TILT_SHARED = -1.0, 2.4, 0.5
_APART_MM, _APART_SD = 184.0, 26.0


@dataclasses.dataclass(frozen=True)
class Processing:
    """Processing of light into a picture; pairs are ranges, or mean and standard deviation.

    Attributes:
        scatter: Range of the share of scattered light.
        quanta: Log of the quanta that reach an unobstructed pixel of 0.17 mm, mean and standard
            deviation.
        edges: Range of the strength of edge enhancement; below 0 edges are smoothed.
        window: Range of the display window's width, relative to the film's own signal.
        gamma: Log of the exponent of the display curve, mean and standard deviation.
        grain: Standard deviation of the noise's blur, pixels.
    """

    scatter: tuple[float, float] = (0.15, 0.35)
    quanta: tuple[float, float] = (9.9, 0.3)
    edges: tuple[float, float] = (0.2, 0.7)
    window: tuple[float, float] = (0.9, 1.15)
    gamma: tuple[float, float] = (-0.02, 0.22)
    grain: float = 0.55


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Positions of the knees on the film.

    Attributes:
        rows, columns: Size of the film in pixels.
        spacing: Pixel size, mm.
        origins: Origins of the right and the left knee's frame on the film, mm, [2, 2].
        angles: Rotation of each knee's frame after mirroring, radians, clockwise.
    """

    rows: int
    columns: int
    spacing: float
    origins: np.ndarray
    angles: np.ndarray

    def frame(self, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (matrix, shift): film mm = knee mm @ matrix + shift, for side 0 right, 1 left."""
        cos, sin = np.cos(self.angles[side]), np.sin(self.angles[side])
        turn = np.array([[cos, sin], [-sin, cos]])
        return np.diag([(1, -1)[side], 1]) @ turn, self.origins[side]

    def on_film(self, side: int, points: np.ndarray) -> np.ndarray:
        """Map points [n, 2] of a knee's frame to mm on the film."""
        matrix, shift = self.frame(side)
        return points @ matrix + shift


def place(rng: np.random.Generator, rows: int, height_mm: float, aspect: float) -> Geometry:
    """Position a patient before a detector of `height_mm` and columns / rows of `aspect`."""
    spacing = round(height_mm / rows, 4)
    columns = round(rows * aspect)
    width_mm = columns * spacing
    apart = np.clip(rng.normal(_APART_MM, _APART_SD), 150, width_mm - 165)
    middle = width_mm / 2 + np.clip(rng.normal(0, 8), -10, 10)
    level = height_mm / 2 + np.clip(rng.normal(5, 22), -0.17 * height_mm, 0.17 * height_mm)
    level = level + rng.normal(0, 3.3, 2)
    shared, own = np.split(rng.standard_normal(3), [1])
    tilt = np.sqrt(_TILT_SHARED) * shared + np.sqrt(1 - _TILT_SHARED) * own
    tilt = np.radians(_TILT_DEG + _TILT_SD * tilt)
    across = middle + np.array([-0.5, 0.5]) * apart
    return Geometry(rows, columns, spacing, np.stack([across, level], -1), tilt * [1, -1])


def _legs(geometry: Geometry, h: float, shape, bulk: float, rng: np.random.Generator) -> np.ndarray:
    """Return the attenuation of the legs' soft tissue, [rows, columns].

    It is drawn at a quarter of the resolution.
    """
    small = (shape[0] // 4 + 1, shape[1] // 4 + 1)
    y = ((np.arange(small[0], dtype=np.float32) + 0.5) * 4 * h)[:, None]
    x = (np.arange(small[1], dtype=np.float32) + 0.5) * 4 * h
    total = np.zeros(small, np.float32)
    fat = rng.uniform(6, 11) * bulk**2
    for side, (centre, level) in enumerate(geometry.origins):
        up = (level - y) / 100
        # The thigh widens upwards; the calf bulges a hand's breadth below the knee.
        thigh, calf = np.maximum(up, 0), np.maximum(-up, 0)
        half = (61 + 14 * thigh + 5 * thigh**2 - 5 * calf**2 + 7 * np.sin(1.5 * calf) ** 2) * bulk
        lean = centre + (1, -1)[side] * (4 + 5 * up) - (1, -1)[side] * 2
        u = (x - lean) / half
        muscle = (x - lean) / np.maximum(half - fat, 20)
        thick = 2 * 0.95 * half
        chord = np.sqrt(np.maximum(1 - u * u, 0)) * thick
        inner = np.sqrt(np.maximum(1 - muscle * muscle, 0)) * (thick - 1.6 * fat)
        total += np.float32(0.0140) * chord + np.float32(0.0065) * inner
    # Muscles and fasciae, long and narrow.
    for wide, high, amount in ((50, 50, 0.025), (6, 60, 0.012)):
        cells = (round(geometry.rows * geometry.spacing / high) + 2, round(400 / wide))
        streaks = rng.standard_normal(cells, dtype=np.float32)
        total *= 1 + amount * cv2.resize(streaks, small[::-1], interpolation=cv2.INTER_CUBIC)
    total = cv2.GaussianBlur(total, (0, 0), 1.2)
    grown = cv2.resize(total, (small[1] * 4, small[0] * 4), interpolation=cv2.INTER_LINEAR)
    return grown[: shape[0], : shape[1]]


def expose(
    geometry: Geometry,
    knees: Sequence[Knee],
    looks: Sequence[np.random.Generator],
    rng: np.random.Generator,
    *,
    bulk: float,
    poor: bool = False,
    processing: Processing = Processing(),
) -> np.ndarray:
    """Expose a film; return it as displayed (bone bright), float32 [rows, columns] in about 0..1.

    Args:
        geometry: Geometry of the film.
        knees: Right and left knee.
        looks: Random numbers of each knee, for what stays the same over the visits.
        rng: Random numbers of this exposure.
        bulk: Relative thickness of the legs, about 1.
        poor: Whether the film is technically poor: underexposed.
        processing: Processing of the machine.
    """
    rows, columns, spacing = geometry.rows, geometry.columns, geometry.spacing
    # Anatomy is smooth at 0.3 mm; only noise needs the film's full resolution.
    factor = max(1, round(0.32 / spacing))
    shape = (-(-rows // factor), -(-columns // factor))
    h = spacing * factor
    density = _legs(geometry, h, shape, bulk, rng)
    for side, (knee, look) in enumerate(zip(knees, looks)):
        bones = render.attenuation(knee, h, look)
        matrix, shift = geometry.frame(side)
        # From pixel centres of the canvas to those of the film, both with centres at integers.
        corner = np.array([0.5 * h - render.HALF_WIDTH_MM, 0.5 * h - render.ABOVE_MM])
        offset = (corner @ matrix + shift) / h - 0.5
        affine = np.column_stack([matrix.T, offset])
        density += cv2.warpAffine(bones, affine, shape[::-1], flags=cv2.INTER_LINEAR)

    light = _transmit(density, h, processing, rng)
    # Quanta per unobstructed pixel, proportional to its area.
    quanta = (
        np.exp(rng.normal(*processing.quanta)) * (spacing / 0.17) ** 2 * (0.15 if poor else 1.0)
    )
    shown, noise = _develop(light, h, quanta, processing, rng)

    size = (shape[1] * factor, shape[0] * factor)
    film = cv2.resize(shown, size, interpolation=cv2.INTER_CUBIC)
    kernel = 2 * round(2 * processing.grain) + 1
    grain = rng.standard_normal(size[::-1], dtype=np.float32)
    grain = np.asarray(cv2.GaussianBlur(grain, (kernel, kernel), processing.grain))
    np.multiply(grain, cv2.resize(noise, size, interpolation=cv2.INTER_LINEAR), out=grain)
    film = np.add(film, grain, out=grain)
    film = film[:rows, :columns]
    _collimate(film, geometry, rng)
    return np.clip(film, 0, None, out=film)


def _blur(image: np.ndarray, sigma: float, factor: int) -> np.ndarray:
    """Apply a Gaussian blur of many pixels, on an image `factor` times smaller."""
    size = (max(1, image.shape[1] // factor), max(1, image.shape[0] // factor))
    small = cv2.GaussianBlur(
        cv2.resize(image, size, interpolation=cv2.INTER_AREA), (0, 0), max(sigma / factor, 0.1)
    )
    return cv2.resize(small, image.shape[::-1], interpolation=cv2.INTER_LINEAR)


def _transmit(
    density: np.ndarray, h: float, processing: Processing, rng: np.random.Generator
) -> np.ndarray:
    """Return the light on the detector: Beer-Lambert, heel effect along the rows, and scatter."""
    heel = rng.normal(0, 0.08) * np.linspace(-1, 1, len(density), dtype=np.float32)
    primary: np.ndarray = np.exp(-density) * (1 + heel[:, None])
    # Scatter is wide; light that passes beside the legs does not scatter.
    scatter = _blur(np.clip(primary, None, 0.5), 30 / h, max(1, round(8 / h)))
    return primary + np.float32(rng.uniform(*processing.scatter)) * scatter


def _develop(
    light: np.ndarray,
    h: float,
    quanta: float,
    processing: Processing,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Process the log of light like a vendor; return the picture and its noise's SD.

    Edges are enhanced and a display curve is applied around the bones. The noise is that of a
    Poisson count of quanta, after the logarithm and the curve.
    """
    signal = -np.log(light)
    sharp = np.float32(rng.uniform(*processing.edges))
    signal += sharp * (signal - _blur(signal, 1.5 / h, max(1, round(1.3 / h))))
    low, high = 0.15, float(np.percentile(signal[::8, ::8], 99.8))
    window = (signal - low) / np.float32(max(high - low, 0.5) * rng.uniform(*processing.window))
    window = np.clip(window, 0.001, 1.3)
    gamma = np.float32(np.exp(rng.normal(*processing.gamma)))
    shown = np.power(window, gamma)
    slope = gamma * shown / np.maximum(window, 0.02)
    noise = slope / np.sqrt(np.float32(quanta) * np.maximum(light, 1e-3))
    return shown, np.minimum(noise, 0.2)


def _collimate(film: np.ndarray, geometry: Geometry, rng: np.random.Generator) -> None:
    """Black out what the collimator hides, and add the lead letter of the right side."""
    left, right, top, bottom = (
        rng.uniform(0, [9, 9, 18, 18]) * (rng.random() < 0.6) / geometry.spacing
    ).astype(int)
    size = round(13 / geometry.spacing)
    plate = np.zeros((size, size), np.uint8)
    thick = max(1, round(1.8 / geometry.spacing))
    cv2.putText(
        plate, "R", (size // 5, 4 * size // 5), cv2.FONT_HERSHEY_SIMPLEX, size / 35, 255, thick
    )
    y, x = (edge + round(8 / geometry.spacing) for edge in (top, left))
    np.maximum(film[y : y + size, x : x + size], plate / np.float32(235),
               out=film[y : y + size, x : x + size])  # fmt: skip
    film[:top] = film[film.shape[0] - bottom :] = 0
    film[:, :left] = film[:, film.shape[1] - right :] = 0
