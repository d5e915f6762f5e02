"""Knees of files that have no landmarks, placed and marked by the localiser."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from knee_jax.errors import UnusableKnee
from knee_jax.inference import side_marker
from knee_jax.inference.found import JOINT, Found
from knee_jax.inference.locate import Localiser
from knee_jax.inference.occlusion import bone_contrast
from knee_jax.ingest import dicom, landmarks
from knee_jax.ingest.knee_files import (
    CROP_MM,
    CROP_RISE,
    CROP_WIDTHS,
    ROI_MM,
    UNKNOWN_SIDE_NOTE,
    WIDTH_MM,
    Knee,
    KneeFileJob,
    Reading,
    Refusal,
    Unplaced,
)
from knee_jax.ingest.sources import Source
from knee_jax.landmarks import PLATEAU_CENTRE, SIDE_WORDS

_LOOKS = "it looks like a"
OTHER_SIDE = (
    f"{_LOOKS} {{looks}} knee, and was said to be a {{said}} one: its name, its header or the "
    "side that was given is wrong, or the picture is mirrored"
)
CERTAIN_SIDE = 0.9
"""Probability from which a side that a knee looks like is believed, or told."""

CERTAIN_ODDS = 3.0
"""Logarithm of the odds from which two knees that lie against a film's layout are believed."""

CERTAIN_CONTRAST = 0.1
"""Contrast of the bones from which a picture that was inverted is believed: of 300 real crops six
are negatives, the others have 0.28 and more as they are, and none of their negatives more than
-0.2; one of 147 further ones that was inverted has 0.23.
"""

INVERTED = dicom.NOTES["inverted_by_the_picture"]
NO_SCALE = (
    f"the pixel size is unknown: taken from a plateau of {WIDTH_MM:.0f} mm, and no width is "
    "measured"
)
SMALL, OFF_CENTRE = 0.82, 0.2
"""Share of the size that a model knows, and distance from the middle in widths of the plateau, from
which a knee is cut out of a picture that might be a crop. Of 250 real crops, those of which the
models know, the smallest has 0.9.
"""

TWO_KNEES = ("same_side", "sides_swapped", "mirrored_film", "letter_mismatch")
"""Reasons to refuse a picture of two knees, which is no crop of one."""

ONLY_ONE = "only one knee was found on the film"
SIDE_SEEN = "the side was guessed from the picture"


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
            placed += _of_crop(source, each, reading, localiser, read)
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
    single = film.assumed_mm is None and film.picture.shape[1] * film.spacing_mm[0] <= CROP_MM
    try:
        film, knees, inverted = _look(film, localiser, 1 if single else 2)
    except UnusableKnee as error:
        return [Refusal(film.source, "", error.reason, error.detail)]
    unscaled = film.assumed_mm is not None
    if film.assumed_mm is not None:
        film, reading = scaled(film, film.assumed_mm, reading, knees)
    believed = _of_their_sides(film, knees, localiser)
    if isinstance(believed, Refusal):
        return [believed]
    knees = believed
    try:
        side_marker.check(film.picture, film.spacing_mm, knees)
    except UnusableKnee as error:
        return [Refusal(film.source, "", error.reason, error.detail)]
    alone = len(knees) == 1 and not single
    places = _places(film, knees, has_layout=len(knees) > 1 and not single)
    if reading.side:
        places = {side: place for side, place in places.items() if side == reading.side}
    if not places:
        detail = f"no {SIDE_WORDS[reading.side]} knee was found"
        return [Refusal(film.source, reading.side, "no_knee", detail)]
    notes: tuple[str, ...] = (ONLY_ONE,) if alone and not unscaled else ()
    if unscaled:
        notes = (NO_SCALE, SIDE_SEEN) if alone and not film.side else (NO_SCALE,)
    errors = {knee.looks: knee.error for knee in knees}
    return [
        dataclasses.replace(
            each,
            notes=each.notes + notes,
            landmark_error=errors.get(each.side, math.nan),
            spacing_mm=math.nan if unscaled else each.spacing_mm,
        )
        if isinstance(each, Knee)
        else each
        for each in read(KneeFileJob(source, reading, found=places, inverted=inverted))
        if not isinstance(each, Unplaced)
    ]


def _look(film: Unplaced, localiser: Localiser, most: int) -> tuple[Unplaced, list[Found], bool]:
    """Return a film with bright bones, its knees, and whether it had to be inverted for that.

    Raises:
        UnusableKnee: There is no knee, or none that can be used.
    """

    def find(picture: np.ndarray) -> list[Found]:
        return localiser.find(picture, most=most)

    knees, inverted = _seen(film.picture, find) if film.is_picture else (find(film.picture), False)
    if inverted:
        film = dataclasses.replace(film, picture=255 - film.picture)
    return film, sided(film.picture, knees, localiser), inverted


def _of_their_sides(
    film: Unplaced, knees: list[Found], localiser: Localiser
) -> list[Found] | Refusal:
    """Return a film's knees as of the sides that they are said to be, or why they are not."""
    if len(knees) == 1 and film.side and knees[0].looks != film.side:
        again = localiser.again(film.picture, knees[0], film.side)
        if again is None or again.side_probability < 1 - CERTAIN_SIDE:
            detail = _other_side(knees[0].looks, film.side)
            return Refusal(film.source, film.side, "side_mismatch", detail)
        knees = [again]
    sides = [knee.looks for knee in knees]
    if len(set(sides)) < len(sides):
        detail = f"both knees of the film look like a {SIDE_WORDS[sides[0]]} one"
        return Refusal(film.source, "", "same_side", detail)
    return knees


