"""Knees of files that have no landmarks, placed and marked by the localiser."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from knee_jax.errors import UnusableKnee
from knee_jax.inference.locate import JOINT, Found, Localiser
from knee_jax.ingest import landmarks
from knee_jax.ingest.knee_files import (
    CROP_MM,
    UNKNOWN_SIDE_NOTE,
    Knee,
    KneeFileJob,
    Reading,
    Refusal,
    Source,
    Unplaced,
)

OTHER_SIDE = (
    "it looks like a {looks} knee, and was said to be a {said} one: the name, the header or --side "
    "is wrong, or the picture is mirrored"
)
CERTAIN_SIDE = 0.9
"""Probability from which a side that a knee looks like is believed, or told."""

CERTAIN_ODDS = 3.0
"""Logarithm of the odds from which two knees that lie against a film's layout are believed."""

ONLY_ONE = "only one knee was found on the film"
SIDE_SEEN = "the side was guessed from the picture"

_WORDS = {"R": "right", "L": "left"}


def place(
    source: Source,
    found: Sequence[Knee | Refusal | Unplaced],
    reading: Reading,
    localiser: Localiser,
    read: Callable[[KneeFileJob], list[Knee | Refusal | Unplaced]] = KneeFileJob.__call__,
) -> list[Knee | Refusal]:
    """Find the knees of films that have no landmarks, and the landmarks of crops.

    Args:
        source: File that was read.
        found: What was read from it.
        reading: How it was read.
        localiser: Finder of knees.
        read: Reader that cuts the knees out of the file, once they are found.
    """
    placed: list[Knee | Refusal] = []
    for each in found:
        if isinstance(each, Unplaced):
            placed += _cut(source, each, reading, localiser, read)
        elif isinstance(each, Knee) and each.located == "crop":
            placed.append(_marked(each, localiser))
        else:
            placed.append(each)
    return placed


def _cut(
    source: Source,
    film: Unplaced,
    reading: Reading,
    localiser: Localiser,
    read: Callable[[KneeFileJob], list[Knee | Refusal | Unplaced]],
) -> list[Knee | Refusal]:
    """Find the knees of a film, and cut them."""
    width_mm = film.picture.shape[1] * film.spacing_mm[0]
    single = width_mm <= CROP_MM
    try:
        knees = localiser.find(film.picture, most=1 if single else 2)
    except UnusableKnee as error:
        return [Refusal(film.source, "", error.reason, error.detail)]
    knees = sided(film.picture, knees, localiser)
    if len(knees) == 1 and film.side and knees[0].looks != film.side:
        again = localiser.again(film.picture, knees[0], film.side)
        if again is None or again.side_probability < 1 - CERTAIN_SIDE:
            detail = _other_side(knees[0].looks, film.side)
            return [Refusal(film.source, film.side, "side_mismatch", detail)]
        knees = [again]
    sides = [knee.looks for knee in knees]
    if len(set(sides)) < len(sides):
        detail = f"both knees of the film look like a {_WORDS[sides[0]]} one"
        return [Refusal(film.source, "", "same_side", detail)]
    points = {knee.looks: knee.points * film.spacing_mm for knee in knees}
    wrong = landmarks.check_orientation(points, None if single or len(knees) == 1 else width_mm)
    size_mm = (width_mm, film.picture.shape[0] * film.spacing_mm[1])
    for side, of_knee in points.items():
        try:
            landmarks.check_place(of_joint(of_knee), size_mm)
        except UnusableKnee as error:
            wrong.setdefault(side, error)
    wrong |= {knee.looks: knee.problem for knee in knees if knee.problem is not None}
    # Of a joint that is on the film, what of the shafts leaves it is seen by nobody.
    points = {knee.looks: within(knee.points, film.picture) * film.spacing_mm for knee in knees}
    if reading.side:
        points = {side: p for side, p in points.items() if side == reading.side}
        wrong = {side: p for side, p in wrong.items() if side == reading.side}
    if not points:
        detail = f"no {_WORDS[reading.side]} knee was found"
        return [Refusal(film.source, reading.side, "no_knee", detail)]
    cut = read(KneeFileJob(source, reading, found={**points, **wrong}))
    errors = {knee.looks: knee.error for knee in knees}
    notes = () if single or len(knees) > 1 else (ONLY_ONE,)
    return [
        dataclasses.replace(
            each, notes=each.notes + notes, landmark_error=errors.get(each.side, math.nan)
        )
        if isinstance(each, Knee)
        else each
        for each in cut
        if not isinstance(each, Unplaced)
    ]


