"""Ready crops of single knees as PNG files: two layouts on disk, read in the same way.

`kneekl224`, a published data set: {split}/{KL grade}/{subject}{L|R}.png, OAI's baseline, 224x224
pixels of unknown spacing (Chen P. "Knee Osteoarthritis Severity Grading Dataset", Mendeley Data V1,
2018, doi:10.17632/56rmx5bjcr.1).

A study's own: crops/{subject}_{month}_{L|R}.png under the study's root, in place of films. It is
the layout of `MOST_OAI_FULL_0_2`, which the Oulu code bases share: 8-bit grey, pixels of 0.2 mm,
700x700 about the middle of the tibial plateau, both studies in one folder. The month has two
digits. A crop that was rotated onto a larger canvas is cut to its middle. (Facts from those code
bases; the folder itself was never published.)

In both layouts the files show left knees as imaged; they are mirrored on reading.
"""

import collections
import dataclasses
import math
import pathlib
import re
from collections.abc import Container, Mapping, Sequence
from typing import Protocol

import cv2
import numpy as np

from knee_jax.errors import UnusableKnee, UserError
from knee_jax.ingest import png, polarity, progression
from knee_jax.ingest.dicom import NOTES
from knee_jax.ingest.film import Roi
from knee_jax.ingest.inventory import UNREAD, Reading
from knee_jax.ingest.report import Example, Exclusion, Label, Note, example
from knee_jax.targets.grades import GRADES


class Region(Protocol):
    """Part of a crop that becomes the image of an example."""

    @property
    def spacing_mm(self) -> float:
        """Pixel size of the result, mm, NaN where unknown."""

    def cut(self, crop: np.ndarray) -> np.ndarray:
        """Make the image of an example, uint8 [height, width], from a grey crop.

        Raises:
            UnusableKnee: The crop is unsuitable.
        """


@dataclasses.dataclass(frozen=True)
class WholeCrop:
    """Crop used as it is, which must have a known size.

    Attributes:
        pixels: Required height and width.
        spacing_mm: Pixel size, mm, NaN where unknown.
    """

    pixels: int
    spacing_mm: float = math.nan

    def cut(self, crop: np.ndarray) -> np.ndarray:
        """Check size and depth of a crop, and return it.

        Raises:
            UnusableKnee: wrong_size.
        """
        if crop.shape != (self.pixels, self.pixels) or crop.dtype != np.uint8:
            found = f"{crop.shape[1]}x{crop.shape[0]} {crop.dtype}"
            wanted = f"{self.pixels}x{self.pixels} uint8"
            raise UnusableKnee("wrong_size", f"{found} instead of {wanted}")
        return crop


@dataclasses.dataclass(frozen=True)
class MiddleOfCrop:
    """Region of interest about the middle of a crop, whose tilt is left unchanged.

    Attributes:
        crop_spacing_mm: Pixel size of the crop, mm.
        roi: Size of the region, and its number of pixels in the result.
    """

    crop_spacing_mm: float
    roi: Roi

    @property
    def spacing_mm(self) -> float:
        """Pixel size of the result, mm."""
        return self.roi.spacing_mm

    def cut(self, crop: np.ndarray) -> np.ndarray:
        """Average the crop over the area of each pixel of the result.

        Raises:
            UnusableKnee: wrong_depth, or wrong_size (too small for the region of interest).
        """
        if crop.dtype != np.uint8:
            raise UnusableKnee("wrong_depth", f"{8 * crop.itemsize} bits instead of 8")
        size = round(self.roi.size_mm / self.crop_spacing_mm)
        height, width = crop.shape
        if min(height, width) < size:
            found = f"{width}x{height} pixels of {self.crop_spacing_mm} mm"
            raise UnusableKnee("wrong_size", f"{found}; {size}x{size} are needed")
        top, left = (height - size) // 2, (width - size) // 2
        middle = crop[top : top + size, left : left + size]
        pixels = (self.roi.pixels, self.roi.pixels)
        return cv2.resize(middle, pixels, interpolation=cv2.INTER_AREA)


def read_crop(path: pathlib.Path, side: str, region: Region) -> np.ndarray:
    """Read the image of one knee, oriented as a right knee.

    Args:
        path: Path of the crop.
        side: 'L' or 'R'; a left knee is mirrored.
        region: Part of the crop that becomes the image.

    Returns:
        Image, uint8 [height, width].

    Raises:
        UnusableKnee: A reason of `png.read_grey` or of the region.
    """
    image = region.cut(png.read_grey(path))
    return image if side == "R" else image[:, ::-1]


