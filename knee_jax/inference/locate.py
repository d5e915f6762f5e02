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

import numpy as np

from knee_jax.errors import UnusableKnee, UserError
from knee_jax.inference import models
from knee_jax.inference.found import POINT_GRID, Found, Square, on_grid, square_about
from knee_jax.inference.occlusion import on_patches
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

TURNS = {1: "90 degrees counterclockwise", 2: "180 degrees", 3: "90 degrees clockwise"}
"""Quarter turns that bring a picture upright, in words."""

BATCH_SIZES = (4, 16)
"""Numbers of windows in a batch, each a program of its own."""


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
                    "turned", f"the picture shows a knee that is turned; turn it by {TURNS[turns]}"
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
        on_grid(points.mean(0), POINT_GRID),
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
