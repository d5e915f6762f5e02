"""Phantom films of kinds that mislead a localiser, and what becomes of their knees.

    python -m tests.inference.odd_films [SEEDS] [KIND...]

prints a table: of each kind how many knees were marked rightly, wrongly, and why others were
refused. A knee is marked rightly within 3 mm on average, on its own side.
"""

import collections
import dataclasses
import sys
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from knee_jax.inference import locate, placing
from knee_jax.inference.locate import Localiser
from knee_jax.ingest.film import intensity_window
from knee_jax.ingest.knee_files import Knee, KneeFileJob, Reading, Refusal, Unplaced
from knee_jax.ingest.sources import Source
from knee_jax.landmarks import CONDYLES, PLATEAU
from knee_jax.phantom import film
from knee_jax.phantom.anatomy import make_knee

JOINT = [*CONDYLES, *PLATEAU]
RIGHT_MM = 3.0
"""Mean distance of the joint's landmarks up to which they are right, mm."""


@dataclasses.dataclass
class Shot:
    """A film, bone bright, in about 0..1.

    Attributes:
        light: Picture, float32 [rows, columns].
        knees: Landmarks of each knee that can be marked, by the patient's side, pixels.
        spacing: Pixel size, mm.
        side: Side that the header, or the name of a crop, tells.
        is_crop: Whether it is a square picture of one knee, and no film.
    """

    light: np.ndarray
    knees: dict[str, np.ndarray]
    spacing: float
    side: str = ""
    is_crop: bool = False

    def moved(self, light: np.ndarray, move: Callable[[np.ndarray], np.ndarray]) -> "Shot":
        """The film with other pixels, and the landmarks where they went."""
        knees = {side: move(points) for side, points in self.knees.items()}
        return dataclasses.replace(self, light=np.ascontiguousarray(light), knees=knees)

    def cut(self, top: int, bottom: int, left: int, right: int) -> "Shot":
        """Part of the film; knees of whose joint a tenth or more is not on it are gone."""
        part = self.moved(self.light[top:bottom, left:right], lambda p: p - [left, top])
        size = part.light.shape[::-1]
        whole = {s: p for s, p in part.knees.items() if _share_in(p, size) > 0.9}
        return dataclasses.replace(part, knees=whole)

    def picture(self) -> np.ndarray:
        """Grey picture as a localiser gets it, uint8."""
        low, high = intensity_window(np.rint(self.light * 4000).astype(np.uint16))
        grey = (self.light * 4000 - low) * (255 / (high - low))
        return np.rint(grey.clip(0, 255)).astype(np.uint8)


def _share_in(points: np.ndarray, size: Sequence[int]) -> float:
    """Share of a joint's landmarks that lie in a picture of some width and height."""
    return float(((points > 0) & (points < size)).all(axis=1)[JOINT].mean())


def shot(rng: np.random.Generator, change: Callable | None = None, **options) -> Shot:
    """An ordinary film of two knees; `change` changes each knee (`phantom.anatomy.Knee`)."""
    geometry = film.place(rng, 800, rng.uniform(300, 350), rng.uniform(1.2, 1.4))
    width, knees, looks = float(np.clip(rng.normal(77.5, 7), 63, 95)), [], []
    for _ in range(2):
        look = np.random.default_rng(rng.integers(2**63))
        spurs = rng.exponential(1.2, 4) * (rng.random(4) < 0.5)
        lost = rng.beta(0.7, 1.6, 2) * rng.permutation([1, rng.uniform(0, 1)])
        knee = make_knee(look, np.minimum(spurs, 7), lost, width * rng.normal(1, 0.02), 0.0)
        knees.append(change(rng, knee) if change else knee)
        looks.append(look)
    light = film.expose(geometry, knees, looks, rng, bulk=1.0, **options)
    points = {
        side: geometry.on_film(i, knee.landmarks) / geometry.spacing
        for i, (side, knee) in enumerate(zip("RL", knees))
    }
    return Shot(light, points, geometry.spacing)


def ordinary(rng):
    return shot(rng)


def turned(draw, quarters):
    """A film or crop, as another function draws it, turned by right angles."""

    def make(rng):
        return dataclasses.replace(_turn(draw(rng), quarters), knees={})

    return make


def _turn(given, quarters):
    for _ in range(quarters):
        width = given.light.shape[1]
        given = given.moved(
            np.rot90(given.light), lambda p, w=width: np.stack([p[:, 1], w - p[:, 0]], -1)
        )
    return given


