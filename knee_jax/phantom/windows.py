"""Windows on phantom films of widely varied look, for a network that finds landmarks on any film.

A window is a square picture: a knee, near or from afar, upright or turned, or no knee at all. What
real films may look like is covered by variation, not by likeness: exposure, contrast, sharpness,
noise, collimation, writing, soft tissue and the shape of every bone are drawn anew for each window.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from knee_jax.landmarks import CONDYLES, NUM_LANDMARKS, PLATEAU
from knee_jax.phantom import film
from knee_jax.phantom.anatomy import Knee, make_knee
from knee_jax.targets.knee_shown import LEFT, NONE, REPLACED, RIGHT, TURNED

STREAM = 20
"""Key of the random numbers of these films, which no study shares."""

_WIDE_LOOK = 1.5
"""Factor of the spread of the bones' appearance, over that of a study's knees."""

_PROCESSING = film.Processing(
    scatter=(0.05, 0.6),
    quanta=(9.6, 0.6),
    edges=(-0.5, 1.6),
    window=(0.6, 1.4),
    gamma=(-0.05, 0.4),
    grain=0.6,
)


class Window(NamedTuple):
    """One square picture.

    Attributes:
        image: Picture, uint8 [pixels, pixels].
        points: Landmarks in pixels of it, float64 [74, 2], some beyond its border; NaN unless a
            knee is shown that looks like a right one.
        shown: Class of `targets.knee_shown`.
        side: Side of the patient's knee, 'R' or 'L'; '' without one.
        spacing_mm: Pixel size, mm, NaN where unknown.
        kl: Kellgren-Lawrence grade as drawn, -1 if unknown.
    """

    image: np.ndarray
    points: np.ndarray
    shown: int
    side: str
    spacing_mm: float
    kl: int = -1


def draw(seed: int, number: int, pixels: int) -> list[Window]:
    """Draw the windows of one film: of each knee two near and one from afar, and four others.

    Args:
        seed: Random seed of the set.
        number: Number of the film.
        pixels: Side of the windows.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, number, STREAM]))
    geometry, knees, grades, picture = _expose(rng)
    windows: list[Window] = []
    for side in range(2):
        for near in (True, True, False):
            windows.append(_of_knee(rng, picture, geometry, knees, grades, side, near, pixels))
        if rng.random() < 0.5:
            turned = _of_knee(rng, picture, geometry, knees, grades, side, True, pixels)
            image = np.rot90(turned.image, int(rng.integers(1, 4))).copy()
            windows.append(turned._replace(image=image, points=_unknown(), shown=TURNED))
    windows.append(_beside(rng, picture, geometry, pixels))
    windows += [_other_object(rng, pixels) for _ in range(2)]
    return windows


def of_crop(
    rng: np.random.Generator,
    crop: np.ndarray,
    points: np.ndarray,
    pixels: int,
    number: int,
    spacing_mm: float = np.nan,
) -> list[Window]:
    """Draw windows on the crop of a real knee, which looks like a right one, and one turned.

    Args:
        rng: Random numbers.
        crop: Crop of one knee, uint8 [height, width].
        points: Landmarks in pixels of it, [74, 2].
        pixels: Side of the windows.
        number: Number of upright windows.
        spacing_mm: Pixel size of the crop, mm, NaN if unknown.
    """
    height, width = crop.shape
    picture = crop.astype(np.float32) / 255
    geometry = film.Geometry(height, width, 1.0, np.zeros((2, 2)), np.zeros(2))
    plateau = float(np.linalg.norm(points[PLATEAU[-1]] - points[PLATEAU[0]]))
    middle = points[[*CONDYLES, *PLATEAU]].mean(0)
    windows = []
    for place in range(number + 1):
        side = plateau * np.exp(rng.uniform(*np.log((1.05, 2.4))))
        centre = middle + rng.uniform(-0.16, 0.16, 2) * side
        mirrored = place > 0 and bool(rng.random() < 0.25)
        taken, found = _cut(
            rng, picture, geometry, centre, side, np.radians(rng.normal(0, 6)), mirrored, points,
            pixels, True,
        )  # fmt: skip
        image, size_mm = _as_shown(rng, taken), side / pixels * spacing_mm
        if place == number:
            image = np.rot90(image, int(rng.integers(1, 4))).copy()
            windows.append(Window(image, _unknown(), TURNED, "", size_mm))
        else:
            shown = LEFT if mirrored else RIGHT
            found = found if shown == RIGHT else _unknown()
            windows.append(Window(image, found, shown, "", size_mm))
    return windows


