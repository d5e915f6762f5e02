"""Region of interest of one knee, oriented as a right knee, from film and landmarks.

Tiulpin's pipeline (KNEEL, DeepKnee, and the preprocessing of papers 000 and 001): clip at
percentiles 5 and 99 of the whole film, a square of 140 mm about the middle of the tibial plateau,
the plateau horizontal, left knees mirrored. Rotation, mirroring, crop and scale are one affine map
about the centre of the ROI, so that the joint stays in its middle.
"""

import dataclasses
import math

import cv2
import numpy as np

from knee_jax.errors import UnusableKnee
from knee_jax.ingest.dicom import Film
from knee_jax.landmarks import PLATEAU, PLATEAU_CENTRE

PERCENTILES = (5, 99)


@dataclasses.dataclass(frozen=True)
class Roi:
    """Square region of interest.

    Attributes:
        size_mm: Side of the square, mm.
        pixels: Side of the result, pixels.
        level_plateau: Whether to rotate the line from landmark 47 to 63 to the horizontal.
        rise_mm: Height of the middle of the square above that of the tibial plateau, mm.
    """

    size_mm: float = 140.0
    pixels: int = 350
    level_plateau: bool = True
    rise_mm: float = 0.0

    @property
    def spacing_mm(self) -> float:
        """Pixel size of the result, mm."""
        return self.size_mm / self.pixels


def cut_roi(
    film: Film, window: tuple[float, float], landmarks_mm: np.ndarray, side: str, roi: Roi
) -> tuple[np.ndarray, np.ndarray]:
    """Cut one knee out of its film.

    Args:
        film: Radiograph.
        window: Grey values that become 0 and 255 (`intensity_window`).
        landmarks_mm: Landmarks on the film, float [74, 2], (x, y) in mm from its upper left corner;
            NaN where unknown.
        side: 'L' or 'R'.
        roi: Region of interest.

    Returns:
        The image, uint8 [pixels, pixels], black beyond the film; and the landmarks in it, float64
        [74, 2], (x, y) in pixels, where the first pixel's centre is at 0.5; NaN where unknown.
    """
    matrix = roi_to_film(landmarks_mm, side, roi) / np.array(film.spacing_mm)[:, None]
    image = _resample(film.pixels, window, matrix, roi.pixels)
    landmarks = landmarks_mm / film.spacing_mm
    keypoints = (landmarks - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    return image, keypoints


def intensity_window(pixels: np.ndarray, padding: np.ndarray | None = None) -> tuple[float, float]:
    """Return percentiles 5 and 99 of the whole film, as published.

    Args:
        pixels: Grey values [H, W].
        padding: Pixels that are none of the film, bool [H, W]; None: there are none.

    Raises:
        UnusableKnee: flat_image, if the two are equal.
    """
    low, high = np.percentile(pixels if padding is None else pixels[~padding], PERCENTILES)
    if not low < high:
        raise UnusableKnee("flat_image", f"percentiles {PERCENTILES} are both {low:g}")
    return float(low), float(high)


def roi_to_film(landmarks_mm: np.ndarray, side: str, roi: Roi) -> np.ndarray:
    """Compute the affine map from pixels of the ROI to millimetres on the film.

    Args:
        landmarks_mm: Landmarks on the film, float [74, 2], (x, y) in mm. If the ends of the plateau
            are unknown (NaN), it is not levelled.
        side: 'L' or 'R'; a left knee is mirrored.
        roi: Region of interest.

    Returns:
        Map of columns (x, y, 1), x and y with half-pixel centres, float64 [2, 3].
    """
    mirror = np.diag([-1.0 if side == "L" else 1.0, 1.0])
    centre = landmarks_mm[PLATEAU_CENTRE] - (0.0, roi.rise_mm)
    x, y = mirror @ (landmarks_mm[PLATEAU[-1]] - landmarks_mm[PLATEAU[0]])
    angle = math.atan2(y, x) if roi.level_plateau and math.isfinite(x) else 0.0
    cos, sin = math.cos(angle), math.sin(angle)
    linear = mirror @ np.array([[cos, -sin], [sin, cos]]) * roi.spacing_mm
    return np.column_stack([linear, centre - linear @ np.full(2, roi.pixels / 2)])


def corners_on_film(landmarks_mm: np.ndarray, side: str, roi: Roi) -> np.ndarray:
    """Return the corners of the ROI on the film, clockwise from the ROI's upper left one.

    Args:
        landmarks_mm: Landmarks on the film, as of `roi_to_film`.
        side: 'L' or 'R'.
        roi: Region of interest.

    Returns:
        Corners, float64 [4, 2], (x, y) in mm.
    """
    return (roi_to_film(landmarks_mm, side, roi) @ _corners(roi.pixels)).T


def _corners(size: int) -> np.ndarray:
    """Return the corners of a square of so many pixels, columns (x, y, 1)."""
    return np.array([[0, size, size, 0], [0, 0, size, size], [1, 1, 1, 1]])


def _resample(
    pixels: np.ndarray, window: tuple[float, float], matrix: np.ndarray, size: int
) -> np.ndarray:
    """Average the film over the area of every ROI pixel.

    Every pixel of the ROI is the mean of k x k bilinear samples, which are finer than the film's
    own pixels: otherwise shrinking from 0.15 to 0.4 mm would alias the noise.
    """
    k = math.ceil(np.linalg.norm(matrix[:, :2], axis=1).max()) + 1
    low, high = window
    # Only the part of the film that the ROI touches.
    corners = matrix @ _corners(size)
    height, width = pixels.shape
    left, top = np.clip(np.floor(corners.min(axis=1)) - 2, 0, (width, height)).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(axis=1)) + 2, 0, (width, height)).astype(int)
    part = (pixels[top:bottom, left:right].astype(np.float32) - low) * (255 / (high - low))
    # From half-pixel centres to OpenCV's, which count from the first pixel's centre.
    fine = np.column_stack([matrix[:, :2] / k, matrix[:, 2] - (left, top)])
    fine[:, 2] += fine[:, :2].sum(axis=1) / 2 - 0.5
    sampled = cv2.warpAffine(
        part.clip(0, 255), fine, (size * k, size * k), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    mean = sampled.reshape(size, k, size, k).mean(axis=(1, 3))
    return np.rint(mean).astype(np.uint8)