def mirrored(rng):
    """Mirrored without notice: nothing but the letter tells."""
    given = shot(rng)
    width = given.light.shape[1]
    found = given.moved(given.light[:, ::-1], lambda p: p * [-1, 1] - [-width, 0])
    return found


def single(rng, side="R"):
    """A film of one knee, 180 mm wide, of a side that the header names."""
    given = shot(rng)
    middle = given.knees[side][JOINT].mean(0)
    half = round(85 / given.spacing)
    left = max(0, int(middle[0]) - half)
    rows = given.light.shape[0]
    part = given.cut(0, rows, left, min(given.light.shape[1], left + 2 * half))
    return dataclasses.replace(part, knees={side: part.knees[side]}, side=side)


def single_mirrored(rng):
    """A mirrored film of one knee, of which the header names the side."""
    given = single(rng)
    width = given.light.shape[1]
    found = given.moved(given.light[:, ::-1], lambda p: p * [-1, 1] - [-width, 0])
    return dataclasses.replace(found, knees={})


def cut_off(rng):
    """The film ends within one of the joints."""
    given = shot(rng)
    left = bool(rng.random() < 0.5)
    points = given.knees["R" if left else "L"][JOINT]
    share = rng.uniform(0.25, 0.75)
    edge = int(points[:, 0].min() + share * np.ptp(points[:, 0]))
    columns = (edge, given.light.shape[1]) if left else (0, edge)
    return given.cut(0, given.light.shape[0], *columns)


def cut_above(rng):
    """The film ends a little above the joints, or just within them."""
    given = shot(rng)
    top = min(p[JOINT, 1].min() for p in given.knees.values())
    edge = int(top + rng.uniform(-8, 4) / given.spacing)
    return given.cut(max(0, edge), given.light.shape[0], 0, given.light.shape[1])


def prosthesis(rng):
    """Both knees are replaced."""
    made = shot(rng, lambda _, knee: dataclasses.replace(knee, replaced=True))
    return dataclasses.replace(made, knees={})


def one_prosthesis(rng):
    which, number = int(rng.integers(2)), iter(range(2))

    def change(_, knee):
        return dataclasses.replace(knee, replaced=next(number) == which)

    made = shot(rng, change)
    return dataclasses.replace(made, knees={"RL"[1 - which]: made.knees["RL"[1 - which]]})


def half_prosthesis(rng):
    """A metal shield and tray in the medial compartment alone, of one knee."""
    given = shot(rng)
    side = "RL"[int(rng.integers(2))]
    points = given.knees[side]
    metal = np.zeros(given.light.shape, np.uint8)
    femur, tibia = points[18:25], points[55:64]
    shield = np.concatenate([femur, femur[::-1] - [0, 11 / given.spacing]])
    tray = np.concatenate([tibia, tibia[::-1] - [0, -4 / given.spacing]])
    for part in (shield, tray):
        cv2.fillPoly(metal, [np.round(part).astype(np.int32)], 255, cv2.LINE_AA)
    light = np.maximum(given.light, 1.25 * metal / np.float32(255))
    other = "L" if side == "R" else "R"
    return dataclasses.replace(given, light=light, knees={other: given.knees[other]})


def screws(rng):
    """Screws and a plate beside the joints, whose landmarks are to be seen all the same."""
    given = shot(rng)
    metal = np.zeros(given.light.shape, np.uint8)
    for points in given.knees.values():
        width = np.linalg.norm(points[63] - points[47])
        for _ in range(int(rng.integers(1, 4))):
            y = rng.choice([-1, 1]) * rng.uniform(0.22, 0.5) * width
            middle = points[55] + [rng.uniform(-0.1, 0.1) * width, y]
            along = rng.uniform(0.2, 0.42) * width * np.array([1, rng.uniform(-0.3, 0.3)])
            ends = [np.round(middle + s * along).astype(int).tolist() for s in (-1, 1)]
            cv2.line(metal, *ends, 255, max(2, round(4 / given.spacing)), cv2.LINE_AA)
        if rng.random() < 0.5:
            x = points[66, 0] + rng.uniform(-4, 4)
            ends = [(int(x), int(points[66, 1])), (int(x), int(points[66, 1] + 0.8 * width))]
            cv2.line(metal, *ends, 255, max(3, round(7 / given.spacing)), cv2.LINE_AA)
    return dataclasses.replace(given, light=np.maximum(given.light, metal / np.float32(210)))


