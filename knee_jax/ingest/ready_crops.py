"""Ready crops of a study's knees: crops/{subject}_{month}_{L|R}.png under the study's root.

The layout of `MOST_OAI_FULL_0_2`, which the Oulu code bases share: 8-bit grey, pixels of 0.2 mm,
700 x 700 about the middle of the tibial plateau, left knees not mirrored, both studies in one
folder. The month has two digits. A crop that was turned on a larger canvas is cut to its middle.
(Facts from those code bases; the folder itself was never published.)
"""

import collections
import pathlib
import re
from collections.abc import Container

import cv2
import numpy as np

from knee_jax.errors import UnusableKnee, UserError
from knee_jax.ingest import png
from knee_jax.ingest.account import Dropped
from knee_jax.ingest.film import Roi

FOLDER = "crops"

_NAME = re.compile(r"(?P<subject>[A-Za-z0-9]+)_(?P<month>\d\d)_(?P<side>[LR])\.png")


def find_crops(
    root: pathlib.Path,
    subjects: re.Pattern[str],
    months: Container[int],
    notes: collections.Counter[str],
) -> tuple[dict[tuple[str, int], list[str]], list[Dropped]]:
    """Lists the crops of one study.

    Args:
        root: the study's folder.
        subjects: what the study's ids look like.
        months: visits that the study has.
        notes: where `crops_of_another_study` and `files_of_other_names` are counted.

    Returns:
        Paths relative to `root` by (subject, month), sorted; and those of visits that the study has
        not: visit_unknown.

    Raises:
        UserError: no crop of this study is there.
    """
    found: dict[tuple[str, int], list[str]] = collections.defaultdict(list)
    dropped = []
    notes["crops_of_another_study"] = notes["files_of_other_names"] = 0
    for path in sorted((root / FOLDER).glob("*")):
        source = path.relative_to(root).as_posix()
        if path.name.startswith("."):
            continue
        if not (name := _NAME.fullmatch(path.name)):
            # Not told, since it may be named as a person; its knee, if any, has no crop.
            notes["files_of_other_names"] += 1
            continue
        subject, month = name["subject"].upper(), int(name["month"])
        if not subjects.fullmatch(subject):
            notes["crops_of_another_study"] += 1
        elif month not in months:
            detail = f"the study has no visit at month {month}"
            dropped.append(Dropped(subject, name["side"], -1, source, "visit_unknown", detail))
        else:
            found[subject, month].append(source)
    if not found:
        raise UserError(
            f"{root / FOLDER}: no crops of this study are here; they should be called "
            "{subject}_{month}_{L|R}.png"
        )
    return found, dropped


def side_of(source: str) -> str:
    """'L' or 'R', of a path of `find_crops`."""
    return pathlib.PurePosixPath(source).stem[-1]


def read_crop(path: pathlib.Path, side: str, spacing_mm: float, roi: Roi) -> np.ndarray:
    """Reads the region of interest of one knee, looking like a right knee.

    Args:
        path: of the crop.
        side: 'L' or 'R'; a left knee is mirrored.
        spacing_mm: pixel size of the crop.
        roi: what of it is wanted. Its tilt is left as it is.

    Returns:
        uint8 [pixels, pixels] of `roi`: averages over the area of its pixels.

    Raises:
        UnusableKnee: what `png.read_grey` raises, wrong_depth, or wrong_size (too small for the
            region of interest).
    """
    image = png.read_grey(path)
    if image.dtype != np.uint8:
        raise UnusableKnee("wrong_depth", f"{8 * image.itemsize} bits instead of 8")
    size = round(roi.size_mm / spacing_mm)
    height, width = image.shape
    if min(height, width) < size:
        detail = f"{width}x{height} pixels of {spacing_mm} mm; {size}x{size} are needed"
        raise UnusableKnee("wrong_size", detail)
    top, left = (height - size) // 2, (width - size) // 2
    middle = image[top : top + size, left : left + size]
    shrunk = cv2.resize(middle, (roi.pixels, roi.pixels), interpolation=cv2.INTER_AREA)
    return shrunk if side == "R" else shrunk[:, ::-1]
