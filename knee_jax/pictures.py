"""Pictures of knees: landmarks, evidence, sides and scale, in one palette wherever they are shown.

Orange dots are lateral, and blue crosses medial: the two differ in shape, for those who cannot tell
the colours (Okabe & Ito 2008) apart, and in grey. Heat runs from dark to bright over a darkened
picture, so that brighter means more in grey as well.
"""

import base64
import functools
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from knee_jax.landmarks import compartment

Array = np.ndarray

LATERAL, MEDIAL = (230, 159, 0), (86, 180, 233)
"""Colours of the two sides of a joint, red, green, blue."""

FILM_SIDES = ("lateral", "medial")
"""Marks at the left and at the right of a film; letters would be taken for a side of the body."""

_DIM = 0.62
"""Brightness that a picture keeps under heat."""

_BAR, _FONT, _WHITE = 58, 13, (255, 255, 255)


def knee(
    image: Array,
    width: int,
    *,
    keypoints: Array | None = None,
    sides: Sequence[str] = FILM_SIDES,
    mm_per_pixel: float = float("nan"),
    brightest: int = 255,
) -> Array:
    """Draw a knee.

    Args:
        image: Image, uint8 [height, width].
        width: Width of the picture, pixels.
        keypoints: Landmarks, [74, 2], (x, y) in pixels of `image`, the centre of the first being
            0.5; NaN where unknown.
        sides: Marks at the left and the right.
        mm_per_pixel: Size of a pixel of `image`; NaN: unknown, and no scale is drawn.
        brightest: Value that is white.

    Returns:
        Picture, uint8 [rows, width, 3], red, green, blue.
    """
    picture = _enlarged(image, width, brightest)
    scale = width / image.shape[1]
    if keypoints is not None:
        draw_landmarks(picture, np.asarray(keypoints, np.float64) * scale)
    return _annotated(picture, sides, mm_per_pixel / scale)


def evidence(
    image: Array,
    heat: Array,
    width: int,
    *,
    sides: Sequence[str] = FILM_SIDES,
    mm_per_pixel: float = float("nan"),
    brightest: int = 255,
    patch: tuple[int, int] = (0, 0),
) -> Array:
    """Draw where the evidence in an image lay.

    Args:
        image: Image, uint8 [height, width].
        heat: Evidence, [rows, columns] over the same field, 0 to 1.
        width: Width of the picture, pixels.
        sides: Marks at the left and the right.
        mm_per_pixel: Size of a pixel of `image`; NaN if unknown.
        brightest: Value that is white.
        patch: Side and first row of the two patches that the network reads, pixels of `image`,
            which are framed; (0, 0): it reads all.

    Returns:
        Picture, uint8 [rows, width, 3].
    """
    grey = _enlarged(image, width, brightest)
    size = (grey.shape[1], grey.shape[0])
    large = cv2.resize(np.asarray(heat, np.float32), size, interpolation=cv2.INTER_LINEAR)
    # Resampling must not carry heat beyond the cells that have it.
    within = cv2.resize((heat > 0).astype(np.float32), size, interpolation=cv2.INTER_NEAREST)
    large = np.clip(large * within, 0, 1)[..., None]
    share = 0.8 * large**0.75
    mixed = _DIM * grey * (1 - share) + _heat_colours(large[..., 0]) * share
    picture = np.rint(mixed).astype(np.uint8)
    scale = width / image.shape[1]
    if patch[0]:
        side, top = (round(value * scale) for value in patch)
        for left in (0, width - side):
            corner = (left + side - 1, top + side - 1)
            cv2.rectangle(picture, (left, top), corner, _WHITE, 1, cv2.LINE_AA)
    return _annotated(picture, sides, mm_per_pixel / scale)


def row(panels: Sequence[tuple[str, Array]], *, bar: bool = False) -> Array:
    """Put pictures of equal height side by side, each under its title.

    Args:
        panels: Title and picture of each.
        bar: Whether the colours of heat follow at the right, from none to the strongest.

    Returns:
        Picture, uint8 [rows, columns, 3].
    """
    gap, head = 4, _FONT + 7
    height = max(picture.shape[0] for _, picture in panels)
    columns = sum(picture.shape[1] + gap for _, picture in panels) - gap
    sheet = Image.new("RGB", (columns + (_BAR if bar else 0), head + height))
    draw, left = ImageDraw.Draw(sheet), 0
    for title, picture in panels:
        sheet.paste(Image.fromarray(picture), (left, head))
        draw.text((left + 3, 2), _fitted(title, picture.shape[1] - 4), _WHITE, _font(_FONT))
        left += picture.shape[1] + gap
    if bar:
        top, length = head + 16, height - 34
        ramp = np.repeat(np.linspace(1, 0, length)[:, None], 12, 1)
        sheet.paste(Image.fromarray(np.rint(_heat_colours(ramp)).astype(np.uint8)), (left + 4, top))
        for y, words in ((top, "most"), (top + length, "none")):
            draw.text((left + 20, y), words, _WHITE, _font(11), anchor="lm")
    return np.asarray(sheet)


