"""Knees in files of any kind: films with landmarks, and crops of single knees.

A film is a DICOM file; its knees are cut by their landmark files, `X.pts` and `X_f.pts` for a film
`X`, by landmarks that are given, or, if asked for, about the middle of each half. A picture (PNG,
JPEG, TIFF) that is about as wide as high is a crop of one knee, and another one a film, whose pixel
size is unknown if none is given. Identity in headers is neither read nor passed on.
"""

import dataclasses
import functools
import math
import pathlib
import re
from collections.abc import Callable, Mapping

import cv2
import numpy as np

from knee_jax.errors import UnusableKnee
from knee_jax.ingest import archives, dicom, dicom_header, film, landmarks, picture_files, polarity
from knee_jax.ingest.sources import Source
from knee_jax.landmarks import NUM_LANDMARKS, PLATEAU, PLATEAU_CENTRE

ROI_MM = 140.0
"""Side of the region of interest, mm, as in all prepared sets."""

CROP_WIDTHS, CROP_RISE = 1.273, 0.062
"""Side of a crop of `kneekl224`, and the height of its middle over the plateau's, in widths of the
plateau: means of the 823 crops of its validation part whose landmarks the localiser finds (standard
deviations 0.043 and 0.035).
"""

WIDTH_MM = 79.0
"""Width of a plateau that is unknown, mm: the mean of KNEEL's 748 real knees."""

CROP_MM = 200.0
"""Width up to which a film shows a crop of one knee, mm."""

ASSUMED_MM = 430.0
"""Longer side of a film whose pixel size is unknown, mm, until a plateau is found on it."""

PICTURE_MM = 0.4
"""Pixel size of a film's picture for a localiser, mm, if its own are not larger."""

LONGEST, LONGEST_FILM = 1.35, 6.0
"""Ratio of the longer to the shorter side up to which a picture is a crop of one knee, and a film
is looked at: of both legs whole it is about 3.
"""

UNKNOWN_SIDE_NOTE = "the side is unknown: read as both, and averaged; _L or _R in its name tells it"
"""Note on a crop of unknown side."""

_SIDE_IN_NAME = re.compile(
    r"(?:^|[^A-Za-z])(?P<word>left|right|[LR])(?=[^A-Za-z]|$)", re.IGNORECASE
)
_INDEX = "DICOMDIR"

