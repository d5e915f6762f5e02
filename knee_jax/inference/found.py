"""A knee found in a picture, and the square windows through which pictures are looked at."""

import dataclasses
from typing import Any

import cv2
import numpy as np

from knee_jax.errors import UnusableKnee
from knee_jax.landmarks import CONDYLES, PLATEAU

JOINT = (*CONDYLES, *PLATEAU)

MOST_ON_PATCHES = 0.25
"""Largest share of the joint's landmarks that may lie on metal, or where nothing was exposed. Of
phantom knees with half a prosthesis 30 % and more lie on metal, of those with screws or nails
beside the joint none; of 826 crops of real knees 13 % at most, and of the 250 that have most black
13 % at most lie on that.
"""

MOST_COVERED = 0.09
"""Largest share of the joint's landmarks that may lie under patches of one grey value. Of 826 real
crops none does, nor of 60 of them as JPEG of quality 20, blurred, enlarged, shrunk, and with other
gammas (but on 11 of 64 if the contrast is stretched 2.5 times, so that much is clipped); where a
half, a third or the middle is covered 20 % and more of the landmarks lie under it, where the upper
half is, 10 % and more.
"""

WINDOW_GRID, POINT_GRID = 1 / 4, 1 / 16
"""Grid of windows and of the landmarks in the end, pixels of the picture: what batches of other
sizes or other processors round differently, some 1e-4 pixels, is seldom seen beyond it.
"""


@dataclasses.dataclass(frozen=True)
class Square:
    """Square window of a picture.

    Attributes:
        centre: Middle, (x, y) in pixels of the picture, the first pixel's centre at 0.5.
        side: Side, pixels of the picture.
        mirrored: Whether it is looked at mirrored.
    """

    centre: tuple[float, float]
    side: float
    mirrored: bool

    def cut(self, picture: np.ndarray, pixels: int) -> np.ndarray:
        """Return the window, uint8 [pixels, pixels], black beyond the picture."""
        scale = self.side / pixels
        # Shrunk by means over areas first, so that fine grain does not alias.
        factor = max(1, min(int(scale), *picture.shape))
        if factor > 1:
            height, width = (size // factor * factor for size in picture.shape)
            size = (width // factor, height // factor)
            picture = cv2.resize(picture[:height, :width], size, interpolation=cv2.INTER_AREA)
        # OpenCV counts from the first pixel's centre.
        matrix = self._matrix(pixels)
        matrix[:, 2] += matrix[:, :2].sum(1) * 0.5
        matrix /= factor
        matrix[:, 2] -= 0.5
        how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.asarray(cv2.warpAffine(picture, matrix, (pixels, pixels), flags=how))

    def _matrix(self, pixels: int) -> np.ndarray:
        """Return the map from pixels of the window to those of the picture, [2, 3]."""
        scale = self.side / pixels
        across = -scale if self.mirrored else scale
        x, y = self.centre
        return np.array(
            [[across, 0, x - across * pixels / 2], [0, scale, y - scale * pixels / 2]], np.float64
        )

    def to_picture(self, shares: np.ndarray) -> np.ndarray:
        """Map points [..., 2], as shares of the window's side, to pixels of the picture."""
        matrix = self._matrix(1)
        return np.asarray(shares @ matrix[:, :2].T + matrix[:, 2])


@dataclasses.dataclass(frozen=True)
class Found:
    """Knee found in a picture.

    Attributes:
        points: Landmarks in pixels of the picture, float64 [74, 2].
        errors: Error to be expected of each, pixels, float64 [74].
        looks: 'R' or 'L', the side that it looks like: fibula at the picture's left or right.
        probability: Probability that an upright knee is shown.
        side_probability: Probability that it is one of that look, if it is one.
        metal: Share of the joint's landmarks that lie on metal, as those of a prosthesis do.
        black: Share of them that lie where nothing was exposed.
        covered: Share of them that lie under a patch of one grey value.
    """

    points: np.ndarray
    errors: np.ndarray
    looks: str
    probability: float
    side_probability: float = 1.0
    metal: float = 0.0
    black: float = 0.0
    covered: float = 0.0

    @property
    def width(self) -> float:
        """Width of the plateau, pixels."""
        return float(np.linalg.norm(self.points[PLATEAU[-1]] - self.points[PLATEAU[0]]))

    @property
    def problem(self) -> UnusableKnee | None:
        """Why it cannot be used although it was found, None if it can."""
        if self.metal > MOST_ON_PATCHES:
            return UnusableKnee("replaced_joint", "metal lies on the joint's surfaces, no bone")
        if self.black > MOST_ON_PATCHES:
            return UnusableKnee("joint_cut_off", "a part of the joint is black, as if not exposed")
        if self.covered > MOST_COVERED:
            return UnusableKnee("joint_covered", "a patch of one grey value covers the joint")
        return None

    @property
    def error(self) -> float:
        """Mean expected error of the joint's landmarks, in widths of the plateau."""
        return float(self.errors[list(JOINT)].mean() / max(self.width, 1e-6))


def square_about(knee: Found, zoom: float) -> Square:
    """Return the window about a knee, of `zoom` widths of its plateau."""
    x, y = on_grid(knee.points[list(JOINT)].mean(0), WINDOW_GRID)
    side = float(on_grid(zoom * max(knee.width, 8.0), WINDOW_GRID))
    return Square((float(x), float(y)), side, knee.looks == "L")


def on_grid(values: Any, grid: float) -> Any:
    """Round to multiples of `grid`."""
    return np.round(np.asarray(values) / grid) * grid