def bars(
    values: Array, marked: Array, groups: Sequence[tuple[int, str]], size: tuple[int, int]
) -> Array:
    """Draw a bar for each value; those of `marked` are orange, the others grey.

    Args:
        values: Values, float [n], 0 or more.
        marked: Whether each is marked, bool [n].
        groups: Number of values of each group, from the left, and the words below it.
        size: Width and height of the picture, pixels.

    Returns:
        Picture, uint8 [height, width, 3].
    """
    width, height = size
    floor, top = height - 34, 18
    sheet = Image.new("RGB", size)
    draw = ImageDraw.Draw(sheet)
    edges = np.linspace(4, width - 4, len(values) + 1)
    highest = max(float(values.max(initial=0)), 1e-9)
    for value, is_marked, left, right in zip(values, marked, edges, edges[1:]):
        y = floor - (floor - top) * float(value) / highest
        draw.rectangle((left, y, max(left, right - 1), floor), LATERAL if is_marked else (150,) * 3)
    draw.line((4, floor + 1, width - 4, floor + 1), _WHITE)
    draw.text((4, 2), f"highest {highest:.3f}", _WHITE, _font(11))
    first = 0
    for count, words in groups:
        middle = (edges[first] + edges[first + count]) / 2
        draw.text((middle, floor + 4), words, _WHITE, _font(11), anchor="ma", align="center")
        first += count
    return np.asarray(sheet)


def draw_landmarks(picture: Array, points: Array) -> None:
    """Mark landmarks, [74, 2] in pixels of a picture uint8 [rows, columns, 3], in place."""
    for index, point in enumerate(points):
        if not np.isfinite(point).all():
            continue
        x, y = (round(float(value) - 0.5) for value in point)
        if compartment(index)[-1][-1] == "m":
            cv2.line(picture, (x - 2, y - 2), (x + 2, y + 2), MEDIAL)
            cv2.line(picture, (x - 2, y + 2), (x + 2, y - 2), MEDIAL)
        else:
            cv2.circle(picture, (x, y), 2, LATERAL, -1)


def data_uri(picture: Array) -> str:
    """Return a picture as a JPEG that a page holds within itself."""
    done, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 86])
    assert done
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def _heat_colours(heat: Array) -> Array:
    """Return the colours of heat [rows, columns], 0 to 1, float [rows, columns, 3]."""
    # From purple on: the lowest colours are black.
    place = np.rint(255 * (0.25 + 0.75 * heat)).astype(np.uint8)
    return cv2.applyColorMap(place, cv2.COLORMAP_INFERNO)[..., ::-1].astype(np.float64)


def _enlarged(image: Array, width: int, brightest: int) -> Array:
    height = max(1, round(width * image.shape[0] / image.shape[1]))
    how = cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_LINEAR
    grey = cv2.resize(image, (width, height), interpolation=how)
    stretched = np.clip(np.rint(grey * (255 / max(brightest, 1))), 0, 255).astype(np.uint8)
    return np.repeat(stretched[..., None], 3, axis=-1)


def _annotated(picture: Array, sides: Sequence[str], mm_per_pixel: float) -> Array:
    """Return the picture with its sides named, and a scale where the pixel's size is known."""
    height, width = picture.shape[:2]
    sheet = Image.fromarray(picture)
    draw = ImageDraw.Draw(sheet)

    def write(x: float, y: float, words: str, anchor: str) -> None:
        draw.text(
            (x, y), words, _WHITE, _font(_FONT + 1), anchor, stroke_width=2, stroke_fill="black"
        )

    write(5, height - 6, sides[0], "ls")
    write(width - 5, height - 6, sides[1], "rs")
    if np.isfinite(mm_per_pixel):
        # The longest of these that takes no more than two fifths of the width.
        fitting = [mm for mm in (50, 20, 10, 5, 2, 1) if mm / mm_per_pixel <= 0.4 * width]
        length = fitting[0] if fitting else 1
        half = length / mm_per_pixel / 2
        ends = (width / 2 - half, height - 7, width / 2 + half, height - 7)
        draw.line(ends, "black", 5)
        draw.line(ends, "white", 2)
        write(width / 2, height - 11, f"{length} mm", "ms")
    return np.asarray(sheet)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _fitted(text: str, width: int) -> str:
    """Return the text, shortened where it is wider than so many pixels."""
    if _font(_FONT).getlength(text) <= width:
        return text
    while text and _font(_FONT).getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
