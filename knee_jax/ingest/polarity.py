"""Brightness of bone on a film, judged by the picture.

Headers contradict themselves and the picture. Seen along the rows, bone is where air is not: on a
film of both knees at a quarter and three quarters of the width, with air at the sides and between
the legs; on a film of one knee in the middle. The profile of a film is compared with both.
"""

import numpy as np

_MIDDLE = (0.25, 0.75)
"""Part of the rows that is looked at, as fractions of the height: the joint is in the middle."""
_COLUMNS = 64
_MARGIN = 4
"""Columns of `_COLUMNS` left out at either side: collimators and labels lie there."""
_LEAST_CONTRAST = 0.1
"""Share of the film's range by which its columns must differ."""
DECIDED = 0.3
"""Correlation from which a film's picture is believed more than a header that contradicts it."""


def brightness_of_bone(pixels: np.ndarray) -> float:
    """Compare the columns of a film with those of one or two knees.

    Args:
        pixels: Grey values [rows, columns], of a film with upright legs.

    Returns:
        Correlation of the film's profile with that of knees whose bones are bright, -1 to 1;
        negative where they are dark, 0 where nothing can be said.
    """
    low, high = (round(part * len(pixels)) for part in _MIDDLE)
    part = pixels[low : max(high, low + 1)]
    part = part[:: max(1, len(part) // 256)].astype(np.float32)
    columns = np.median(part, axis=0)
    groups = np.array_split(columns, min(_COLUMNS, len(columns)))
    profile = np.array([group.mean() for group in groups])[_MARGIN:-_MARGIN]
    if len(profile) < _MARGIN or np.ptp(profile) <= _LEAST_CONTRAST * np.ptp(part):
        return 0.0
    # Ranks: neither the tone curve nor a bright collimator counts by its size.
    ranks = profile.argsort().argsort().astype(np.float64)
    x = (np.arange(len(groups)) + 0.5)[_MARGIN:-_MARGIN] / len(groups)
    found = [_correlation(ranks, -np.cos(2 * np.pi * knees * x)) for knees in (1, 2)]
    return max(found, key=abs)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size else 0.0