REFUSALS = {
    "no_landmarks": "a film of both knees without landmark files; give --landmarks=FOLDER, crop "
    "each knee, or take the middle of each half by --roi=middle",
    "not_a_crop": "the picture is too long for a crop of one knee; crop it, or leave out --roi, so "
    "that its knees are looked for",
    "too_long": "too long and thin for a film of knees; crop it",
    "flat_image": "the picture shows nothing",
    "link_out": "a link to a file outside of what was given",
    "index_of_files": "an index of DICOM files, which are read themselves",
    "not_dicom": "neither a film (DICOM) nor a picture (PNG, JPEG, TIFF)",
}
"""Reasons of this module, and what can be done; other reasons are those of `dicom`."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """How files are read where they do not tell themselves.

    Attributes:
        pixels: Side of the resulting images, pixels.
        side: 'L' or 'R' for every knee; '' to read it from header, layout or name.
        spacing_mm: Pixel size of films that carry none, mm; None: unknown.
        landmarks: Folder of landmark files; None: they lie beside the films.
        middle: Whether a film without landmarks is cut about the middle of each half.
        localise: Whether a film without landmarks is returned for a localiser to look at.
        like_crops: Whether a film's knees are cut as the crops of `kneekl224` are, for models that
            know such alone; otherwise the region is of `ROI_MM`, the plateau horizontal.
    """

    pixels: int
    side: str = ""
    spacing_mm: float | None = None
    landmarks: pathlib.Path | None = None
    middle: bool = False
    localise: bool = False
    like_crops: bool = False


@dataclasses.dataclass(frozen=True)
class Knee:
    """One knee that was read.

    Attributes:
        source: Path of the file, as it was found.
        side: 'L', 'R', or '' if unknown.
        image: Region of interest, oriented as a right knee if the side is known, uint8 [pixels,
            pixels].
        landmarks: Landmarks in it, float32 [74, 2], NaN where unknown.
        located: Where the region came from: 'landmarks', 'localiser', 'middle' or 'crop'.
        notes: What was strange, in words.
        landmark_error: Error to be expected of the joint's landmarks that a localiser found, as a
            share of the plateau's width; NaN where none did.
        spacing_mm: Pixel size of the image, mm; NaN where unknown.
        corners: Corners of the image on its film, clockwise in the image from its upper left one,
            float64 [4, 2], (x, y) as shares of the film's width and height; None of a crop.
    """

    source: str
    side: str
    image: np.ndarray
    landmarks: np.ndarray
    located: str
    notes: tuple[str, ...] = ()
    landmark_error: float = math.nan
    spacing_mm: float = math.nan
    corners: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Unplaced:
    """A film whose knees are to be found.

    Attributes:
        source: Path of the file, as it was found.
        side: 'L' or 'R' as the header, the name or the user says, '' if unknown.
        picture: The film, uint8 [height, width], of pixels of `PICTURE_MM` or more.
        spacing_mm: Width and height of its pixels, mm.
        assumed_mm: Pixel size of the file that was assumed, since it is unknown, mm; None: known.
        is_picture: Whether the file is a picture, whose bones may be dark; headers say so of films.
    """

    source: str
    side: str
    picture: np.ndarray
    spacing_mm: tuple[float, float]
    assumed_mm: float | None = None
    is_picture: bool = False


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A file, or a knee in it, that cannot be graded.

    Attributes:
        source: Path of the file, as it was found.
        side: 'L', 'R', or '' for all of the file.
        reason: Name of the reason.
        detail: What was found, and what to do.
    """

    source: str
    side: str
    reason: str
    detail: str


def landmark_files(source: Source, folder: pathlib.Path | None) -> list[pathlib.Path]:
    """Return the possible paths of the landmark files of a film, there or not.

    Args:
        source: File.
        folder: Folder of landmark files; None: they lie beside the films.
    """
    root, name = _landmark_place(source, folder)
    return [path for side in ("R", "L") for path in landmarks.files(root, name, side)]


def _landmark_place(source: Source, folder: pathlib.Path | None) -> tuple[pathlib.Path, str]:
    if folder is not None:
        return folder, source.name
    return source.path.parent, source.path.name