@dataclasses.dataclass(frozen=True)
class CropFile:
    """One ready crop, and what is known of its knee.

    Attributes:
        subject: Subject id in the study, '' where the file's name does not give it.
        side: 'L' or 'R' as imaged, '' where the file's name does not give it.
        visit: Months since baseline.
        cohort: Name of the study.
        source: Path relative to the root.
        site: Clinical site, '' where unknown.
        reading: Grades of the knee, or the reason for which it is unusable.
        labels: Further labels by column name.
    """

    subject: str
    side: str
    visit: int
    cohort: str
    source: str
    site: str = ""
    reading: Reading = UNREAD
    labels: Mapping[str, Label] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class CropJob:
    """Job that reads one crop and returns one example or one excluded knee, and any note.

    Attributes:
        root: Folder that the crop's path is relative to.
        file: Crop.
        region: Part of the crop that becomes the image.
        keypoints: Landmarks in the image, float [74, 2], pixels; None: unknown.
    """

    root: pathlib.Path
    file: CropFile
    region: Region
    keypoints: np.ndarray | None = None

    def __call__(self) -> list[Example | Exclusion | Note]:
        """Read the crop."""
        file = self.file
        if file.reading.unusable:
            return self.exclude(file.reading.unusable, file.reading.detail)
        try:
            image = read_crop(self.root / file.source, file.side, self.region)
        except UnusableKnee as error:
            return self.exclude(error.reason, error.detail)
        notes: list[Example | Exclusion | Note] = []
        if polarity.brightness_of_bone(image) < -polarity.DECIDED:
            name = "bones_look_dark"
            notes.append(Note(file.subject, file.visit, file.source, name, NOTES[name]))
        return [
            example(
                image,
                file.reading.grades,
                subject=file.subject,
                side=file.side,
                visit=file.visit,
                cohort=file.cohort,
                site=file.site,
                source=file.source,
                spacing_mm=self.region.spacing_mm,
                keypoints=self.keypoints,
                labels=file.labels,
            ),
            *notes,
        ]

    def exclude(self, reason: str, detail: str) -> list[Example | Exclusion | Note]:
        """Return the knee as excluded."""
        file = self.file
        return [Exclusion(file.subject, file.side, file.visit, file.source, reason, detail)]

    def paths(self) -> list[pathlib.Path]:
        """Return all paths that are read."""
        return [self.root / self.file.source]


# Layout of kneekl224.

SPLITS = ("train", "val", "test")
"""Splits that are read; `auto_test` holds knees of the test part again, cropped by a detector."""

KNEEKL224 = WholeCrop(224)
PROGRESSION_TABLE = "progression_labels.csv"

_KNEEKL224_NAME = re.compile(r"[^/]+/(?P<kl>[0-4])/(?P<subject>\d+)(?P<side>[LR])\.png")
_UNKNOWN_NAME = Reading(
    UNREAD.grades, "unknown_name", "the path is not {split}/{0..4}/{subject}{L|R}.png"
)


def find_kneekl224(root: pathlib.Path) -> dict[str, list[CropFile]]:
    """List the crops of every published split that is present, by sorted path.

    Raises:
        UserError: No split is present, or the folder of a split holds no file.
    """
    folders = [split for split in SPLITS if (root / split).is_dir()]
    if not folders:
        raise UserError(
            f"{root}: none of the folders {', '.join(SPLITS)} is here; "
            "give the unpacked download (doi:10.17632/56rmx5bjcr.1) with --manual_dir"
        )
    splits = {split: _visible_files(root, split) for split in folders}
    for split, sources in splits.items():
        if not sources:
            raise UserError(f"{root / split}: no files in this split; fill or remove the folder")
    return {
        split: [_kneekl224_file(root, str(source)) for source in sources]
        for split, sources in splits.items()
    }


def _visible_files(root: pathlib.Path, split: str) -> list[pathlib.PurePosixPath]:
    # Links to nothing are listed too: their knees are told as excluded.
    found = (
        path.relative_to(root)
        for path in (root / split).rglob("*")
        if path.is_file() or _is_dangling(path)
    )
    visible = (path for path in found if not any(part.startswith(".") for part in path.parts))
    return sorted(pathlib.PurePosixPath(path.as_posix()) for path in visible)


def _is_dangling(path: pathlib.Path) -> bool:
    return path.is_symlink() and not path.exists()