def _places(
    film: Unplaced, knees: list[Found], *, has_layout: bool
) -> dict[str, np.ndarray | UnusableKnee]:
    """Return landmarks by side, mm, or why a knee cannot be used.

    Args:
        film: Film.
        knees: Its knees, each of its own side.
        has_layout: Whether the right knee must lie at the left.
    """
    height, width = film.picture.shape
    size_mm = (width * film.spacing_mm[0], height * film.spacing_mm[1])
    points = {knee.looks: knee.points * film.spacing_mm for knee in knees}
    wrong = landmarks.check_orientation(points, size_mm[0] if has_layout else None)
    for side, of_knee in points.items():
        try:
            landmarks.check_place(of_joint(of_knee), size_mm)
        except UnusableKnee as error:
            wrong.setdefault(side, error)
    wrong |= {knee.looks: knee.problem for knee in knees if knee.problem is not None}
    # Of a joint that is on the film, what of the shafts leaves it is seen by nobody.
    points = {knee.looks: within(knee.points, film.picture) * film.spacing_mm for knee in knees}
    return {**points, **wrong}


def scaled(
    film: Unplaced, assumed_mm: float, reading: Reading, knees: Sequence[Found]
) -> tuple[Unplaced, Reading]:
    """Give a film the pixel size by which its plateaus are `WIDTH_MM` wide."""
    factor = WIDTH_MM / float(np.mean([knee.width for knee in knees]) * film.spacing_mm[0])
    x, y = film.spacing_mm
    film = dataclasses.replace(film, spacing_mm=(x * factor, y * factor))
    return film, dataclasses.replace(reading, spacing_mm=assumed_mm * factor)


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


def _of_crop(
    source: Source,
    knee: Knee,
    reading: Reading,
    localiser: Localiser,
    read: Callable[[KneeFileJob], list[Knee | Refusal | Unplaced]],
) -> list[Knee | Refusal]:
    """Mark a crop of one knee; cut the knees out of a picture that only looks like one."""
    try:
        positive, found = _positive(knee, localiser)
    except UnusableKnee as error:
        return [Refusal(knee.source, knee.side, error.reason, error.detail)]
    if _is_loose(found, reading):
        again = read(KneeFileJob(source, reading, as_film=True))
        films = [each for each in again if isinstance(each, Unplaced)]
        cut = [k for film in films for k in _cut(source, film, reading, localiser, read)]
        # If it found none, or one of another side, the crop is read as it is, with its notes.
        if any(isinstance(k, Knee) or k.reason in TWO_KNEES for k in cut):
            return cut
    return [_marked(positive, found)]


def _is_loose(found: Found, reading: Reading) -> bool:
    """Tell if a knee is smaller in its picture than models know it, or far from the middle."""
    expected = 1 / CROP_WIDTHS if reading.like_crops else WIDTH_MM / ROI_MM
    rise = CROP_RISE * found.width if reading.like_crops else 0.0
    middle = np.array([0.0, rise]) + reading.pixels / 2
    away = float(np.linalg.norm(found.points[PLATEAU_CENTRE] - middle))
    size = found.width / (expected * reading.pixels)
    return size < SMALL or (size < 1 and away > OFF_CENTRE * found.width)


def _marked(knee: Knee, found: Found) -> Knee | Refusal:
    """Give a crop its landmarks, and its side if that is unknown and the picture tells it."""
    # Of known side it is mirrored already, if it is a left knee, and must look like a right one.
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


def _positive(knee: Knee, localiser: Localiser) -> tuple[Knee, Found]:
    """Find a crop's knee, in its negative if the crop is one."""

    def find(image: np.ndarray) -> list[Found]:
        return [_found_as_said(dataclasses.replace(knee, image=image), localiser)]

    (found,), inverted = _seen(knee.image, find)
    # Outlines tell more than the profile of a film, by which this note came.
    notes = tuple(note for note in knee.notes if note != dicom.NOTES["bones_look_dark"])
    if not inverted:
        return dataclasses.replace(knee, notes=notes), found
    return dataclasses.replace(knee, image=255 - knee.image, notes=(*notes, INVERTED)), found


def _seen(
    picture: np.ndarray, find: Callable[[np.ndarray], list[Found]]
) -> tuple[list[Found], bool]:
    """Find the knees of a picture, or of its inverse; tell which. Raises UnusableKnee as `find`."""
    problem = None
    try:
        found = find(picture)
        if bone_contrast(picture, found[0]) >= 0:
            return found, False
    except UnusableKnee as error:
        if error.reason not in ("no_knee", "not_marked"):
            raise
        problem = error
    inverse = 255 - picture
    try:
        again = find(inverse)
        if bone_contrast(inverse, again[0]) > CERTAIN_CONTRAST:
            return again, True
    except UnusableKnee:
        pass
    if problem:
        raise problem
    return found, False


def _found_as_said(knee: Knee, localiser: Localiser) -> Found:
    """Find a crop's knee as one that looks right, if its side is known, and otherwise as any."""
    if knee.side:
        try:
            return localiser.find(knee.image, most=1, looks="R")[0]
        except UnusableKnee:
            pass
    return localiser.find(knee.image, most=1)[0]


def may_be_other_side(notes: str) -> bool:
    """Tell if notes say that a knee looks like the other side than it was said to be."""
    return _LOOKS in notes


def _other_side(looks: str, said: str) -> str:
    return OTHER_SIDE.format(looks=SIDE_WORDS[looks], said=SIDE_WORDS[said])