def _expose(
    rng: np.random.Generator,
) -> tuple[film.Geometry, list[Knee], list[int], np.ndarray]:
    """Expose a film of two knees of any severity; return them with their KL grades."""
    rows = int(rng.integers(560, 900))
    geometry = film.place(rng, rows, rng.uniform(280, 430), rng.uniform(0.95, 1.45))
    width = float(np.clip(rng.normal(78, 9), 55, 104))
    knees, grades, looks = [], [], []
    for _ in range(2):
        look = np.random.default_rng(rng.integers(2**63))
        spurs = rng.exponential(1.8, 4) * (rng.random(4) < 0.6)
        # One compartment is narrowed more than the other.
        lost = rng.beta(0.7, 1.3, 2) * rng.permutation([1, rng.uniform(0, 1)])
        knee = make_knee(look, np.minimum(spurs, 9), lost, width * rng.normal(1, 0.03), 0.0)
        knees.append(_varied(rng, knee))
        grades.append(_kl(spurs, lost))
        looks.append(look)
    if rng.random() < 0.12:
        which = int(rng.integers(2))
        knees[which] = dataclasses.replace(knees[which], replaced=True)
    bulk = float(np.exp(0.18 * rng.standard_normal()))
    picture = film.expose(
        geometry, knees, looks, rng, bulk=bulk, poor=rng.random() < 0.04, processing=_PROCESSING
    )
    picture = _cluttered(rng, picture, geometry.spacing)
    return geometry, knees, grades, picture


def _varied(rng: np.random.Generator, knee: Knee) -> Knee:
    """Vary the appearance of a knee beyond that of a study's."""
    w = knee.width
    fibula = knee.fibula + rng.normal(0, 1, (2, 2)) * np.array([[0.05, 0.04], [0.02, 0.02]]) * w
    fibula[0] += [rng.uniform(-0.02, 0.1) * w, rng.uniform(-0.08, 0.02) * w]
    patella = knee.patella + rng.normal(0, 1, (2, 2)) * np.array([[0.05, 0.08], [0.02, 0.02]]) * w
    return dataclasses.replace(
        knee, fibula=fibula, patella=patella, character=knee.character * _WIDE_LOOK
    )


def _kl(spurs: np.ndarray, lost: np.ndarray) -> int:
    """Return the KL grade of osteophytes in mm and fractions of joint space lost."""
    worst = float(lost.max())
    if worst > 0.45:
        return 4 if worst > 0.78 else 3
    largest = float(spurs.max())
    return 2 if largest > 2 else int(largest > 1 or worst > 0.2)


def _cluttered(rng: np.random.Generator, picture: np.ndarray, spacing: float) -> np.ndarray:
    """Add what lies on films: letters, pins, rods, folds of cloth."""
    height, width = picture.shape
    for _ in range(rng.poisson(0.7)):
        word = "".join(rng.choice(list("ABDEHLMPRTX0123456789- "), rng.integers(1, 9)))
        size = rng.uniform(0.3, 1.6) / max(spacing, 0.3) * 0.5
        place = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        grey = float(rng.choice([0.0, 1.0, 1.2]))
        thick = int(rng.integers(1, 4))
        _write(picture, word, place, size, grey, thick)
    if rng.random() < 0.15:
        x, step = int(rng.integers(0, width)), int(rng.uniform(20, 50) / spacing)
        for y in range(0, height, step):
            cv2.circle(picture, (x, y), max(1, int(1.5 / spacing)), 1.2, -1, cv2.LINE_AA)
    for _ in range(rng.poisson(0.8)):
        ends = rng.uniform(0, 1, (2, 2)) * (width, height)
        layer = np.zeros_like(picture)
        first, last = (tuple(int(v) for v in end) for end in ends)
        cv2.line(layer, first, last, 1.0, int(rng.integers(1, 12)), cv2.LINE_AA)
        layer = cv2.GaussianBlur(layer, (0, 0), rng.uniform(0.6, 6))
        picture = picture + np.float32(rng.normal(0, 0.12)) * layer
    return picture


