"""The letter R or L of lead on a film, and whether it is seen mirrored.

Strokes that are brighter than what surrounds them are compared with letters and digits of several
fonts, as they are and mirrored, and what resembles an R or an L alone is one. Letters of a word say
nothing of a side and are left out.
"""

import dataclasses
import functools
import string
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from knee_jax.errors import UnusableKnee
from knee_jax.inference.found import Found
from knee_jax.landmarks import SIDE_WORDS

PIXEL_MM = 0.4
"""Pixel size at which letters are looked for, mm."""

HEIGHTS_MM, STROKE_MM = (4.0, 28.0), 7.0
"""Heights of letters, and the width up to which something bright is a stroke, mm."""

CONTRAST = 64
"""Grey values by which a stroke is brighter than what surrounds it."""

LEAST_LIKE, LEAST_APART = {"R": 0.7, "L": 0.9}, 0.1
"""Least correlation with an R or an L, which is but two strokes, and least amount by which that
exceeds the one with any other character. On 2,271 real crops, which show no letter,
one mirrored L was found.
"""

NEAR, CLEARLY = 1.75, 0.5
"""Distance across a film, in widths of the plateau, up to which a letter belongs to its only knee,
for that of a knee which was not found says nothing; and the largest share of the distance to the
other knee at which a letter between two belongs to one.
"""

MOST_MARKS, MOST_PIXELS = 400, 2**23
"""Number of marks, and of pixels, from which on no letter is looked for."""

_BOX = (20, 28)
"""Width and height of the pictures of letters that are compared, pixels."""

_ANGLES = (-12.0, -6.0, 0.0, 6.0, 12.0)


@dataclasses.dataclass(frozen=True)
class Letter:
    """Letter on a film.

    Attributes:
        name: 'R' or 'L'.
        mirrored: Whether it is seen mirrored.
        x: Place of its middle, as a share of the film's width.
    """

    name: str
    mirrored: bool
    x: float


def check(picture: np.ndarray, spacing_mm: tuple[float, float], knees: Sequence[Found]) -> None:
    """Compare the letters on a film with the sides of its knees.

    A letter is held against the knee that it clearly lies beside. Nothing is said where there is
    none, or one agrees. A mirrored letter at a knee of its side was laid face down.

    Args:
        picture: Film, uint8 [height, width], bones bright.
        spacing_mm: Width and height of its pixels, mm.
        knees: Its knees, one or two, in pixels of the picture.

    Raises:
        UnusableKnee: mirrored_film or letter_mismatch.
    """
    width = picture.shape[1]
    pairs = [
        (letter, knee)
        for letter in read(picture, spacing_mm)
        if (knee := _knee_of(letter.x * width, knees)) is not None
    ]
    if not pairs or any(letter.name == knee.looks for letter, knee in pairs):
        return
    name, looks = pairs[0][0].name, SIDE_WORDS[pairs[0][1].looks]
    if all(letter.mirrored for letter, _ in pairs):
        raise UnusableKnee(
            "mirrored_film", f"its letter {name} is mirrored: left and right are swapped; flip it"
        )
    raise UnusableKnee(
        "letter_mismatch",
        f"the letter {name} is beside what appears to be the {looks} knee; flip the film, or black "
        "out the letter if it is wrong",
    )


def _knee_of(x: float, knees: Sequence[Found]) -> Found | None:
    """Return the knee that a letter at `x` belongs to, None if it is clearly of none."""
    middles = [float(knee.points[:, 0].mean()) for knee in knees]
    away = [abs(middle - x) / knee.width for middle, knee in zip(middles, knees, strict=True)]
    nearest = int(np.argmin(away))
    if len(knees) == 1:
        return knees[0] if away[0] < NEAR else None
    is_between = min(middles) < x < max(middles)
    if is_between and away[nearest] > CLEARLY * away[1 - nearest]:
        return None
    return knees[nearest]


def read(picture: np.ndarray, spacing_mm: tuple[float, float]) -> list[Letter]:
    """Return the letters R and L that stand alone on a film.

    Args:
        picture: Film, uint8 [height, width], bones bright.
        spacing_mm: Width and height of its pixels, mm.
    """
    height, width = picture.shape
    size = [max(8, round(n * s / PIXEL_MM)) for n, s in zip((width, height), spacing_mm)]
    if size[0] * size[1] > MOST_PIXELS:
        return []
    picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (round(STROKE_MM / PIXEL_MM),) * 2)
    raised = cv2.morphologyEx(picture, cv2.MORPH_TOPHAT, disc)
    marks, boxes = _marks(raised > CONTRAST)
    faint, all_boxes = _marks(raised > CONTRAST / 2)
    low, high = (each / PIXEL_MM for each in HEIGHTS_MM)
    others = [box for box in all_boxes if max(box.height, box.width) >= low / 2]
    boxes = [box for box in boxes if low <= box.height <= high and _is_letter(box)]
    if max(len(others), len(boxes)) > MOST_MARKS:
        return []
    found = []
    for box in boxes:
        place = np.s_[box.top : box.top + box.height, box.left : box.left + box.width]
        is_mark = marks[place] == box.number
        whole = all_boxes[int(faint[place][is_mark][0]) - 1]
        # Letters of a word may touch, or be lost, where they are faint.
        if max(whole.height, whole.width) > 1.4 * box.height:
            continue
        if any(_stands_beside(box, other) for other in others if other != whole):
            continue
        name, mirrored = _closest(_cut_out(np.where(is_mark, raised[place], 0)))
        if name in LEAST_LIKE:
            found.append(Letter(name, mirrored, (box.left + box.width / 2) / size[0]))
    return found