@dataclasses.dataclass(frozen=True)
class KneeFileJob:
    """Job that reads the knees of one file, the right one first; each is kept or refused.

    Attributes:
        source: File to read.
        reading: How it is read.
        found: Landmarks by side that a localiser found on a film, float64 [74, 2], mm from its
            upper left corner, or why a knee cannot be used; None: it has not looked at it.
        as_film: Whether a picture is a film, whatever its shape.
        inverted: Whether a picture is a negative, and to be inverted.
        whole: Whether a film is returned as it is, though landmark files say where its knees are.
    """

    source: Source
    reading: Reading
    found: Mapping[str, np.ndarray | UnusableKnee] | None = None
    as_film: bool = False
    inverted: bool = False
    whole: bool = False

    def __call__(self) -> list[Knee | Refusal | Unplaced]:
        """Read the file."""
        try:
            if self.source.outside:
                raise _refusal("link_out")
            if self.source.never_read:
                raise UnusableKnee("not_read_from_archive", self.source.never_read)
            if self.source.path.name.upper() == _INDEX:
                raise _refusal("index_of_files")
            data = archives.read(self.source.path)
            if not data:
                raise UnusableKnee("empty_file", "the file is empty; copy it again")
            picture = picture_files.decode(data)
            if picture is None:
                return self._film()
            if self._is_film(picture):
                return self._picture_film(picture)
            return [self._crop(picture, self._side_of_name(), ())]
        except UnusableKnee as error:
            return [Refusal(self.source.name, "", error.reason, error.detail)]
        except OSError as error:
            return [
                Refusal(self.source.name, "", "unreadable", error.strerror or "it cannot be read")
            ]

    def _side_of_name(self) -> str:
        if self.reading.side:
            return self.reading.side
        stem = pathlib.PurePosixPath(self.source.name).stem
        found = {match["word"][0].upper() for match in _SIDE_IN_NAME.finditer(stem)}
        return found.pop() if len(found) == 1 else ""

    def _crop(self, pixels: np.ndarray, side: str, notes: tuple[str, ...]) -> Knee:
        """Take a crop of one knee as it is: its middle square, resized."""
        height, width = pixels.shape
        if max(height, width) > LONGEST * min(height, width):
            raise _refusal("not_a_crop", f"{width} x {height} pixels")
        if pixels.dtype != np.uint8:
            low, high = film.intensity_window(pixels)
            scaled = (pixels.astype(np.float32) - low) * (255 / (high - low))
            pixels = np.rint(scaled.clip(0, 255)).astype(np.uint8)
        if np.ptp(pixels) < 8:
            raise _refusal("flat_image")
        size = min(height, width)
        top, left = (height - size) // 2, (width - size) // 2
        square = pixels[top : top + size, left : left + size]
        shape = (self.reading.pixels,) * 2
        how = cv2.INTER_AREA if size > self.reading.pixels else cv2.INTER_LINEAR
        image = square if square.shape == shape else cv2.resize(square, shape, interpolation=how)
        if polarity.brightness_of_bone(image) < -polarity.DECIDED:
            notes += (dicom.NOTES["bones_look_dark"],)
        if not side:
            notes += (UNKNOWN_SIDE_NOTE,)
        image = np.ascontiguousarray(image[:, ::-1] if side == "L" else image)
        return Knee(self.source.name, side, image, _unknown(), "crop", notes)

    def _is_film(self, picture: np.ndarray) -> bool:
        """Tell a film from a crop of one knee."""
        if not self.reading.localise:
            return False
        width = picture.shape[1] * (self.reading.spacing_mm or 0.0)
        is_long = max(picture.shape) > LONGEST * min(picture.shape)
        return self.as_film or self.found is not None or is_long or width > CROP_MM

    def _picture_film(self, picture: np.ndarray) -> list[Knee | Refusal | Unplaced]:
        """Read a film that is a picture."""
        known = self.reading.spacing_mm
        notes: tuple[str, ...] = ()
        spacing = known or ASSUMED_MM / max(picture.shape)
        if self.inverted:
            picture, notes = int(picture.max()) - picture, ("inverted_by_the_picture",)
        radiograph = dicom.Film(picture, (spacing, spacing), notes)
        window = film.intensity_window(picture)
        found = self._knees(radiograph, window, self._side_of_name)
        return [
            dataclasses.replace(each, assumed_mm=None if known else spacing, is_picture=True)
            if isinstance(each, Unplaced)
            else each
            for each in found
        ]

    def _film(self) -> list[Knee | Refusal | Unplaced]:
        """Read a DICOM film."""
        try:
            wanted = ("BodyPartExamined", "ViewPosition")
            header = dicom_header.read_header(self.source.path, wanted)
        except UnusableKnee as error:
            if error.reason != "not_dicom":
                raise
            raise UnusableKnee("not_dicom", f"{REFUSALS['not_dicom']}: {error.detail}") from error
        _check_part(header)

        def side() -> str:
            header = dicom_header.read_header(self.source.path, _LATERALITY)
            return self.reading.side or _side_of_header(header) or self._side_of_name()

        return self._knees(*self._radiograph(), side)

    def _knees(
        self, radiograph: dicom.Film, window: tuple[float, float], side_of: Callable[[], str]
    ) -> list[Knee | Refusal | Unplaced]:
        """Cut the knees out of a film, if their places are known."""
        notes = tuple(dicom.NOTES[name] for name in radiograph.notes)
        height, width = radiograph.pixels.shape
        size_mm = (width * radiograph.spacing_mm[0], height * radiograph.spacing_mm[1])
        points = {} if self.whole else self._landmarks(size_mm)
        if self.found is not None:
            points, located = dict(self.found), "localiser"
        elif points:
            located = "landmarks"
        elif size_mm[0] <= CROP_MM and max(size_mm) <= LONGEST * min(size_mm) and not self.as_film:
            return [self._crop(radiograph.pixels, side_of(), notes)]
        elif self.reading.middle:
            points, located = self._middles(size_mm), "middle"
        elif self.reading.localise:
            if max(size_mm) > LONGEST_FILM * min(size_mm):
                raise _refusal("too_long", f"{width} x {height} pixels")
            return [Unplaced(self.source.name, side_of(), *picture_of(radiograph, window))]
        else:
            raise _refusal("no_landmarks")
        knees: list[Knee | Refusal | Unplaced] = []
        for side, found in points.items():
            if isinstance(found, UnusableKnee):
                knees.append(Refusal(self.source.name, side, found.reason, found.detail))
                continue
            roi = self._region(found)
            image, keypoints = film.cut_roi(radiograph, window, found, side, roi)
            keypoints = _unknown() if located == "middle" else keypoints.astype(np.float32)
            knee = Knee(self.source.name, side, image, keypoints, located, notes)
            corners = film.corners_on_film(found, side, roi) / size_mm
            knees.append(dataclasses.replace(knee, spacing_mm=roi.spacing_mm, corners=corners))
        return knees

    def _radiograph(self) -> tuple[dicom.Film, tuple[float, float]]:
        """Return the film, and the grey values that become 0 and 255."""
        path, spacing = self.source.path, self.reading.spacing_mm
        if not self.reading.localise:
            return _read_film(path, spacing)
        status = archives.on_disk(path).stat()
        found = _kept_film(path, spacing, status.st_size, status.st_mtime_ns)
        if self.found is not None:
            _kept_film.cache_clear()
        return found

    def _region(self, points: np.ndarray) -> film.Roi:
        """Return the region of interest of a knee with landmarks [74, 2], mm, NaN where unknown."""
        if not self.reading.like_crops:
            return film.Roi(ROI_MM, self.reading.pixels)
        width = float(np.linalg.norm(points[PLATEAU[-1]] - points[PLATEAU[0]]))
        width = width if math.isfinite(width) else WIDTH_MM
        return film.Roi(
            CROP_WIDTHS * width, self.reading.pixels, level_plateau=False, rise_mm=CROP_RISE * width
        )

    def _landmarks(self, size_mm: tuple[float, float]) -> dict[str, np.ndarray | UnusableKnee]:
        """Return the landmarks of the knees that have a file of them, or what is wrong with it."""
        root, name = _landmark_place(self.source, self.reading.landmarks)
        found: dict[str, np.ndarray | UnusableKnee] = {}
        for side in (self.reading.side,) if self.reading.side else ("R", "L"):
            if not any(archives.exists(file) for file in landmarks.files(root, name, side)):
                continue
            try:
                points = landmarks.read_landmarks(root, name, side, size_mm[0])
                landmarks.check_place(points, size_mm)
                found[side] = points
            except UnusableKnee as error:
                found[side] = error
        good = {side: knee for side, knee in found.items() if isinstance(knee, np.ndarray)}
        single = size_mm[0] <= CROP_MM
        return found | landmarks.check_orientation(good, None if single else size_mm[0])

    def _middles(self, size_mm: tuple[float, float]) -> dict[str, np.ndarray | UnusableKnee]:
        """Return the middle of each half as the centre of its knee, without other points."""
        width, height = size_mm
        # As seen from the front, the right knee is at the left.
        places = {"R": width / 4, "L": 3 * width / 4}
        if self.reading.side or width <= CROP_MM:
            places = {self.reading.side or "R": width / 2}
        found: dict[str, np.ndarray | UnusableKnee] = {}
        for side, x in places.items():
            points = np.full((NUM_LANDMARKS, 2), np.nan)
            points[PLATEAU_CENTRE] = x, height / 2
            found[side] = points
        return found


