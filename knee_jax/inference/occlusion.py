"""Metal, black borders and patches on a knee's joint, and bones that are dark as in a negative."""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np

from knee_jax.inference.found import JOINT, Found, Square, square_about
from knee_jax.landmarks import FEMUR, TIBIA

METAL, BLACK = 0.97, 0.02
"""Brightness, of white, from which a patch is metal, and up to which nothing was exposed there."""

WASHED_OUT, WHITE_BONE = 0.82, 0.15
"""Median brightness of the bones, of white, and share of them that is white, from which they are
washed out and no metal. (Chosen on windows of `phantom.windows`, seed 77.)
"""

EVEN_WIDTH, LEAST_RANGE, ABRUPT, WITHIN_BONE = 0.12, 40, 60, 0.95
"""Least width of a patch of one grey value, in widths of the plateau, that covers what is below it;
range of grey values, from the 5th percentile to the 95th, from which such patches are looked for;
difference of grey values from which a black or white patch ends abruptly, and share of it within
the bones from which it is bone itself.
"""

METAL_WIDTH, BLACK_WIDTH, MARGIN = 0.045, 0.15, 0.018
"""Least widths of such patches, wider than lines of bone and than joint spaces, and how far off
metal a landmark may lie to be on it; in widths of the plateau.
"""

PIXELS = 260
"""Side of the window about a knee in which patches and rims are looked at."""

RIM = 0.05
"""Width of the rims along a bone's outline that are compared, in widths of the plateau."""


def bone_contrast(picture: np.ndarray, knee: Found) -> float:
    """Return how much brighter the bones are than what borders on them, below 0 in a negative.

    It is the difference of the medians of two rims along their outlines, in standard deviations of
    the window about the knee.

    Args:
        picture: Grey picture, uint8 [height, width].
        knee: Knee in it.
    """
    window, bones, width = _about(picture, knee)
    disc = _disc(2 * RIM * width)
    inner = np.zeros(window.shape, bool)
    outer = np.zeros(window.shape, bool)
    for bone in bones:
        inner |= (bone > 0) & (cv2.erode(bone, disc) == 0)
        outer |= cv2.dilate(bone, disc) > 0
    outer &= ~(bones[0] | bones[1]).astype(bool)
    if not inner.any() or not outer.any():
        return 0.0
    difference = np.median(window[inner]) - np.median(window[outer])
    return float(difference / max(window.std(), 1e-6))


def on_patches(picture: np.ndarray, knee: Found) -> dict[str, float]:
    """Return the shares of the joint's landmarks that lie on patches of no bone.

    Args:
        picture: Grey picture, uint8 [height, width].
        knee: Knee in it.

    Returns:
        Shares by the names of the attributes of `Found`: metal, black and covered.
    """
    window, both, width = _about(picture, knee)
    inside = (both[0] | both[1]) > 0
    metal, black, covered = _patches(window, inside, width)
    shown = _window(knee).cut(np.full_like(picture, 255), PIXELS) == 255
    if not inside.any():
        return {}
    if np.median(window[inside]) > WASHED_OUT * 255 or metal[inside].mean() > WHITE_BONE:
        metal[:] = 0
    if bone_contrast(picture, knee) < 0:
        # Of a negative, what is black is bone.
        black[:] = 0
    columns, rows = _in_window(knee, list(JOINT)).astype(int).clip(0, PIXELS - 1).T
    on = {
        "metal": cv2.dilate(metal, _disc(2 * MARGIN * width)),
        "black": black,
        "covered": covered | _wide(_even_lines(window, shown), EVEN_WIDTH * width),
    }
    return {name: float(patch[rows, columns].mean()) for name, patch in on.items()}


def _window(knee: Found) -> Square:
    return dataclasses.replace(square_about(knee, 1.3), mirrored=False)


def _in_window(knee: Found, chosen: Sequence[int]) -> np.ndarray:
    """Return landmarks of a knee in pixels of the window about it, [n, 2]."""
    square = _window(knee)
    places = (knee.points[list(chosen)] - square.centre) / square.side * PIXELS + PIXELS / 2
    return np.asarray(places)


def _about(picture: np.ndarray, knee: Found) -> tuple[np.ndarray, list[np.ndarray], float]:
    """Return a window about a knee, femur and tibia in it (1 inside), and the plateau's width."""
    bones = []
    for bone in (FEMUR, TIBIA):
        mask = np.zeros((PIXELS, PIXELS), np.uint8)
        cv2.fillPoly(mask, [np.round(_in_window(knee, list(bone))).astype(np.int32)], 1)
        bones.append(mask)
    square = _window(knee)
    return square.cut(picture, PIXELS), bones, knee.width / square.side * PIXELS


def _patches(
    picture: np.ndarray, inside: np.ndarray, width: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where metal is, where nothing was exposed, and where all is of one grey value.

    Bone is mostly white in lines and specks alone; joint spaces are narrow, where they are black.

    Args:
        picture: Grey picture, uint8 [height, width].
        inside: Where bones are, bool.
        width: Width of a plateau, pixels.

    Returns:
        Masks, uint8 of 0 and 1 as the picture.
    """
    near = np.ones((5, 5), np.uint8)
    even = cv2.dilate(picture, near) == cv2.erode(picture, near)
    even &= np.ptp(np.percentile(picture, (5, 95))) >= LEAST_RANGE
    # Black and white have reasons of their own to be even, but end gradually, or with a bone, then.
    clipped = (picture <= BLACK * 255) | (picture >= METAL * 255)
    found = _wide(even & ~clipped, EVEN_WIDTH * width) | _abrupt(
        picture, _wide(even & clipped, EVEN_WIDTH * width), inside
    )
    # The rim, where a neighbour differs, belongs to the patch.
    covered = cv2.dilate(found, _disc(0.06 * width))
    return (
        _wide(picture >= METAL * 255, METAL_WIDTH * width),
        _wide(picture <= BLACK * 255, BLACK_WIDTH * width),
        covered,
    )


def _abrupt(picture: np.ndarray, mask: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return the parts of a mask that end abruptly, and not with a bone, uint8."""
    number, parts = cv2.connectedComponents(mask)
    kept = np.zeros_like(mask)
    for part in range(1, number):
        one = (parts == part).astype(np.uint8)
        rim = cv2.dilate(one, _disc(10)) - cv2.dilate(one, _disc(4))
        beside = np.abs(picture[rim > 0].astype(int) - int(np.median(picture[one > 0])))
        is_bone = inside[one > 0].mean() > WITHIN_BONE
        if len(beside) and np.median(beside) > ABRUPT and not is_bone:
            kept |= one
    return kept


def _wide(mask: np.ndarray, least: float) -> np.ndarray:
    """Return the parts of a mask that a disc of some pixels fits in, uint8."""
    return np.asarray(cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, _disc(least)))


def _even_lines(picture: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Return which whole rows and columns, as far as they are shown, are of one grey value."""
    even = np.zeros(picture.shape, np.uint8)
    rows, columns = shown.any(1), shown.any(0)
    part = picture[rows][:, columns]
    even[:, np.flatnonzero(columns)[np.ptp(part, axis=0) == 0]] = 1
    even[np.flatnonzero(rows)[np.ptp(part, axis=1) == 0]] = 1
    return even


def _disc(width: float) -> np.ndarray:
    size = 2 * round(width / 2) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))
