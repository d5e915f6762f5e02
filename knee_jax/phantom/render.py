"""X-ray attenuation of the phantom's bones: line integrals from projected thickness.

A bone is a solid of rounded cross-section inside its outline: a cortical shell around trabecular
bone. Rays that graze the shell pass through the most cortex, so that outlines are bright.
"""

import cv2
import numpy as np

from knee_jax.landmarks import CONDYLES, PLATEAU
from knee_jax.phantom.anatomy import Knee

# Linear attenuation beyond that of the displaced soft tissue, per mm, near 60 keV.
CORTICAL, TRABECULAR = 0.040, 0.0152
HALF_WIDTH_MM, ABOVE_MM, BELOW_MM = 64.0, 250.0, 250.0
"""Extent of the raster around the knee's origin, mm."""
_GRAIN_MM = 105.0
"""Extent of spongy bone from the joint, mm."""
_LINE_MM, _LINE_TOP = 0.75, 0.2
"""Width (standard deviation) of the inner lines, mm, and the maximum attenuation of a line."""


class Band:
    """Rows of the knee's raster between two heights, in which one structure is drawn."""

    def __init__(self, spacing: float, top: float, bottom: float):
        self.spacing = spacing
        first, last = (round((y + ABOVE_MM) / spacing) for y in (top, bottom))
        self.rows = slice(first, last)
        self.shape = (last - first, round(2 * HALF_WIDTH_MM / spacing))
        rows = np.arange(first, last, dtype=np.float32)[:, None]
        self.y = (rows + 0.5) * np.float32(spacing) - np.float32(ABOVE_MM)
        columns = np.arange(self.shape[1], dtype=np.float32)
        self.x = (columns + 0.5) * np.float32(spacing) - np.float32(HALF_WIDTH_MM)

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Return points in mm [n, 2] for cv2: pixel centres at integers, 4 fractional bits."""
        corner = (HALF_WIDTH_MM, ABOVE_MM - self.rows.start * self.spacing)
        return np.round(16 * ((points + corner) / self.spacing - 0.5)).astype(np.int32)

    def depth(self, outline: np.ndarray) -> np.ndarray:
        """Return the distance in mm from the edge of a closed outline [n, 2] in mm, 0 outside."""
        mask = np.zeros(self.shape, np.uint8)
        cv2.fillPoly(mask, [self.pixels(outline)], 1, shift=4)
        # The mask's steps are smoothed; half a pixel lies between centre and edge.
        distance = cv2.GaussianBlur(cv2.distanceTransform(mask, cv2.DIST_L2, 5), (5, 5), 0.8)
        return np.maximum(distance - np.float32(0.4), 0) * np.float32(self.spacing)


def _chord(depth: np.ndarray, radius: float, half: float) -> np.ndarray:
    """Return the half thickness `depth` mm from the edge: elliptic up to `radius`, then flat."""
    rest = 1 - np.minimum(depth * np.float32(1 / radius), 1)
    return np.float32(half) * cv2.sqrt(1 - rest * rest)


def _bone(depth, radius: float, half: float, shell, grain) -> np.ndarray:
    """Return a bone's attenuation from depth map, edge radius, half thickness and cortex (mm)."""
    outer = _chord(depth, radius, half)
    inner = _chord(np.maximum(depth - shell, 0), radius, half)
    return np.float32(2 * CORTICAL) * (outer - inner) + np.float32(2 * TRABECULAR) * inner * grain


