"""Volumes of MR series, DICOM slices or NIfTI, in the same frame for every knee.

The frame is [row, column, slice]: rows run from superior to inferior, columns from anterior to
posterior, slices from lateral to medial. Every volume thus looks like a right knee; left knees are
mirrored along the slices. These are the arrays of Panfilov et al. 2022, whose code names the axes
inferior, posterior, right and mirrors the right knees, which is the same.
"""

import dataclasses
import gzip
import importlib.util
import itertools
import pathlib
import re
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pydicom

from knee_jax.errors import UnusableKnee, UserError
from knee_jax.ingest import archives, dicom, dicom_header, dicom_pixels

MODALITIES = ("MR",)

NUMBERED = re.compile(r"\d+(\.dcm)?", re.IGNORECASE)
"""Names of the studies' images; another name may be a person's."""

# Patient axes (left, posterior, superior, as DICOM counts them) of the frame's rows and columns,
# and of the slices of a right knee.
_FRAME = np.array([[0, 0, -1], [0, 1, 0], [1, 0, 0]])
_SPACING_RANGE = (0.05, 10.0)
# Rounded positions make gaps differ by less than this fraction.
_TOLERANCE = 0.1
_SAME_PLACE_MM = 0.01
_SIDES = {"LEFT": "L", "RIGHT": "R", "L": "L", "R": "R"}


@dataclasses.dataclass(frozen=True)
class Volume:
    """One knee in the frame of this module.

    Attributes:
        voxels: Intensities, integer or float [rows, columns, slices].
        spacing_mm: Distances of rows, columns and slices, mm.
        side: 'L' or 'R' as imaged.
        notes: Remarks on the slices, keys of `dicom.NOTES`.
    """

    voxels: np.ndarray
    spacing_mm: tuple[float, float, float]
    side: str
    notes: tuple[str, ...] = ()


def read_volume(path: pathlib.Path, side: str | None = None, subject: str | None = None) -> Volume:
    """Read a folder of DICOM slices or a NIfTI file; see `read_series` and `read_nifti`."""
    if path.name.endswith((".nii", ".nii.gz")):
        return read_nifti(path, side)
    try:
        files = slice_files(path)
    except OSError as error:
        raise UnusableKnee("unreadable", error.strerror or "it cannot be read") from error
    return read_series(files, side, subject)