def nail(rng):
    """A nail in each femur's shaft, whose end lies above the joint."""
    given = shot(rng)
    metal = np.zeros(given.light.shape, np.uint8)
    for points in given.knees.values():
        width = np.linalg.norm(points[63] - points[47])
        end = points[18] - [0, rng.uniform(0.12, 0.3) * width]
        start = (int(end[0] + rng.uniform(-8, 8)), 0)
        size = max(3, round(11 / given.spacing))
        cv2.line(metal, start, np.round(end).astype(int).tolist(), 255, size, cv2.LINE_AA)
    return dataclasses.replace(given, light=np.maximum(given.light, metal / np.float32(210)))


def child(rng):
    """Open growth plates: dark wavy bands across femur and tibia, in small bones."""

    def grow(rng, knee):
        return make_knee(
            np.random.default_rng(rng.integers(2**63)), np.zeros(4), np.zeros(2),
            rng.uniform(50, 60), 2.0,
        )  # fmt: skip

    given = shot(rng, grow)
    light = given.light.copy()
    for points in given.knees.values():
        width = np.linalg.norm(points[63] - points[47])
        bands = ((6, 30, -0.30), (41, 69, 0.26))
        for first, last, height in bands:
            x = np.linspace(0, 1, 40)
            ends = points[first], points[last]
            base = ends[0] + x[:, None] * (ends[1] - ends[0])
            base[:, 1] = points[55, 1] + height * width
            base[:, 1] += 0.02 * width * np.sin(x * rng.uniform(6, 14) + rng.uniform(0, 6))
            line = np.zeros(light.shape, np.uint8)
            path = [np.round(base).astype(np.int32)]
            cv2.polylines(line, path, False, 255, max(2, round(2.5 / given.spacing)), cv2.LINE_AA)
            light *= 1 - 0.45 * cv2.GaussianBlur(line, (0, 0), 1.2) / np.float32(255)
    return dataclasses.replace(given, light=light)


def one_collimated(rng):
    """A wide film on which the collimator leaves one knee alone."""
    given = shot(rng)
    side = "RL"[int(rng.integers(2))]
    x, y = given.knees[side][JOINT].mean(0)
    half = rng.uniform(0.75, 0.95) * np.linalg.norm(given.knees[side][63] - given.knees[side][47])
    light = np.zeros_like(given.light)
    box = [slice(max(0, int(c - half)), int(c + half)) for c in (y, x)]
    light[tuple(box)] = given.light[tuple(box)]
    return dataclasses.replace(given, light=light, knees={side: given.knees[side]})


def white_border(rng):
    given = shot(rng)
    wide = [int(rng.uniform(0.03, 0.12) * given.light.shape[0]) for _ in range(4)]
    light = cv2.copyMakeBorder(given.light, *wide, cv2.BORDER_CONSTANT, value=1.1)
    return given.moved(light, lambda p: p - [-wide[2], -wide[0]])


def text_across(rng):
    """Burned-in words across both joints."""
    given = shot(rng)
    ink = np.zeros(given.light.shape, np.uint8)
    for points in given.knees.values():
        x, y = points[55] + rng.normal(0, 6, 2) - [110, 0]
        word = "".join(rng.choice(list("ABCDEHLNPRSTUX 0123456789/"), 16))
        size = rng.uniform(0.6, 1.3)
        cv2.putText(ink, word, (int(x), int(y)), cv2.FONT_HERSHEY_SIMPLEX, size, 255, 2)
    return dataclasses.replace(given, light=np.maximum(given.light, ink / np.float32(210)))


def inverted(rng):
    given = shot(rng)
    return dataclasses.replace(given, light=np.clip(1.1 - given.light, 0, None))


def crop(rng, change=ordinary, side=None, named=True):
    """A square crop of a knee of another kind of film, 1.4 plateaus wide, named by its side."""
    given = change(rng)
    side = side or "RL"[int(rng.integers(2))]
    points = given.knees.get(side, next(iter(given.knees.values()), None))
    x, y = points[JOINT].mean(0)
    half = round(0.7 * np.linalg.norm(points[63] - points[47]))
    top, left = max(0, round(y) - half), max(0, round(x) - half)
    part = given.cut(top, top + 2 * half, left, left + 2 * half)
    known = {s: p for s, p in part.knees.items() if s == side}
    return dataclasses.replace(part, knees=known, side=side if named else "", is_crop=True)


def crop_of(change, **options):
    return lambda rng: crop(rng, change, **options)


def crop_mirrored(rng):
    """A crop whose name tells the other side."""
    given = crop(rng)
    return dataclasses.replace(given, side="L" if given.side == "R" else "R", knees={})