def attenuation(knee: Knee, spacing: float, rng: np.random.Generator) -> np.ndarray:
    """Integrate the bones' attenuation over that of soft tissue, [rows, columns] float32.

    Args:
        knee: Knee in its own frame.
        spacing: Pixel size of the raster, mm; the knee's origin lies ABOVE_MM below and
            HALF_WIDTH_MM right of the raster's corner.
        rng: Random numbers of the knee, for the grain of its spongy bone.
    """
    look = knee.character
    raster = Band(spacing, -ABOVE_MM, BELOW_MM)
    grain = np.ones(raster.shape, np.float32)
    spongy = Band(spacing, -_GRAIN_MM, _GRAIN_MM)
    fade = np.clip((_GRAIN_MM - np.abs(spongy.y)) / 45, 0, 1)
    grain[spongy.rows] += 0.12 * np.float32(np.exp(0.2 * look[8])) * fade * _trabeculae(spongy, rng)
    # Cortex: half a millimetre about the joint, several in the shafts.
    far = np.clip((np.abs(raster.y) / knee.width - 0.5) / 0.9, 0, 1)
    shell = 0.45 + 4.2 * far

    total = np.zeros(raster.shape, np.float32)
    # The patella lies behind the femur on a PA film, the head of the fibula behind the tibia.
    for outline, top, bottom, radius, half, window in (
        (knee.femur, -ABOVE_MM, 30, 15, 23, CONDYLES),
        (knee.tibia, -45, BELOW_MM, 13, 21, PLATEAU),
        (_patella(knee), -95, 10, 12, 5, None),
        (_fibula(knee), 0, BELOW_MM, 5, 8.5, None),
    ):
        band = Band(spacing, top, bottom)
        depth = band.depth(outline)
        total[band.rows] += _bone(depth, radius, half, shell[band.rows], grain[band.rows])
        if window is not None:
            joint = Band(spacing, -45, 30)
            part = depth[joint.rows.start - band.rows.start :][: joint.shape[0]]
            total[joint.rows] += _subchondral(joint, knee, part, window)
    inner = Band(spacing, -90, 60)
    total[inner.rows] += _inner_lines(inner, knee)
    total *= np.float32(np.exp(0.12 * look[9]))
    if knee.replaced:
        total[inner.rows] += _prosthesis(inner, knee)
    return total


def _prosthesis(band: Band, knee: Knee) -> np.ndarray:
    """Draw the metal of a total knee: a shield on the condyles, a tray with a stem in the tibia."""
    w = knee.width
    shield = knee.landmarks[list(CONDYLES)] - [0, 2]
    outline = np.concatenate([shield, shield[::-1] * [0.96, 0.3] - [0, 24]])
    tray = np.array([(-0.47, 0.02), (0.47, 0.02), (0.47, 0.08), (0.1, 0.08), (0.06, 0.5),
                     (-0.06, 0.5), (-0.1, 0.08), (-0.47, 0.08)]) * w  # fmt: skip
    metal = np.zeros(band.shape, np.uint8)
    for part in (outline, tray):
        cv2.fillPoly(metal, [band.pixels(part)], 255, cv2.LINE_AA, shift=4)
    return metal * np.float32(2.5 / 255)


def _trabeculae(band: Band, rng: np.random.Generator) -> np.ndarray:
    """Draw the texture of spongy bone, of SD about 1: vertical and cross struts over patches."""
    total = np.zeros(band.shape, np.float32)
    # Cells of noise, their width and height in mm, enlarged to the raster.
    for wide, high, weight in ((0.3, 2.4, 0.75), (1.4, 0.4, 0.5), (4, 4, 0.35), (11, 11, 0.55)):
        cells = [
            max(2, round(side * band.spacing / max(cell, band.spacing)))
            for side, cell in zip(band.shape, (high, wide))
        ]
        noise = rng.standard_normal(cells, dtype=np.float32)
        total += np.float32(weight) * cv2.resize(noise, band.shape[::-1])
    return total


def _patella(knee: Knee) -> np.ndarray:
    """Return the closed outline of the patella in mm."""
    centre, axes = knee.patella
    angle = np.linspace(0, 2 * np.pi, 90)
    a, b = knee.character[:2]
    pear = 1 + 0.06 * np.cos(2 * angle + a) + 0.05 * np.cos(3 * angle + b)
    return centre + axes * pear[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)


def _fibula(knee: Knee) -> np.ndarray:
    """Return the closed outline of the upper fibula in mm."""
    (x, y), (a, b) = knee.fibula
    angle = np.linspace(np.pi, 2 * np.pi, 30)
    head = np.stack([x + a * np.cos(angle), y + b * np.sin(angle)], -1)
    w = knee.width
    right = [(x + 0.95 * a, y + 0.5 * b), (x + 0.45 * a, y + 0.32 * w), (x + 0.35 * a, y + 4 * w)]
    left = [(x - 0.65 * a, y + 4 * w), (x - 0.6 * a, y + 0.32 * w), (x - 0.95 * a, y + 0.5 * b)]
    return np.concatenate([head, right, left])