def slice_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the files of a folder sorted by name: only the `NUMBERED` ones, if any, or else all.

    Hidden files are left out.
    """
    names = sorted(name for name in archives.names(folder) if not name.startswith("."))
    files = [folder / name for name in names]
    return [file for file in files if NUMBERED.fullmatch(file.name)] or files


def read_series(
    files: Iterable[pathlib.Path], side: str | None = None, subject: str | None = None
) -> Volume:
    """Read the slices of one sagittal series, in any order.

    They are sorted along their common normal by ImagePositionPatient; numbers in file names and
    headers are ignored. Values pass each slice's modality LUT or rescale. Windows and VOI tables
    are not applied, since they are meant for viewing single slices. MONOCHROME1 is inverted (the
    volume's maximum - value).

    Args:
        files: Files, one per slice, or enhanced ones of many slices.
        side: 'L' or 'R'; None: from the word LEFT or RIGHT in SeriesDescription (SAG_3D_DESS_LEFT),
            otherwise from Laterality.
        subject: Id of the subject of the slices; None: not checked.

    Raises:
        UnusableKnee: A reason of `dicom` for one file; too_few_slices, mixed_series, mixed_sizes,
            mixed_spacing, mixed_polarity, mixed_orientation, no_position, no_spacing, bad_spacing,
            misaligned_slices, duplicate_slices, missing_slices, unequal_spacing, not_sagittal,
            no_side or side_mismatch.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        slices = [each for file in files for each in _Slice.read(file)]
        if len(slices) < 2:
            raise UnusableKnee("too_few_slices", f"{len(slices)} files in the series")
        _check_alike(slices)
        for each in slices:
            dicom.check_subject(each.header, subject)
        first = slices[0]
        slices.sort(key=lambda each: each.along)
        gap = _check_positions(slices)
        pixels, notes = zip(*(each.pixels() for each in slices))
        voxels = np.stack(pixels, axis=-1)
    if first.inverted:
        voxels = dicom_pixels.invert(voxels)
    directions = np.stack([first.down, first.right, first.normal], axis=1)
    spacing_mm = (*first.spacing_mm, gap)
    order = _match(directions)
    if order is None or order[2] != 2:
        normal = ", ".join(f"{value:.2f}" for value in first.normal)
        raise UnusableKnee("not_sagittal", f"the slices' normal is ({normal}) to the patient")
    volume = _orient(voxels, directions, spacing_mm, order, _agreed_side(side, first.side))
    return dataclasses.replace(volume, notes=tuple(sorted({name for of in notes for name in of})))


def read_nifti(path: pathlib.Path, side: str | None = None) -> Volume:
    """Read a volume from NIfTI, by its affine map; needs the extra `nifti`.

    Args:
        path: Path of a .nii or .nii.gz file.
        side: 'L' or 'R'; None: from the word LEFT or RIGHT in the path.

    Raises:
        UserError: nibabel is not installed.
        UnusableKnee: unreadable, not_nifti, not_a_volume, not_grey, no_position, bad_spacing,
            oblique, no_side or side_mismatch.
    """
    if importlib.util.find_spec("nibabel") is None:
        raise UserError(f"{path}: NIfTI is read by nibabel: pip install -e '.[nifti]'")
    import nibabel

    try:
        image: Any = nibabel.load(path)
        # This applies the scaling, if any.
        voxels = np.asanyarray(image.dataobj)
    except (
        nibabel.filebasedimages.ImageFileError,
        nibabel.spatialimages.HeaderDataError,
        gzip.BadGzipFile,
    ) as error:
        raise UnusableKnee("not_nifti", "its header is none of NIfTI, or damaged") from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UnusableKnee("unreadable", "it ends early, or is damaged") from error
    if voxels.ndim != 3 or min(voxels.shape) < 2:
        raise UnusableKnee("not_a_volume", f"its shape is {voxels.shape}")
    if voxels.dtype.kind not in "iuf":
        raise UnusableKnee("not_grey", f"its voxels are {voxels.dtype}, not one number each")
    if not (image.header["qform_code"] or image.header["sform_code"]):
        raise UnusableKnee("no_position", "neither qform nor sform says how the knee lies")
    # NIfTI counts to the right and to the front, DICOM to the left and to the back.
    steps = np.diag([-1, -1, 1]) @ image.affine[:3, :3]
    lengths = np.linalg.norm(steps, axis=0)
    spacing_mm = (float(lengths[0]), float(lengths[1]), float(lengths[2]))
    _check_spacing(spacing_mm)
    order = _match(steps / lengths)
    if order is None:
        raise UnusableKnee("oblique", "its axes lie between those of the patient")
    described = _side_in(" ".join(path.parts[-3:]))
    native = voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    return _orient(native, steps / lengths, spacing_mm, order, _agreed_side(side, described))


@dataclasses.dataclass(frozen=True)
class _Slice:
    """One file of a series; vectors are in DICOM's axes: to the left, to the back, upwards."""

    header: pydicom.Dataset
    name: str
    position: np.ndarray
    right: np.ndarray  # Along a row of the image.
    down: np.ndarray  # Along a column.
    spacing_mm: tuple[float, float]
    frame: int = 0

    @classmethod
    def read(cls, path: pathlib.Path) -> "list[_Slice]":
        """Read the slices of a file: one, or the frames of an enhanced file."""
        try:
            header = dicom_header.read_header(path)
            dicom.check_image(header, MODALITIES, frames=True)
            number = dicom_header.integer(header, "NumberOfFrames", 1)
            if number == 1:
                return [cls._of(header, path.name, 0)]
            frames = _frames(header, number)
            return [
                cls._of(each, f"{path.name}, frame {n + 1}", n) for n, each in enumerate(frames)
            ]
        except UnusableKnee as error:
            raise _in_file(path.name, error) from error

    @classmethod
    def _of(cls, header: pydicom.Dataset, name: str, frame: int) -> "_Slice":
        position = _vector(header, "ImagePositionPatient", 3)
        right, down = _vector(header, "ImageOrientationPatient", 6).reshape(2, 3)
        if not np.allclose([right @ right, down @ down, right @ down], [1, 1, 0], atol=1e-2):
            detail = f"{right.tolist()} and {down.tolist()} are not two right-angled units"
            raise UnusableKnee("no_position", f"ImageOrientationPatient: {detail}")
        if not dicom_header.value(header, "PixelSpacing"):
            raise UnusableKnee("no_spacing", "no PixelSpacing")
        rows, columns = _vector(header, "PixelSpacing", 2, "bad_spacing").tolist()
        _check_spacing((rows, columns))
        return cls(header, name, position, right, down, (rows, columns), frame)

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.right, self.down)

    @property
    def along(self) -> float:
        return float(self.position @ self.normal)

    @property
    def inverted(self) -> bool:
        return self.header.PhotometricInterpretation == "MONOCHROME1"

    @property
    def side(self) -> str | None:
        described = _side_in(str(dicom_header.value(self.header, "SeriesDescription", "")))
        laterality = dicom_header.value(self.header, "Laterality") or dicom_header.value(
            self.header, "ImageLaterality", ""
        )
        return described or _SIDES.get(str(laterality).strip().upper())

    def pixels(self) -> tuple[np.ndarray, list[str]]:
        """Return the values, and remarks on them."""
        try:
            stored, notes = dicom_pixels.decode(self.header, self.frame)
            values = dicom_pixels.rescale(self.header, stored)
        except UnusableKnee as error:
            raise _in_file(self.name, error) from error
        # Half the memory of a rescale's float64, and the machine's own byte order.
        wanted = np.float32 if values.dtype.kind == "f" else values.dtype.newbyteorder("=")
        return values.astype(wanted, copy=False), notes