def _kneekl224_file(root: pathlib.Path, source: str) -> CropFile:
    name = _KNEEKL224_NAME.fullmatch(source)
    if name is None:
        return CropFile("", "", 0, "OAI", source, reading=_UNKNOWN_NAME)
    grades = UNREAD.grades.copy()
    grades[GRADES.index("kl")] = int(name["kl"])
    reading = Reading(grades)
    if _is_dangling(root / source):
        reading = Reading(grades, "dangling_link", "the link leads to no file")
    return CropFile(name["subject"], name["side"], 0, "OAI", source, reading=reading)


def add_progression(
    root: pathlib.Path, splits: Mapping[str, Sequence[CropFile]]
) -> tuple[dict[str, list[CropFile]], dict[str, int]]:
    """Join crops with the published labels of progression (`progression.read_labels`).

    Args:
        root: Folder of the crops; the table is in it, or beside it.
        splits: Crops of `find_kneekl224`.

    Returns:
        The crops with progression, -1 where the table does not name the knee; and counts for the
        ingest report.

    Raises:
        UserError: There is no table, it cannot be used, or it is of other knees (its KL differs).
    """
    places = (root / PROGRESSION_TABLE, root.parent / PROGRESSION_TABLE)
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise UserError(
            f"{root}: {PROGRESSION_TABLE} is neither here nor beside this folder; copy it here, or "
            "prepare kneekl224 without progression"
        )
    table = progression.read_labels(path)
    named: dict[str, int] = {}
    unused = set(table)
    for file in (file for files in splits.values() for file in files):
        knee = (file.subject, file.side)
        if knee not in table:
            continue
        kl, named[file.source] = table[knee]
        unused.discard(knee)
        if kl != file.reading.grades[GRADES.index("kl")]:
            raise UserError(
                f"{path}: KL {kl} of {' '.join(knee)} is not that of {file.source}; the table must "
                "be of these knees"
            )
    labelled = {
        split: [
            dataclasses.replace(
                file,
                labels={progression.COLUMN: np.int8(named.get(file.source, progression.UNKNOWN))},
            )
            for file in files
        ]
        for split, files in splits.items()
    }
    notes = {
        "crops_without_progression": sum(map(len, splits.values())) - len(named),
        "labels_without_a_crop": len(unused),
    }
    return labelled, notes


# Layout of a study.

FOLDER = "crops"

_STUDY_NAME = re.compile(r"(?P<subject>[A-Za-z0-9]+)_(?P<month>\d\d)_(?P<side>[LR])\.png")


def find_crops_of_study(
    root: pathlib.Path,
    subjects: re.Pattern[str],
    months: Container[int],
    notes: collections.Counter[str],
) -> tuple[dict[tuple[str, int], list[str]], list[Exclusion]]:
    """List the crops of one study.

    Args:
        root: Root folder of the study.
        subjects: Pattern of the study's ids.
        months: Months of the visits of the study.
        notes: Counter of `crops_of_another_study` and `files_of_other_names`, updated in place.

    Returns:
        Paths relative to `root` by (subject, month), sorted; and the crops of visits that the study
        does not have, as visit_unknown.

    Raises:
        UserError: There is no crop of this study.
    """
    found: dict[tuple[str, int], list[str]] = collections.defaultdict(list)
    exclusions = []
    notes["crops_of_another_study"] = notes["files_of_other_names"] = 0
    for path in sorted((root / FOLDER).glob("*")):
        source = path.relative_to(root).as_posix()
        if path.name.startswith("."):
            continue
        if not (name := _STUDY_NAME.fullmatch(path.name)):
            # Not quoted, since it may be a person's name; its knee, if any, has no crop.
            notes["files_of_other_names"] += 1
            continue
        subject, month = name["subject"].upper(), int(name["month"])
        if not subjects.fullmatch(subject):
            notes["crops_of_another_study"] += 1
        elif month not in months:
            detail = f"the study has no visit at month {month}"
            exclusions.append(Exclusion(subject, name["side"], -1, source, "visit_unknown", detail))
        else:
            found[subject, month].append(source)
    if not found:
        raise UserError(
            f"{root / FOLDER}: no crops of this study are here; they should be called "
            "{subject}_{month}_{L|R}.png"
        )
    return found, exclusions


def side_of(source: str) -> str:
    """Return the side, 'L' or 'R', of a path of `find_crops_of_study`."""
    return pathlib.PurePosixPath(source).stem[-1]