def _write(
    picture: np.ndarray, word: str, place: tuple[int, int], scale: float, grey: float, thick: int
) -> None:
    """Write a word into a picture of any depth, in place."""
    ink = np.zeros(picture.shape, np.uint8)
    cv2.putText(ink, word, place, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thick, cv2.LINE_AA)
    share = ink / np.float32(255)
    picture[:] = picture * (1 - share) + np.float32(grey) * share


def _of_knee(
    rng: np.random.Generator,
    picture: np.ndarray,
    geometry: film.Geometry,
    knees: list[Knee],
    grades: list[int],
    side: int,
    near: bool,
    pixels: int,
) -> Window:
    """Draw a window about one knee."""
    knee = knees[side]
    size_mm = knee.width * np.exp(rng.uniform(*np.log((1.12, 2.4) if near else (2.2, 4.6))))
    place = rng.uniform(-1, 1, 2) * (0.16 if near else 0.12) * size_mm
    # The joint space lies a little above the frame's origin.
    centre = geometry.on_film(side, np.array([[0.0, -0.04 * knee.width]]))[0] + place
    angle = np.radians(rng.normal(0, 6))
    # Most look like a right knee, which landmarks are learnt of; the mirrored only have a side.
    mirrored = (side == 1) != bool(rng.random() < 0.25)
    taken, points = _cut(
        rng, picture, geometry, centre, size_mm, angle, mirrored,
        geometry.on_film(side, knee.landmarks), pixels, near,
    )  # fmt: skip
    image = _as_shown(rng, taken)
    looks_right = (side == 0) != mirrored
    shown = REPLACED if knee.replaced else (RIGHT if looks_right else LEFT)
    points = points if shown == RIGHT else _unknown()
    return Window(image, points, shown, "RL"[side], size_mm / pixels, grades[side])