_GROUPS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing",),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
}
"""Elements that an enhanced file tells of its frames, and the groups that hold them."""


def _frames(header: pydicom.Dataset, number: int) -> Iterator[pydicom.Dataset]:
    """Yield the header of each frame of an enhanced file, as if it were a file of its own.

    Raises:
        UnusableKnee: multi_frame, if the file does not tell of its frames.
    """
    shared = dicom_header.value(header, "SharedFunctionalGroupsSequence") or [pydicom.Dataset()]
    of_frames = dicom_header.value(header, "PerFrameFunctionalGroupsSequence") or []
    if len(of_frames) != number:
        detail = (
            f"{number} frames, and the places of {len(of_frames)}; export a file for each slice"
        )
        raise UnusableKnee("multi_frame", detail)
    for own in of_frames:
        frame = pydicom.Dataset()
        frame.update(header)
        frame.file_meta = header.file_meta
        for name, keywords in _GROUPS.items():
            groups = (
                dicom_header.value(own, name)
                or dicom_header.value(shared[0], name)
                or [pydicom.Dataset()]
            )
            for keyword in keywords:
                told = dicom_header.value(groups[0], keyword)
                if told is not None:
                    setattr(frame, keyword, told)
        yield frame


def _in_file(name: str, error: UnusableKnee) -> UnusableKnee:
    return UnusableKnee(error.reason, f"{name}: {error.detail}")


def _vector(
    header: pydicom.Dataset, keyword: str, length: int, reason: str = "no_position"
) -> np.ndarray:
    try:
        values = np.array([float(number) for number in dicom_header.value(header, keyword) or ()])
    except (TypeError, ValueError) as error:
        raise UnusableKnee("corrupt_header", f"{keyword} is no list of numbers") from error
    if len(values) != length or not np.isfinite(values).all():
        raise UnusableKnee(reason, f"{keyword} is {values.tolist()}, not {length} numbers")
    return values


def _check_spacing(spacing_mm: Sequence[float]) -> None:
    low, high = _SPACING_RANGE
    if not all(low <= value <= high for value in spacing_mm):
        raise UnusableKnee("bad_spacing", f"{list(spacing_mm)} mm, not {low} to {high}")