def _subchondral(band: Band, knee: Knee, depth: np.ndarray, window: range) -> np.ndarray:
    """Draw the bright plate under a joint surface, thicker (sclerosis) with less joint space."""
    x = band.x / knee.width
    lateral = np.exp(-0.5 * ((x + 0.29) / 0.13) ** 2)
    medial = np.exp(-0.5 * ((x - 0.29) / 0.12) ** 2)
    lost = np.clip((knee.lost - 0.15) / 0.85, 0, 1)
    sclerosis = lost[0] * lateral + lost[1] * medial
    strength = (0.35 + 0.45 * lateral + 0.6 * medial + 1.1 * sclerosis) * (np.abs(x) < 0.52)
    thick = (1.3 + 3.0 * sclerosis).astype(np.float32)
    surface = knee.landmarks[list(window)]
    height = np.interp(band.x, *surface[np.argsort(surface[:, 0])].T).astype(np.float32)
    below = band.y - height if window == PLATEAU else height - band.y
    near = (depth > 0) & (below > -1) & (below < 0.2 * knee.width)
    plate = cv2.exp(-np.square(depth / thick)) * near
    return (0.55 if window == PLATEAU else 0.24) * strength.astype(np.float32) * plate


def _inner_lines(band: Band, knee: Knee) -> np.ndarray:
    """Draw faint edges inside the silhouettes: far rims, notch walls, growth-plate scars."""
    w, look, landmarks = knee.width, knee.character, knee.landmarks
    t = np.linspace(0, 1, 16)[:, None]
    lines = []
    # The front rim of each plateau projects a few mm below the back one.
    for first, last, sag in ((47, 54, 3 + look[2]), (56, 63, 3.5 + look[3])):
        rim = landmarks[first : last + 1]
        lift = np.sin(np.linspace(0.15, np.pi - 0.15, len(rim)))[:, None]
        lines.append((0.17, rim + [0, max(sag, 1.0)] * lift))
    # Walls of the intercondylar notch continue above its roof, the spines' flanks below theirs.
    for index, lean, length, amount in (
        (16, -0.02, -0.26, 0.09),
        (20, 0.03, -0.28, 0.13),
        (53, 0.05, 0.13, 0.07),
        (57, -0.06, 0.13, 0.07),
    ):
        reach = [lean * w, length * w * np.exp(0.2 * look[5])]
        lines.append((amount, landmarks[index] + t * reach + 0.02 * w * np.sin(3 * t) * [1, 0]))
    # Ridges inside the condyles' walls, and a part of the patella's rim.
    for index, inward, bend in ((10, 0.07, look[6]), (26, -0.10, look[7])):
        bow = 0.03 * w * np.sin(4 * t + bend) * [1, 0]
        lines.append((0.11, landmarks[index] + t * [inward * w, -0.33 * w] + bow))
    lines.append((0.08, np.roll(_patella(knee), int(20 * look[4]), axis=0)[:40]))
    # Growth-plate scars.
    for level, a, b in ((-0.48, *look[4:6]), (0.20, *look[10:12])):
        x = np.linspace(-0.36 + 0.12 * abs(a), 0.36 - 0.12 * abs(b), 40)
        y = level + 0.03 * a + 0.02 * np.sin(7 * x + 3 * b) - np.sign(level) * 0.2 * x**2
        lines.append((0.05, np.stack([x, y], -1) * w))

    image = np.zeros(band.shape, np.uint8)
    for amount, points in lines:
        value = round(255 * amount / _LINE_TOP)
        cv2.polylines(image, [band.pixels(points)], False, value, 1, cv2.LINE_AA, shift=4)
    sigma = max(_LINE_MM / band.spacing, 0.5)
    blurred = cv2.GaussianBlur(image.astype(np.float32), (0, 0), sigma)
    return blurred * np.float32(sigma * np.sqrt(2 * np.pi) * _LINE_TOP / 255)