def _cut(
    rng: np.random.Generator,
    picture: np.ndarray,
    geometry: film.Geometry,
    centre: np.ndarray,
    size_mm: float,
    angle: float,
    mirrored: bool,
    points: np.ndarray,
    pixels: int,
    bent: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Cut a turned, mirrored and bent window; return it as float32 and the points in it.

    Args:
        rng: Random numbers.
        picture: Film, float32.
        geometry: Geometry of the film.
        centre: Middle of the window on the film, mm.
        size_mm: Side of the window, mm.
        angle: Rotation of the window, radians.
        mirrored: Whether it is mirrored.
        points: Landmarks on the film, mm, [n, 2].
        pixels: Side of the window, pixels.
        bent: Whether the shapes in it are bent.
    """
    fine = 2 * pixels
    cos, sin = np.cos(angle), np.sin(angle)
    flip = np.diag([-1.0 if mirrored else 1.0, 1.0])
    linear = flip @ np.array([[cos, -sin], [sin, cos]]) * (size_mm / fine)
    grid = np.stack(np.meshgrid(np.arange(fine) + 0.5, np.arange(fine) + 0.5), -1)
    at = (grid - fine / 2) @ linear.T + centre
    bend = np.zeros((2, 2, 2))
    if bent:
        cells = max(2, round(size_mm / rng.uniform(28, 60))) + 1
        bend = np.float32(rng.uniform(0, 1.6)) * rng.standard_normal((cells, cells, 2))
    shape = (fine, fine)
    field = cv2.resize(bend.astype(np.float32), shape, interpolation=cv2.INTER_CUBIC)
    source = ((at + field) / geometry.spacing - 0.5).astype(np.float32)
    taken = cv2.remap(picture, source[..., 0], source[..., 1], cv2.INTER_LINEAR)
    taken = cv2.resize(taken, (pixels, pixels), interpolation=cv2.INTER_AREA)

    inverse = np.linalg.inv(linear).T
    found = (points - centre) @ inverse + fine / 2
    for _ in range(12 if bent else 0):
        x, y = (found - 0.5).astype(np.float32).T
        here = cv2.remap(
            field, x[None].copy(), y[None].copy(), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )[0]
        found = (points - here - centre) @ inverse + fine / 2
    return taken, found * pixels / fine


def _as_shown(rng: np.random.Generator, taken: np.ndarray) -> np.ndarray:
    """Turn a window into a picture as some viewer, scanner or archive would store it."""
    size = len(taken)
    image = taken
    if rng.random() < 0.5:
        image = image * _slope(rng, size, 0.35)
    low, high = np.percentile(image, [rng.uniform(0, 12), rng.uniform(70, 100)])
    image = (image - low) / max(high - low, 1e-3)
    if rng.random() < 0.75:
        image = np.clip(image, 0, 1)
    image = np.power(np.clip(image, 0, 2), np.exp(rng.normal(0, 0.45))).astype(np.float32)
    if rng.random() < 0.4:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.5))
    if rng.random() < 0.4:
        radius = rng.uniform(1, 8)
        image = image + rng.uniform(0.2, 1.5) * (image - cv2.GaussianBlur(image, (0, 0), radius))
    if rng.random() < 0.5:
        grain = rng.standard_normal((size, size)).astype(np.float32)
        if rng.random() < 0.5:
            grain = np.float32(2) * cv2.GaussianBlur(grain, (0, 0), 0.7)
        image = image + np.float32(rng.exponential(0.025)) * grain
    image = np.clip(image, 0, 1.1)
    bottom, top = rng.uniform(0, 0.45), rng.uniform(0.55, 1.1)
    image = bottom + (top - bottom) * image
    if rng.random() < 0.2:
        image = np.clip(image, 0, 1)
        image = image.max() - image
    grey = np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
    if rng.random() < 0.2:
        grey = cv2.createCLAHE(rng.uniform(1, 4), (4, 4)).apply(grey)
    if rng.random() < 0.35:
        _frame(rng, grey)
    if rng.random() < 0.2:
        _cover(rng, grey)
    return grey


def _slope(rng: np.random.Generator, size: int, most: float) -> np.ndarray:
    """Return a smooth field of gain about 1, [size, size]."""
    cells = rng.normal(0, most / 2, (3, 3)).astype(np.float32)
    return np.exp(cv2.resize(cells, (size, size), interpolation=cv2.INTER_CUBIC))


def _frame(rng: np.random.Generator, grey: np.ndarray) -> None:
    """Cut off some sides by a collimator or a page's border."""
    size = len(grey)
    value = int(rng.choice([0, 0, 0, 255, int(rng.integers(256))]))
    for _ in range(int(rng.integers(1, 4))):
        depth = int(rng.uniform(0.02, 0.2) * size)
        side = np.rot90(grey, int(rng.integers(4)))
        side[:depth] = value


def _cover(rng: np.random.Generator, grey: np.ndarray) -> None:
    """Lay writing or a patch over the picture."""
    size = len(grey)
    x, y = (int(v) for v in rng.uniform(0, size, 2))
    value = int(rng.choice([0, 255]))
    if rng.random() < 0.6:
        word = "".join(rng.choice(list("ABCDEFGHKLMNPRSTUVXYZ0123456789 "), rng.integers(2, 12)))
        _write(grey, word, (x // 2, y), rng.uniform(0.3, 0.9), value, int(rng.integers(1, 3)))
    else:
        w, h = (int(v) for v in rng.uniform(0.05, 0.3, 2) * size)
        cv2.rectangle(grey, (x, y), (x + w, y + h), value, -1)


def _beside(
    rng: np.random.Generator, picture: np.ndarray, geometry: film.Geometry, pixels: int
) -> Window:
    """Draw a window on the film in which no joint is."""
    extent = np.array([geometry.columns, geometry.rows]) * geometry.spacing
    for _ in range(50):
        size_mm = rng.uniform(50, 170)
        centre = rng.uniform(0, 1, 2) * extent
        apart = np.abs(geometry.origins - centre).max(axis=1)
        if (apart > size_mm / 2 + 25).all():
            break
    else:
        return _other_object(rng, pixels)
    none = np.zeros((0, 2))
    taken, _ = _cut(
        rng, picture, geometry, centre, size_mm, rng.normal(0, 0.2), rng.random() < 0.5, none,
        pixels, False,
    )  # fmt: skip
    return Window(_as_shown(rng, taken), _unknown(), NONE, "", size_mm / pixels)


def _unknown() -> np.ndarray:
    return np.full((NUM_LANDMARKS, 2), np.nan)


# ---- Pictures without a knee ----

Painter = Callable[[np.random.Generator, int], np.ndarray]


def _noise(rng: np.random.Generator, size: int) -> np.ndarray:
    cells = int(rng.choice([4, 12, 40, size]))
    noise = rng.standard_normal((cells, cells)).astype(np.float32)
    return cv2.resize(noise, (size, size), interpolation=cv2.INTER_LINEAR)


def _blank(rng: np.random.Generator, size: int) -> np.ndarray:
    across = np.linspace(0, rng.uniform(0, 1), size, dtype=np.float32)
    return np.rot90(np.tile(across, (size, 1)), int(rng.integers(4))) + 0.01 * _noise(rng, size)


def _page(rng: np.random.Generator, size: int) -> np.ndarray:
    image = np.zeros((size, size), np.float32)
    scale, y = rng.uniform(0.25, 0.9), 0
    while y < size:
        y += int(28 * scale) + int(rng.integers(2, 8))
        word = "".join(rng.choice(list("abcdefghiklmnoprstuvwz    "), int(rng.integers(5, 60))))
        _write(image, word, (int(rng.integers(0, 12)), y), scale, 1.0, 1)
    return image


def _limbs(rng: np.random.Generator, size: int) -> np.ndarray:
    """Long bones in soft tissue: hands, forearms, a lateral knee, fingers, a spine."""
    image = np.zeros((size, size), np.float32)
    for _ in range(int(rng.integers(1, 7))):
        start = rng.uniform(-0.2, 1.2, 2) * size
        end = start + rng.normal(0, 0.6, 2) * size
        thick = int(rng.uniform(0.04, 0.35) * size)
        number = int(rng.integers(1, 4))
        a, b = (tuple(int(v) for v in p) for p in (start, end))
        soft = np.zeros_like(image)
        cv2.line(soft, a, b, 1.0, min(int(thick * rng.uniform(1.3, 2.5)), size), cv2.LINE_AA)
        image += np.float32(rng.uniform(0.1, 0.4)) * cv2.GaussianBlur(soft, (0, 0), size * 0.02)
        for part in range(number):
            near, far = (start + (end - start) * (part + s) / number for s in (0.04, 0.94))
            c, d = (tuple(int(v) for v in p) for p in (near, far))
            whole, inner = np.zeros_like(image), np.zeros_like(image)
            cv2.line(whole, c, d, 1.0, thick, cv2.LINE_AA)
            cv2.line(inner, c, d, 1.0, max(1, int(thick * rng.uniform(0.5, 0.8))), cv2.LINE_AA)
            image += rng.uniform(0.3, 0.8) * whole - rng.uniform(0.05, 0.3) * inner
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 2))


def _rings(rng: np.random.Generator, size: int) -> np.ndarray:
    """Ellipses and arcs: ribs and lungs, a pelvis, a skull."""
    image = np.full((size, size), rng.uniform(0, 0.4), np.float32)
    for _ in range(int(rng.integers(2, 14))):
        centre = tuple(int(v) for v in rng.uniform(-0.1, 1.1, 2) * size)
        axes = tuple(int(v) for v in rng.uniform(0.05, 0.6, 2) * size)
        layer = np.zeros_like(image)
        thick = -1 if rng.random() < 0.4 else int(rng.integers(1, max(2, size // 12)))
        begin = rng.uniform(0, 360)
        cv2.ellipse(layer, centre, axes, rng.uniform(0, 180), begin,
                    begin + rng.uniform(90, 360), 1.0, thick, cv2.LINE_AA)  # fmt: skip
        blurred = cv2.GaussianBlur(layer, (0, 0), rng.uniform(0.5, 5))
        image += np.float32(rng.normal(0.1, 0.4)) * blurred
    return image


_PAINTERS: tuple[Painter, ...] = (_noise, _blank, _page, _limbs, _limbs, _limbs, _rings, _rings)


def _other_object(rng: np.random.Generator, pixels: int) -> Window:
    """Draw a picture of anything else."""
    image = _PAINTERS[rng.integers(len(_PAINTERS))](rng, pixels)
    if rng.random() < 0.3:
        image = image + 0.2 * _noise(rng, pixels)
    shown = _as_shown(rng, np.ascontiguousarray(image, np.float32))
    return Window(shown, _unknown(), NONE, "", 1.0)
