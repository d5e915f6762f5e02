"""Knees and their landmarks in a picture of any kind, by the localiser.

The picture is looked at through square windows, first of several sizes and places, each as it is
and mirrored. Where a window shows a knee that looks like a right one, the landmarks in it give the
next window, about that knee alone; after two rounds the landmarks are averaged over three windows
of slightly different size.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from knee_jax.errors import UnusableKnee, UserError
from knee_jax.inference import models
from knee_jax.inference.predictor import Predictor
from knee_jax.landmarks import CONDYLES, FEMUR, PLATEAU, PLATEAU_CENTRE, TIBIA
from knee_jax.targets.knee_shown import LEFT, NONE, REPLACED, RIGHT, TURNED

MODEL = "landmarks"
"""Name of the localiser that comes with the project."""

ZOOM = 1.75
"""Side of the window about a knee, in widths of its plateau: 140 mm of 80."""

ROUNDS = 2
"""Times that the window is moved to the landmarks found in it."""

ZOOMS = (1.6, 1.75, 1.92)
"""Windows that the landmarks are averaged over in the end."""

FIRST, ACCEPTED = 0.3, 0.5
"""Least probability of a knee to look closer, and to accept it."""

LARGEST_ERROR = 0.035
"""Largest mean expected error of the joint's landmarks, in widths of the plateau (about 2.8 mm). Of
529 real knees none had more than 0.017; what is no knee and yet taken for one, 0.048 or more.
"""

METAL, BLACK = 0.97, 0.02
"""Brightness, of white, from which a patch is metal, and up to which nothing was exposed there."""

MOST_ON_PATCHES = 0.25
"""Largest share of the joint's landmarks that may lie on metal, or where nothing was exposed. Of
phantom knees with half a prosthesis 30 % and more lie on metal, of those with screws or nails
beside the joint none; of 826 crops of real knees 13 % at most, and of the 250 that have most black
13 % at most lie on that.
"""

WASHED_OUT, WHITE_BONE = 0.82, 0.15
"""Median brightness of the bones, of white, and share of them that is white, from which they are
washed out and no metal. (Chosen on windows of `phantom.windows`, seed 77.)
"""

EVEN_WIDTH, LEAST_RANGE, MOST_COVERED, ABRUPT, WITHIN_BONE = 0.12, 40, 0.09, 60, 0.95
"""Least width of a patch of one grey value, in widths of the plateau, that covers what is below it;
range of grey values, from the 5th percentile to the 95th, from which such patches are looked
for; largest share of the joint's landmarks that may lie on them; difference of grey values from
which a black or white patch ends abruptly, and share of it within the bones from which it is
bone itself. On 826 real crops none lies on the joint, nor on 60 of them as JPEG of quality 20,
blurred, enlarged, shrunk, and with other gammas (but on 11 of 64 if the contrast is stretched
2.5 times, so that much is clipped); where a half, a third or the middle is covered 20 % and more
of the landmarks lie on it, where the upper half is, 10 % and more.
"""

METAL_WIDTH, BLACK_WIDTH, MARGIN = 0.045, 0.15, 0.018
"""Least widths of such patches, wider than lines of bone and than joint spaces, and how far off
metal a landmark may lie to be on it; in widths of the plateau.
"""

WINDOW_GRID, POINT_GRID = 1 / 4, 1 / 16
"""Grid of windows and of the landmarks in the end, pixels of the picture: what batches of other
sizes or other processors round differently, some 1e-4 pixels, is seldom seen beyond it.
"""

PIXELS = 260
"""Side of the window about a knee in which patches and rims are looked at."""

RIM = 0.05
"""Width of the rims along a bone's outline that are compared, in widths of the plateau."""

JOINT = (*CONDYLES, *PLATEAU)

BATCH_SIZES = (4, 16)
"""Numbers of windows in a batch, each a program of its own."""


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