def crop_cut_off(rng):
    """A crop whose half is black: most show a part of the joint alone."""
    given = crop(rng)
    size = given.light.shape[0]
    half = slice(0, size // 2) if rng.random() < 0.5 else slice(size - size // 2, size)
    exposed = np.zeros(given.light.shape, bool)
    exposed[(slice(None), half) if rng.random() < 0.5 else half] = True
    columns, rows = given.knees[given.side][JOINT].astype(int).clip(0, size - 1).T
    knees = given.knees if exposed[rows, columns].mean() > 0.9 else {}
    return dataclasses.replace(given, light=given.light * exposed, knees=knees)


def _others(paint):
    def make(rng):
        light = paint(rng).astype(np.float32)
        light = cv2.GaussianBlur(light, (0, 0), rng.uniform(1, 3))
        light += 0.015 * rng.standard_normal(light.shape).astype(np.float32)
        return Shot(np.clip(light, 0, 1.2), {}, 0.4)

    return make


def _lateral(rng):
    """A knee from the side: condyles as circles, a patella before them, the tibia below."""
    picture = np.full((760, 620), 0.06, np.float32)
    x, y, r = 310 + rng.normal(0, 20), 370 + rng.normal(0, 20), rng.uniform(62, 78)
    bend = rng.uniform(0.1, 0.7)

    def limb(start, end, wide, grey):
        layer = np.zeros_like(picture)
        ends = [[round(float(v)) for v in p] for p in (start, end)]
        cv2.line(layer, *ends, 1.0, round(wide), cv2.LINE_AA)
        np.add(picture, grey * cv2.GaussianBlur(layer, (0, 0), 3), out=picture)

    hip = (x - 380 * np.sin(bend), y - 380 * np.cos(bend))
    foot = (x - 60 - 120 * np.sin(bend), y + 400)
    for start, end in ((hip, (x, y)), ((x - 10, y + 60), foot)):
        limb(start, end, 3.6 * r, 0.2)
        limb(start, end, 0.85 * r, 0.3)
    for shift in (-0.1, 0.12):
        centre = (round(x + shift * r), round(y + 0.1 * r))
        layer = np.zeros_like(picture)
        cv2.circle(layer, centre, round(r), 1.0, -1, cv2.LINE_AA)
        picture += 0.22 * layer
        cv2.circle(picture, centre, round(r), 0.85, 3, cv2.LINE_AA)
    plateau = np.array([(x - 1.1 * r, y + 1.3 * r), (x + 0.9 * r, y + 1.2 * r),
                        (x + 0.5 * r, y + 2.2 * r), (x - 0.7 * r, y + 2.2 * r)])  # fmt: skip
    cv2.fillPoly(picture, [plateau.astype(np.int32)], 0.62, cv2.LINE_AA)
    cv2.polylines(picture, [plateau[:2].astype(np.int32)], False, 0.9, 3, cv2.LINE_AA)
    patella = (round(x + 1.35 * r), round(y - 0.5 * r))
    cv2.ellipse(picture, patella, (round(0.32 * r), round(0.62 * r)), 12, 0, 360, 0.6, -1)
    fibula = [(round(x - 0.9 * r), round(y + 1.9 * r)), (round(x - 1.2 * r), 760)]
    cv2.line(picture, *fibula, 0.55, round(0.35 * r), cv2.LINE_AA)
    return picture if rng.random() < 0.5 else picture[:, ::-1]


def _hips(rng):
    """A pelvis with both hips."""
    picture = np.full((720, 900), 0.25, np.float32)
    for side in (-1, 1):
        head = (450 + side * int(rng.integers(190, 240)), 330 + int(rng.integers(-20, 20)))
        cv2.ellipse(picture, (450 + side * 190, 170), (170, 130), side * 20, 0, 360, 0.6, 40)
        cv2.circle(picture, head, 74, 0.85, -1, cv2.LINE_AA)
        cv2.circle(picture, head, 84, 0.35, 6, cv2.LINE_AA)
        neck = (head[0] + side * 95, head[1] + 105)
        cv2.line(picture, head, neck, 0.8, 66, cv2.LINE_AA)
        cv2.circle(picture, (neck[0] + side * 20, neck[1] - 20), 46, 0.85, -1, cv2.LINE_AA)
        cv2.line(picture, neck, (neck[0] - side * 10, 720), 0.75, 84, cv2.LINE_AA)
        cv2.line(picture, neck, (neck[0] - side * 10, 720), 0.55, 46, cv2.LINE_AA)
        cv2.ellipse(picture, (450 + side * 80, 470), (60, 40), 0, 0, 360, 0.6, 18)
    cv2.rectangle(picture, (415, 0), (485, 180), 0.8, -1)
    return picture


KINDS: dict[str, Callable[[np.random.Generator], Shot]] = {
    "ordinary": ordinary,
    "turned by 90": turned(shot, 1),
    "turned by 180": turned(shot, 2),
    "turned by 270": turned(shot, 3),
    "mirrored": mirrored,
    "one knee": single,
    "one knee, mirrored": single_mirrored,
    "one knee, turned by 90": turned(single, 1),
    "one knee, turned by 180": turned(single, 2),
    "cut off at a side": cut_off,
    "cut off above": cut_above,
    "prostheses": prosthesis,
    "one prosthesis": one_prosthesis,
    "half prosthesis": half_prosthesis,
    "screws": screws,
    "nails": nail,
    "child": child,
    "collimated to one": one_collimated,
    "white border": white_border,
    "text across": text_across,
    "inverted": inverted,
    "lateral view": _others(_lateral),
    "hips": _others(_hips),
    "crop": crop,
    "crop, side unknown": crop_of(ordinary, named=False),
    "crop, inverted": crop_of(inverted),
    "crop, text across": crop_of(text_across),
    "crop, screws": crop_of(screws),
    "crop of the wrong name": crop_mirrored,
    "crop, turned by 90": turned(crop, 1),
    "crop, turned by 180": turned(crop, 2),
    "crop, half black": crop_cut_off,
}


def placed(given: Shot, localiser: Localiser) -> Sequence[Knee | Refusal]:
    """Return the result of the localiser for a film; landmarks of a knee are in mm on it."""

    def read(job: KneeFileJob):
        return [
            Refusal("film", side, points.reason, points.detail)
            if isinstance(points, Exception)
            else Knee("film", side, np.zeros((9, 9), np.uint8), points, "localiser")
            for side, points in (job.found or {}).items()
        ]

    if given.is_crop:
        return _of_crop(given, localiser)
    unplaced = Unplaced("film", given.side, given.picture(), (given.spacing,) * 2)
    source, reading = Source(None, "film"), Reading(pixels=350, localise=True)
    return placing.place(source, [unplaced], reading, localiser, read)


def _of_crop(given: Shot, localiser: Localiser) -> Sequence[Knee | Refusal]:
    """As `placed`, of a crop, which is mirrored where it is named left."""
    grey, unknown = given.picture(), np.full((74, 2), np.nan, np.float32)
    width = grey.shape[1]
    image = np.ascontiguousarray(grey[:, ::-1] if given.side == "L" else grey)
    knee = Knee("crop", given.side, image, unknown, "crop")
    found = placing.place(
        Source(None, "crop"), [knee], Reading(pixels=width), localiser, KneeFileJob.__call__
    )
    back = []
    for each in found:
        if isinstance(each, Knee):
            points = each.landmarks * given.spacing
            if each.side == "L":
                points = points * [-1, 1] + [width * given.spacing, 0]
            each = dataclasses.replace(each, landmarks=points)
        back.append(each)
    return back


def outcomes(given: Shot, found: Sequence[Knee | Refusal]) -> list[str]:
    """Each knee found 'right' or 'wrong: ...', or the reason of a refusal, of it or of all."""
    results = []
    for each in found:
        if isinstance(each, Refusal):
            results.append(each.reason)
            continue
        if not np.isfinite(each.landmarks).any():
            results.append("told, without landmarks" if each.notes else "without landmarks")
            continue
        true = given.knees.get(each.side)
        distances = {
            side: np.nanmean(np.linalg.norm(each.landmarks / given.spacing - p, axis=1)[JOINT])
            for side, p in given.knees.items()
        }
        near = [s for s, d in distances.items() if d * given.spacing < RIGHT_MM]
        if true is not None and each.side in near:
            results.append("right")
        elif near:
            results.append("wrong: other side")
        elif true is not None and distances[each.side] * given.spacing < 40:
            results.append(f"wrong: {distances[each.side] * given.spacing:.0f} mm")
        else:
            results.append("wrong: no knee there")
    return results


def main(seeds: int, kinds: Sequence[str], first: int = 1000) -> None:
    """Print the table."""
    localiser = locate.shipped()
    for kind in kinds:
        counts: collections.Counter[str] = collections.Counter()
        for seed in range(first, first + seeds):
            given = KINDS[kind](np.random.default_rng([seed, 404]))
            counts.update(outcomes(given, placed(given, localiser)))
        told = ", ".join(f"{number} {name}" for name, number in counts.most_common())
        print(f"| {kind} | {told} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 6, sys.argv[2:] or list(KINDS))