def _read_film(
    path: pathlib.Path, spacing_mm: float | None
) -> tuple[dicom.Film, tuple[float, float]]:
    radiograph = dicom.read_film(path, None, spacing_mm)
    return radiograph, film.intensity_window(radiograph.pixels, radiograph.padding)


@functools.lru_cache(maxsize=1)
def _kept_film(
    path: pathlib.Path, spacing_mm: float | None, size: int, changed: int
) -> tuple[dicom.Film, tuple[float, float]]:
    """Read a film and keep it, since its knees are cut once the localiser has found them."""
    return _read_film(path, spacing_mm)


def picture_of(
    radiograph: dicom.Film, window: tuple[float, float]
) -> tuple[np.ndarray, tuple[float, float]]:
    """Return a film's picture for a localiser, uint8 [height, width], and its spacing (x, y), mm.

    Args:
        radiograph: Film.
        window: Grey values that become 0 and 255.
    """
    low, high = window
    height, width = radiograph.pixels.shape
    size = [
        max(8, round(number * min(1.0, spacing / PICTURE_MM)))
        for number, spacing in zip((width, height), radiograph.spacing_mm, strict=True)
    ]
    grey = (radiograph.pixels.astype(np.float32) - low) * (255 / (high - low))
    picture = cv2.resize(grey.clip(0, 255), size, interpolation=cv2.INTER_AREA)
    spacing = (
        width * radiograph.spacing_mm[0] / size[0],
        height * radiograph.spacing_mm[1] / size[1],
    )
    return np.rint(picture).astype(np.uint8), spacing