def _check_alike(slices: Sequence[_Slice]) -> None:
    """Check that all slices belong to one series and are parallel."""
    first = slices[0]
    for each in slices[1:]:
        for keyword, reason in (
            ("SeriesInstanceUID", "mixed_series"),
            ("Rows", "mixed_sizes"),
            ("Columns", "mixed_sizes"),
            ("PhotometricInterpretation", "mixed_polarity"),
        ):
            a, b = (dicom_header.value(one.header, keyword) for one in (first, each))
            if a != b:
                # The values are not quoted: a UID can identify a patient.
                detail = f"{keyword} differs in {first.name} and {each.name}"
                raise UnusableKnee(reason, detail)
        if not np.allclose(first.spacing_mm, each.spacing_mm, rtol=1e-3):
            detail = f"{first.spacing_mm} mm in {first.name}, {each.spacing_mm} in {each.name}"
            raise UnusableKnee("mixed_spacing", detail)
        axes = np.stack([first.right, first.down]), np.stack([each.right, each.down])
        if not np.allclose(*axes, atol=1e-3):
            raise UnusableKnee(
                "mixed_orientation", f"{first.name} and {each.name} are not parallel"
            )


def _check_positions(slices: Sequence[_Slice]) -> float:
    """Check that sorted slices are evenly spaced; return their distance, mm."""
    gaps = np.diff([each.along for each in slices])
    names = [f"{a.name} and {b.name}" for a, b in itertools.pairwise(slices)]
    same = np.flatnonzero(gaps < _SAME_PLACE_MM)
    if len(same):
        detail = f"{len(same)} slices lie where another does: {names[same[0]]}"
        raise UnusableKnee("duplicate_slices", detail)
    usual = float(np.median(gaps))
    _check_spacing((usual,))
    steps = gaps / usual
    wrong = np.flatnonzero(np.abs(steps - 1) > _TOLERANCE)
    if len(wrong):
        multiples = np.abs(steps / np.rint(steps).clip(1) - 1) <= _TOLERANCE
        reason = "missing_slices" if multiples.all() else "unequal_spacing"
        detail = f"{gaps[wrong[0]]:.3g} mm between {names[wrong[0]]}, not {usual:.3g} as elsewhere"
        raise UnusableKnee(reason, detail)
    shifts = np.diff([each.position for each in slices], axis=0)
    aside = np.linalg.norm(shifts - np.outer(gaps, slices[0].normal), axis=1)
    if aside.max() > _TOLERANCE * usual:
        detail = f"{names[aside.argmax()]} lie {aside.max():.2g} mm aside of each other"
        raise UnusableKnee("misaligned_slices", detail)
    return usual


def _match(directions: np.ndarray) -> tuple[int, ...] | None:
    """Return the array axis nearest to each axis of the frame, or None if ambiguous.

    Args:
        directions: Unit vectors, [3 patient axes, 3 array axes].
    """
    order = tuple(np.abs(_FRAME @ directions).argmax(axis=1).tolist())
    return order if sorted(order) == [0, 1, 2] else None


def _orient(
    voxels: np.ndarray,
    directions: np.ndarray,
    spacing_mm: tuple[float, float, float],
    order: tuple[int, ...],
    side: str,
) -> Volume:
    """Rotate a volume by right angles into the frame, and mirror left knees.

    Args:
        voxels: Intensities, [3 array axes].
        directions: Unit vectors of those axes, [3 patient axes, 3 array axes].
        spacing_mm: Spacing along those axes, mm.
        order: Result of `_match`.
        side: 'L' or 'R'.
    """
    along = (_FRAME @ directions)[range(3), order]
    if side == "L":
        along[2] = -along[2]
    reverse = tuple(slice(None, None, -1 if value < 0 else 1) for value in along)
    turned = np.ascontiguousarray(voxels.transpose(order)[reverse])
    of_rows, of_columns, of_slices = (spacing_mm[axis] for axis in order)
    return Volume(turned, (of_rows, of_columns, of_slices), side)


def _side_in(text: str) -> str | None:
    """Return the side whose name is a word of a text, or None if neither or both are."""
    found = set(re.findall(r"(?<![A-Z])(LEFT|RIGHT)(?![A-Z])", text.upper()))
    return _SIDES[found.pop()] if len(found) == 1 else None


def _agreed_side(given: str | None, described: str | None) -> str:
    """Return the given or described side, which must agree.

    Raises:
        UnusableKnee: side_mismatch, or no_side.
    """
    if given and described and given != described:
        raise UnusableKnee("side_mismatch", f"the series says {described}, not {given}")
    side = given or described
    if side is None:
        raise UnusableKnee("no_side", "neither LEFT nor RIGHT is in its description")
    return side
