"""Films, landmark files and tables, as small as can be, written as a study would hold them."""

import io
import os
import types

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from knee_jax.errors import UnusableKnee
from knee_jax.ingest.readings import VISITS
from knee_jax.targets.grades import GRADES

RELEASES = {month: int(code) for month, code in VISITS.items()} | {18: 2, 30: 4}
"""Month of a visit → first number of the releases that hold its images."""


def right_knee():
    """74 landmarks of a right knee in mm about the middle of the plateau: low index lateral."""
    points = np.zeros((74, 2))
    points[:37] = np.column_stack([np.linspace(-38, 38, 37), np.full(37, -8.0)])
    points[37:47] = np.column_stack([np.linspace(-30, -39, 10), np.linspace(45, 3, 10)])
    points[47:64] = np.column_stack([np.linspace(-40, 40, 17), np.zeros(17)])
    points[64:] = np.column_stack([np.linspace(39, 30, 10), np.linspace(3, 45, 10)])
    return points


def on_film(centre_mm, side="R", tilt_degrees=0.0):
    """Places `right_knee` on a film, (x, y) in mm; `tilt_degrees` turns it clockwise first."""
    angle = np.deg2rad(tilt_degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = right_knee() @ turn.T
    return points * (1 if side == "R" else -1, 1) + centre_mm


def dataset(pixels, spacing=(0.5, 0.5), **tags):
    """An uncompressed film; a tag of None is left out. `spacing` is (x, y)."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["film"])
    film = pydicom.Dataset()
    film.file_meta = meta
    film.SOPClassUID = meta.MediaStorageSOPClassUID
    film.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    bits = 8 * pixels.dtype.itemsize
    values = {
        "Modality": "CR",
        "ImagerPixelSpacing": [spacing[1], spacing[0]],
        "SamplesPerPixel": 1 if pixels.ndim == 2 else pixels.shape[2],
        "PhotometricInterpretation": "MONOCHROME2" if pixels.ndim == 2 else "RGB",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": 0,
        "PixelData": pixels.tobytes(),
    }
    if pixels.ndim == 3:
        values["PlanarConfiguration"] = 0
    for name, value in (values | tags).items():
        if value is not None:
            setattr(film, name, value)
    if "PixelData" in film:
        film["PixelData"].VR = "OW" if bits > 8 else "OB"
    return film


def write(path, film):
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    film.save_as(buffer, enforce_file_format=True)
    path.write_bytes(buffer.getvalue())


def make_endless(path):
    """Appends zeros, 16 GiB that take no room: whoever reads on reads element after element."""
    os.truncate(path, 2**34)


def write_points(path, points):
    lines = [f"{x} {y}" for x, y in points]
    text = "\n".join(["version: 1", f"n_points:  {len(points)}", "{", *lines, "}", ""])
    path.write_text(text)


def table(visit, rows):
    """A reading table; a row is (subject, side, project, *seven grades)."""
    code = VISITS[visit]
    header = ["ID", "SIDE", "READPRJ", *(f"V{code}XR{grade.upper()}" for grade in GRADES)]
    return "\n".join("|".join(map(str, row)) for row in [header, *rows]) + "\n"


def write_visit(root, subject, visit, shape=(400, 640), spacing=(0.5, 0.5)):
    """One film of noise with the landmarks of both knees; returns the film's path."""
    pixels = np.random.default_rng([int(subject), visit]).integers(0, 4096, shape, np.uint16)
    release = f"{RELEASES[visit]}.C.2"
    path = (
        root / f"{visit:02d}m" / release / subject / "20041115" / f"0{subject}{visit:02d}" / "001"
    )
    write(path, dataset(pixels, spacing, SeriesDescription="Bilateral PA Fixed Flexion Knee"))
    width = shape[1] * spacing[0]
    write_points(path.with_name("001.pts"), on_film((0.73 * width, 100.0), "L"))
    right = on_film((0.27 * width, 100.0), "R")
    write_points(path.with_name("001_f.pts"), right * (-1, 1) + (width, 0))
    return path


def write_study(root, subjects=("9000001", "9000002", "9000003")):
    """Films of every subject at month 0, all read by project 15; returns the films' paths."""
    tables = root / "tables"
    tables.mkdir(parents=True)
    sites = "".join(f"{s}|{site}|2: Female|.\n" for s, site in zip(subjects, "ABCDE"))
    (tables / "enrollees.txt").write_text("ID|V00SITE|P02SEX|P02RACE\n" + sites)
    sides = ("1: Right", "2: Left")
    rows = [(s, side, 15, 2, 1, 0, 1, 2, 0, 1) for s in subjects for side in sides]
    (tables / "kxr_sq_bu00.txt").write_text(table(0, rows))
    return [write_visit(root, subject, 0) for subject in subjects]


def reason_of(function, *arguments):
    """Why a knee cannot be used, as a function says that raises UnusableKnee, with details."""
    with pytest.raises(UnusableKnee) as caught:
        function(*arguments)
    assert caught.value.detail
    return caught.value.reason


def reasons(exclusions):
    """Knee → reason, of exclusions by knee."""
    return {knee: exclusion.reason for knee, exclusion in exclusions.items()}


SAGITTAL = ((0, 1, 0), (0, 0, -1))
"""Directions along a row and along a column of a sagittal slice, as DICOM counts them."""


def mr_slices(voxels, spacing=(0.5, 0.25, 3.0), axes=SAGITTAL, origin=(-40, -80, 60), **tags):
    """Slices [rows, columns, slices] of a series as DICOM, each `spacing[2]` along their normal."""
    right, down = np.array(axes, float)
    return [
        dataset(
            np.ascontiguousarray(voxels[..., number]),
            **{
                "Modality": "MR",
                "ImagerPixelSpacing": None,
                "PixelSpacing": list(spacing[:2]),
                "SeriesInstanceUID": "2.25.1",
                "SeriesDescription": "SAG_3D_DESS_RIGHT",
                "InstanceNumber": number + 1,
                "ImagePositionPatient": list(origin + number * spacing[2] * np.cross(right, down)),
                "ImageOrientationPatient": [*right, *down],
            }
            | tags,
        )
        for number in range(voxels.shape[-1])
    ]


def write_series(folder, slices):
    """Writes the slices under names whose order is not theirs; returns the folder."""
    names = np.random.default_rng(3).permutation(len(slices))
    for name, each in zip(names, slices):
        write(folder / f"{name:03d}", each)
    return folder


@pytest.fixture
def make():
    """The functions above."""
    names = (right_knee, on_film, dataset, write, write_points, table, write_visit, write_study)
    names += (make_endless, mr_slices, write_series)
    return types.SimpleNamespace(**{function.__name__: function for function in names})