# fmt: off
_OTHER_PARTS = (
    "CHEST", "THORAX", "LUNG", "RIB", "CLAVICLE", "SHOULDER", "ARM", "HUMERUS", "ELBOW",
    "FOREARM", "WRIST", "HAND", "FINGER", "THUMB", "SKULL", "HEAD", "NECK", "JAW", "DENTAL",
    "SPINE", "SACRUM", "COCCYX", "PELVIS", "HIP", "ABDOMEN", "BREAST", "ANKLE", "FOOT", "TOE",
    "HEEL",
)
# fmt: on
_GIVE = "give a frontal film of the knees, or mend its header (BodyPartExamined, ViewPosition)"
_OTHER_VIEWS = ("LL", "RL", "LAT", "LATERAL", "SKYLINE", "SUNRISE", "MERCHANT", "AXIAL")


def _check_part(header: object) -> None:
    """Raise UnusableKnee if the header names another part of the body, or another view."""
    part, view = (
        str(getattr(header, keyword, "") or "").upper()
        for keyword in ("BodyPartExamined", "ViewPosition")
    )
    if "KNEE" not in part and (named := [each for each in _OTHER_PARTS if each in part]):
        raise UnusableKnee("other_body_part", f"its header says {named[0]}, not KNEE; {_GIVE}")
    if view in _OTHER_VIEWS:
        raise UnusableKnee("other_view", f"its header says view {view}, not a frontal one; {_GIVE}")


_LATERALITY = ("ImageLaterality", "Laterality")


def _side_of_header(header: object) -> str:
    named = {str(getattr(header, keyword, "") or "").upper() for keyword in _LATERALITY} & {
        "L",
        "R",
    }
    return named.pop() if len(named) == 1 else ""


def _unknown() -> np.ndarray:
    return np.full((NUM_LANDMARKS, 2), np.nan, np.float32)


def _refusal(reason: str, found: str = "") -> UnusableKnee:
    return UnusableKnee(reason, f"{found}: {REFUSALS[reason]}" if found else REFUSALS[reason])
