"""Contents of real trees of OAI's layout besides one film per visit, added to a finished tree.

Each function takes films of `oai`'s layout and writes folders beside theirs, or in place of them.
The film that is read for a visit, and what it shows, stay as `write_study` describes them. `add`
applies the functions throughout a tree.
"""

import csv
import datetime
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pydicom

from knee_jax.phantom import dicom
from knee_jax.phantom.study import read_points, write_points

_SIZE = (384, 320)
_COLUMNS = (
    "ParticipantID",
    "Folder",
    "StudyDate",
    "Barcode",
    "StudyDescription",
    "SeriesDescription",
)


KINDS = ("rescans", "other_films", "single_films", "contents")
"""Kinds of clutter that `add` knows."""


def add(root: Path, films: Sequence[Path], kinds: Iterable[str]) -> None:
    """Add clutter of some kinds, each to every third film and never two kinds to one film.

    Args:
        root: Root folder of the study.
        films: All films of the study.
        kinds: Some of `KINDS`; the table of contents lists all images, including added ones.
    """
    of_film = {
        "rescans": add_rescan,
        "other_films": add_other_films,
        "single_films": separate_knees,
    }
    for place, (kind, change) in enumerate(of_film.items()):
        if kind in kinds:
            for film in films[place :: len(of_film)]:
                change(film)
    if "contents" in kinds:
        write_contents(root, sorted(root.rglob("001")))


def add_rescan(film: Path) -> Path:
    """Add an earlier film of the visit that failed because a knee moved; return its path."""
    header = _read(film)
    day = datetime.datetime.strptime(header.StudyDate, "%Y%m%d") - datetime.timedelta(1)
    date, barcode = day.strftime("%Y%m%d"), f"{header.AccessionNumber}9"
    header.StudyDate = header.SeriesDate = date
    header.AccessionNumber = barcode
    blurred = cv2.blur(header.pixel_array, (1 + header.Columns // 16, 1))
    header.PixelData = blurred.tobytes()
    failed = film.parents[2] / date / barcode / film.name
    _write(failed, header)
    for points in film.parent.glob(f"{film.name}*.pts"):
        shutil.copyfile(points, failed.with_name(points.name))
    return failed


def add_other_films(film: Path) -> list[Path]:
    """Add films that are not of interest, of a hand and of a lateral knee; return their paths."""
    header = pydicom.dcmread(film, stop_before_pixels=True)
    made = []
    for number, (series, body, picture) in enumerate(
        (("PA Right Hand", "HAND", _hand()), ("Lateral Right Knee", "KNEE", _lateral_knee()))
    ):
        barcode = f"{header.AccessionNumber}{number + 7}"
        path = film.parents[1] / barcode / film.name
        path.parent.mkdir(parents=True)
        dicom.write_film(
            path,
            picture,
            dicom.Header(
                subject=header.PatientID,
                barcode=barcode,
                date=header.StudyDate,
                maker=header.Manufacturer,
                spacing=0.6,
                bits=12,
                inverted=False,
                syntax=dicom.ExplicitVRLittleEndian,
                series=series,
                laterality="R",
                body=body,
            ),
        )
        made.append(path)
    return made


def separate_knees(film: Path) -> dict[str, Path]:
    """Replace a film of both knees by two films of one knee each; return them by side.

    Landmark files have the same names as beside a film of both.
    """
    both = _read(film)
    pixels, spacing = both.pixel_array, float(both.ImagerPixelSpacing[1])
    half = both.Columns // 2
    parts = {"R": ("Right", pixels[:, :half], "_f.pts"), "L": ("Left", pixels[:, half:], ".pts")}
    made = {}
    for number, (side, (name, part, suffix)) in enumerate(parts.items()):
        header = pydicom.dcmread(film, stop_before_pixels=True)
        header.file_meta = both.file_meta
        # 1 and 2 are the numbers of the visit's MR series (`mri`).
        header.AccessionNumber = f"{both.AccessionNumber}{number + 3}"
        header.SeriesDescription = f"PA Fixed Flexion {name} Knee"
        header.Laterality = side
        header.Columns = part.shape[1]
        header.PixelData = part.tobytes()
        header["PixelData"].VR = "OW"
        path = film.parents[1] / header.AccessionNumber / film.name
        _write(path, header)
        points = film.with_name(film.name + suffix)
        if points.exists():
            # Both files count from the far edge of the film, which was cut off.
            cut_mm = (both.Columns - part.shape[1]) * spacing
            write_points(path.with_name(points.name), read_points(points) - (cut_mm, 0))
        made[side] = path
    shutil.rmtree(film.parent)
    return made


def write_contents(root: Path, films: Iterable[Path]) -> Path:
    """Write a table of contents like OAI's, tables/contents.csv, with one file per folder."""
    path = root / "tables" / "contents.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(_COLUMNS)
        for film in films:
            header = pydicom.dcmread(film, stop_before_pixels=True)
            folder = film.parent.relative_to(root).as_posix().partition("/")[2]
            keys = ("StudyDate", "AccessionNumber", "StudyDescription", "SeriesDescription")
            table.writerow([header.PatientID, folder, *(header[key].value for key in keys)])
    return path


def _read(path: Path) -> pydicom.Dataset:
    header = pydicom.dcmread(path)
    if header.file_meta.TransferSyntaxUID.is_compressed:
        header.decompress()
    return header


def _write(path: Path, header: pydicom.Dataset) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, header, enforce_file_format=True)


def _hand() -> np.ndarray:
    """Draw five rays of soft tissue and bone, as light [rows, columns]."""
    rows, columns = _SIZE
    picture = np.full(_SIZE, 0.08, np.float32)
    wrist = (columns / 2, rows * 0.9)
    for width, grey in ((34, 0.35), (12, 0.75)):
        for angle in np.deg2rad((-30, -17, -4, 10, 24)):
            tip = (wrist[0] + 0.75 * rows * np.sin(angle), wrist[1] - 0.75 * rows * np.cos(angle))
            _line(picture, wrist, tip, grey, width)
    return picture


def _lateral_knee() -> np.ndarray:
    """Draw a bent femur and tibia, one above the other, as light [rows, columns]."""
    rows, columns = _SIZE
    picture = np.full(_SIZE, 0.08, np.float32)
    joint = (columns / 2, rows / 2)
    for width, grey in ((110, 0.35), (44, 0.75)):
        _line(picture, (columns * 0.4, 0), (joint[0], joint[1] - 6), grey, width)
        _line(picture, (joint[0], joint[1] + 34), (columns * 0.3, rows), grey, width)
    return picture


def _line(
    picture: np.ndarray, start: Sequence[float], end: Sequence[float], grey: float, width: int
) -> None:
    first, last = ([int(value) for value in point] for point in (start, end))
    cv2.line(picture, first, last, grey, width, cv2.LINE_AA)