def within(points: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Return landmarks [74, 2] in pixels of a picture, NaN beyond it."""
    inside = np.all((points > 0) & (points < picture.shape[::-1]), axis=1)
    return np.where(inside[:, None], points, np.nan)


def of_joint(points: np.ndarray) -> np.ndarray:
    """Return the landmarks of the joint alone, the others NaN: shafts may leave the picture."""
    kept = np.full_like(points, np.nan)
    kept[list(JOINT)] = points[list(JOINT)]
    return kept


def sided(picture: np.ndarray, knees: Sequence[Found], localiser: Localiser) -> list[Found]:
    """Return two knees with the sides that the film's layout gives them, unless they differ much.

    As seen from the front, the right knee is at the left. A single knee is left as it is.

    Args:
        picture: Film, uint8 [height, width].
        knees: One or two knees in it, from left to right.
        localiser: Finder of knees.
    """
    if len(knees) < 2:
        return list(knees)
    expected = ("R", "L")
    odds = 0.0
    for knee, side in zip(knees, expected, strict=True):
        p = np.clip(knee.side_probability, 0.01, 0.99)
        odds += (1 if knee.looks == side else -1) * float(np.log(p / (1 - p)))
    if odds < -CERTAIN_ODDS:
        return list(knees)
    again = [
        knee if knee.looks == side else localiser.again(picture, knee, side)
        for knee, side in zip(knees, expected, strict=True)
    ]
    return [new or old for new, old in zip(again, knees, strict=True)]


def _marked(knee: Knee, localiser: Localiser) -> Knee | Refusal:
    """Find the landmarks of a crop, and its side if that is unknown and the picture tells it."""
    # Of known side it is mirrored already, if it is a left knee, and must look like a right one.
    try:
        found = _found_as_said(knee, localiser)
    except UnusableKnee as error:
        return Refusal(knee.source, knee.side, error.reason, error.detail)
    if knee.side and (found.looks == "L" or found.side_probability < 1 - CERTAIN_SIDE):
        looks = "L" if knee.side == "R" else "R"
        return dataclasses.replace(knee, notes=(*knee.notes, _other_side(looks, knee.side)))
    if not knee.side and found.side_probability < CERTAIN_SIDE:
        return knee
    image, points = knee.image, found.points
    notes = tuple(note for note in knee.notes if note != UNKNOWN_SIDE_NOTE)
    if not knee.side:
        notes = (*notes, SIDE_SEEN)
        if found.looks == "L":
            image = np.ascontiguousarray(image[:, ::-1])
            points = np.array([image.shape[1], 0]) + points * [-1, 1]
    return dataclasses.replace(
        knee,
        side=knee.side or found.looks,
        image=image,
        landmarks=points.astype(np.float32),
        notes=notes,
        landmark_error=found.error,
    )


def _found_as_said(knee: Knee, localiser: Localiser) -> Found:
    """Find a crop's knee as one that looks right, if its side is known, and otherwise as any."""
    if knee.side:
        try:
            return localiser.find(knee.image, most=1, looks="R")[0]
        except UnusableKnee:
            pass
    return localiser.find(knee.image, most=1)[0]


def _other_side(looks: str, said: str) -> str:
    return OTHER_SIDE.format(looks=_WORDS[looks], said=_WORDS[said])