class _Box(NamedTuple):
    """A mark, its bounding box and the pixels that it fills of it."""

    number: int
    left: int
    top: int
    width: int
    height: int
    area: int


def _marks(mask: np.ndarray) -> tuple[np.ndarray, list[_Box]]:
    """Return the number of the mark at each pixel, 0 for none, and the box of each mark."""
    _, marks, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    return marks, [_Box(i, *map(int, stats[i])) for i in range(1, len(stats))]


def _is_letter(box: _Box) -> bool:
    """Return whether a mark has the shape of a letter."""
    share = box.area / (box.width * box.height)
    return 0.35 <= box.width / box.height <= 1.2 and 0.12 <= share <= 0.9


def _stands_beside(box: _Box, other: _Box) -> bool:
    """Return whether two marks of like size stand side by side, or one below the other."""
    across = _gap_and_overlap(box.left, box.width, other.left, other.width)
    along = _gap_and_overlap(box.top, box.height, other.top, other.height)
    in_line = any(
        gap < 1.5 * box.height and overlap > 0
        for (gap, _), (_, overlap) in ((across, along), (along, across))
    )
    sizes = max(box.height, box.width), max(other.height, other.width)
    return in_line and 0.5 < sizes[1] / sizes[0] < 2


def _gap_and_overlap(start: int, size: int, other: int, other_size: int) -> tuple[int, float]:
    """Return what lies between two stretches, and what they share beyond half of the smaller."""
    gap = max(other - start - size, start - other - other_size)
    return gap, -gap - 0.5 * min(size, other_size)


def _closest(mark: np.ndarray) -> tuple[str, bool]:
    """Return the character that a mark resembles, '' if none clearly, and if it is mirrored."""
    templates, kinds = _templates()
    likeness = templates @ _normalised(mark)
    of_kinds = likeness.max(1)
    second, best = map(int, np.argsort(of_kinds)[-2:])
    name = kinds[best][0]
    is_like = of_kinds[best] >= LEAST_LIKE.get(name, 1.0)
    if not is_like or of_kinds[best] - of_kinds[second] < LEAST_APART:
        return "", False
    return kinds[best]


def _normalised(mark: np.ndarray) -> np.ndarray:
    """Return a letter's picture stretched to one size, of mean 0 and norm 1, float32 [pixels]."""
    how = cv2.INTER_AREA if mark.shape[0] > _BOX[1] else cv2.INTER_LINEAR
    small = cv2.resize(mark, _BOX, interpolation=how).astype(np.float32)
    shown = np.asarray(cv2.GaussianBlur(small, (0, 0), 1.0), np.float64).ravel()
    shown -= shown.mean()
    return np.asarray(shown / max(float(np.linalg.norm(shown)), 1e-6))


@functools.cache
def _templates() -> tuple[np.ndarray, list[tuple[str, bool]]]:
    """Return letters and digits of several fonts, [kinds, variants, pixels], and the kinds."""
    kinds, every = [], []
    for name in string.ascii_uppercase + string.digits:
        drawn = [_turned(glyph, angle) for glyph in _glyphs(name) for angle in _ANGLES]
        for mirrored in (False, True):
            variants = [_normalised(each[:, ::-1] if mirrored else each) for each in drawn]
            kinds.append((name, mirrored))
            every.append(np.stack(variants))
    return np.stack(every), kinds


def _glyphs(name: str) -> Iterator[np.ndarray]:
    """Draw a character in several fonts and weights, uint8."""
    for strokes in (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX):
        for thick in (2, 5, 7):
            canvas = np.zeros((80, 80), np.uint8)
            cv2.putText(canvas, name, (20, 60), strokes, 1.7, 255, thick, cv2.LINE_AA)
            yield canvas
    font = PIL.ImageFont.load_default(50)
    for thick in (0, 2, 3):
        page = PIL.Image.new("L", (80, 80))
        PIL.ImageDraw.Draw(page).text((20, 10), name, 255, font, stroke_width=thick)
        yield np.asarray(page)


def _turned(glyph: np.ndarray, angle: float) -> np.ndarray:
    """Turn a character by some degrees, and cut it out."""
    middle = (glyph.shape[1] / 2, glyph.shape[0] / 2)
    matrix = cv2.getRotationMatrix2D(middle, angle, 1.0)
    return _cut_out(cv2.warpAffine(glyph, matrix, glyph.shape[::-1]))


def _cut_out(mark: np.ndarray) -> np.ndarray:
    """Cut a mark out where it has half of its brightness."""
    rows, columns = np.nonzero(mark > mark.max() / 2)
    return mark[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