class Localiser:
    """Finder of knees and landmarks in pictures.

    Attributes:
        predictor: Network with the targets `knee_shown` and `landmarks`.
    """

    def __init__(self, predictor: Predictor):
        self.predictor = predictor

    @property
    def facts(self) -> dict[str, Any]:
        """Name and facts of the network, by which results of another are told apart."""
        return {"name": self.predictor.name, **self.predictor.facts}

    def find(self, picture: np.ndarray, most: int = 2, looks: str = "") -> list[Found]:
        """Find the knees in a picture, from left to right.

        Args:
            picture: Grey picture, uint8 [height, width].
            most: Largest number of knees to find.
            looks: 'R' or 'L', the look that they are known to have; '': either.

        Raises:
            UnusableKnee: replaced_joint, joint_cut_off, turned, not_marked or no_knee, if there
                is none to be marked.
        """
        found: list[Found] = []
        if most == 1:
            found, _ = self._seen(picture, whole_squares(*picture.shape), looks)
        if not found:
            found, classes = self._seen(picture, first_squares(*picture.shape), looks)
            if not found:
                raise self._reason(picture, classes)
        problems = [knee.problem for knee in found[:most]]
        if problems[0] is not None and None not in problems:
            raise problems[0]
        return sorted(found[:most], key=lambda knee: float(knee.points[:, 0].mean()))

    def again(self, picture: np.ndarray, knee: Found, looks: str) -> Found | None:
        """Look at a knee again as one of another look; return None if that leads to no knee."""
        square = dataclasses.replace(square_about(knee, ZOOM), mirrored=looks == "L")
        found, _ = self._seen(picture, [square], looks)
        return found[0] if found else None

    def _seen(
        self, picture: np.ndarray, squares: Sequence[Square], looks: str = ""
    ) -> tuple[list[Found], np.ndarray]:
        """Return the knees found from some windows, and what these show [n, classes]."""
        squares = [s for s in squares if not looks or s.mirrored == (looks == "L")]
        classes, places = self._look(picture, squares)
        return self._refined(picture, squares, classes, places, bool(looks)), classes

    def _look(
        self, picture: np.ndarray, squares: Sequence[Square]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return probabilities [n, classes] and places [n, 74, 3], shares of each window."""
        side = self.predictor.side
        outputs = self.predictor.predict(np.stack([s.cut(picture, side) for s in squares]))
        return outputs["knee_shown"], outputs["landmarks"]

    def _refined(
        self,
        picture: np.ndarray,
        squares: Sequence[Square],
        classes: np.ndarray,
        places: np.ndarray,
        look_is_known: bool,
    ) -> list[Found]:
        """Return the knees found, the most certain first."""

        def seen(squares: Sequence[Square], classes: np.ndarray, places: np.ndarray) -> list[Found]:
            found = [_found(*each) for each in zip(squares, classes, places, strict=True)]
            return [
                knee
                for knee in found
                if knee.probability * (1 if look_is_known else knee.side_probability) > FIRST
            ]

        def ranked(knees: Sequence[Found]) -> list[Found]:
            return _apart(sorted(knees, key=_certainty, reverse=True))

        knees = ranked(seen(squares, classes, places))[:6]
        for _ in range(ROUNDS):
            near = [square_about(knee, ZOOM) for knee in knees]
            knees = ranked(seen(near, *self._look(picture, near))) if near else []
        final = []
        for knee in knees:
            near = [square_about(knee, zoom) for zoom in ZOOMS]
            shown, found = self._look(picture, near)
            mean = _mean([_found(*each) for each in zip(near, shown, found, strict=True)])
            final.append(dataclasses.replace(mean, **dict[str, Any](on_patches(picture, mean))))
        return ranked([knee for knee in final if is_plausible(knee)])

    def _reason(self, picture: np.ndarray, classes: np.ndarray) -> UnusableKnee:
        """Return why no knee was found."""
        # Three more searches, for what may be a knee at all.
        for turns in (1, 2, 3) if classes[:, NONE].min() < 1 - FIRST else ():
            turned = np.ascontiguousarray(np.rot90(picture, turns))
            found, _ = self._seen(turned, first_squares(*turned.shape))
            if any(knee.problem is None for knee in found):
                return UnusableKnee(
                    "turned", f"the picture shows a knee turned by {90 * turns} degrees; turn it"
                )
        shown = classes.max(0)
        highest = int(shown[NONE + 1 :].argmax()) + NONE + 1
        if shown[highest] > ACCEPTED:
            if highest == REPLACED:
                detail = "the knee has a prosthesis, and no bone to mark"
                return UnusableKnee("replaced_joint", detail)
            if highest == TURNED:
                return UnusableKnee("turned", "the picture shows a knee that is turned; turn it")
            return UnusableKnee(
                "not_marked",
                "something like a knee was found, but no landmarks that are certain: it may have a "
                "prosthesis or open growth plates, be seen from the side, or be cut off",
            )
        return UnusableKnee(
            "no_knee",
            "no knee was found in the picture, as seen from the front; give a frontal film of the "
            "knees, upright, or a crop of one knee",
        )


def load(model: str = MODEL) -> Localiser:
    """Load a localiser by the name of its model, run or file.

    Raises:
        UserError: The model finds no landmarks, or cannot be read.
    """
    predictor = models.load(model)
    if not {"knee_shown", "landmarks"} <= {target.name for target in predictor.targets}:
        raise UserError(f"{predictor.name}: finds no landmarks; name a localiser, such as {MODEL}")
    return Localiser(dataclasses.replace(predictor, batch_sizes=BATCH_SIZES))


shipped = functools.cache(load)
"""Localiser that comes with the project, read once."""


def whole_squares(height: int, width: int) -> list[Square]:
    """Return the windows of a look at a crop of one knee: all of it, and some beyond."""
    centre, short = (width / 2, height / 2), min(height, width)
    return [
        Square(centre, share * short, mirrored)
        for share in (1.0, 1.35)
        for mirrored in (False, True)
    ]


def first_squares(height: int, width: int) -> list[Square]:
    """Return the windows of the first look at a picture: all of it, its short side, and halves."""
    long, short = max(height, width), min(height, width)
    places = [(width / 2, height / 2, float(long))]
    for side in (short, 0.62 * short) if long > 1.05 * short else (0.8 * short,):
        steps = max(1, round(2 * (long / side - 1))) if long > side else 0
        for step in range(steps + 1):
            along = side / 2 + (long - side) * (step / steps if steps else 0.5)
            x, y = (along, height / 2) if width >= height else (width / 2, along)
            places.append((x, y, side))
    return [Square((x, y), side, mirrored) for x, y, side in places for mirrored in (False, True)]


def square_about(knee: Found, zoom: float) -> Square:
    """Return the window about a knee, of `zoom` widths of its plateau."""
    x, y = _on_grid(knee.points[list(JOINT)].mean(0), WINDOW_GRID)
    side = float(_on_grid(zoom * max(knee.width, 8.0), WINDOW_GRID))
    return Square((float(x), float(y)), side, knee.looks == "L")


def _on_grid(values: Any, grid: float) -> Any:
    return np.round(np.asarray(values) / grid) * grid


def _found(square: Square, probabilities: np.ndarray, places: np.ndarray) -> Found:
    points = square.to_picture(places[:, :2].astype(np.float64))
    looks = "L" if square.mirrored else "R"
    errors = places[:, 2].astype(np.float64) * square.side
    right, left = float(probabilities[RIGHT]), float(probabilities[LEFT])
    return Found(points, errors, looks, right + left, right / max(right + left, 1e-9))


def _mean(knees: Sequence[Found]) -> Found:
    """Average looks at one knee through several windows."""
    points = np.stack([knee.points for knee in knees])
    errors = np.stack([knee.errors for knee in knees])
    spread = points.std(0).mean(-1)
    return Found(
        _on_grid(points.mean(0), POINT_GRID),
        np.hypot(errors.mean(0), spread),
        knees[0].looks,
        float(np.mean([knee.probability for knee in knees])),
        float(np.mean([knee.side_probability for knee in knees])),
    )


def _certainty(knee: Found) -> float:
    """Return a number that is higher for a knee that is rather there."""
    return knee.probability * knee.side_probability - knee.error


def is_plausible(knee: Found) -> bool:
    """Return whether landmarks are those of an upright knee, found well enough."""
    points = knee.points
    sign = 1 if knee.looks == "R" else -1
    order = (np.diff(sign * points[list(PLATEAU), 0]) > 0).mean()
    above = points[list(FEMUR), 1].mean() < points[list(TIBIA), 1].mean()
    joint = points[list(CONDYLES), 1].mean() < points[list(PLATEAU), 1].mean()
    return bool(
        knee.probability > ACCEPTED
        and knee.error < LARGEST_ERROR
        and order > 0.85
        and above
        and joint
    )


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


def _apart(knees: Sequence[Found]) -> list[Found]:
    """Return knees without those that lie on one before them."""
    kept: list[Found] = []
    for knee in knees:
        centre = knee.points[PLATEAU_CENTRE]
        distances = [np.linalg.norm(other.points[PLATEAU_CENTRE] - centre) for other in kept]
        widths = [max(other.width, knee.width) for other in kept]
        if all(d > 0.6 * w for d, w in zip(distances, widths, strict=True)):
            kept.append(knee)
    return kept
