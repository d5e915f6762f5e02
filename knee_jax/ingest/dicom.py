"""Grey values and spacing of DICOM files in any transfer syntax that pydicom decodes.

The steps are public, since slices of MR series also go through them (`series`).
"""

import dataclasses
import logging
import pathlib
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import AllTransferSyntaxes

from knee_jax.errors import UnusableKnee

MODALITIES = ("CR", "DX", "RG")
"""Modalities of films: computed, digital and digitised radiography."""

# Files that pydicom cannot decode become rows of exclusions.csv; each would log a page of
# tracebacks.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

_SPACING_RANGE = (0.02, 1.0)
_POLARITIES = ("MONOCHROME1", "MONOCHROME2")
_COLOURS = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_MOST_PIXELS = 2**26
"""Maximum number of pixels: four times those of the largest film, of 43 cm at 0.1 mm."""


CONTRADICTS = "its header names another subject than its path"

_SUBJECT_ID = re.compile(r"(?P<most>M[A-Z]?)\d{2,}|\d{7}")


@dataclasses.dataclass(frozen=True)
class Film:
    """One radiograph.

    Attributes:
        pixels: Grey values, integer or float [H, W]; bone is brighter than air.
        spacing_mm: Pixel width and height (x, y), mm.
        contradictions: Ways in which the header contradicts a bilateral film, seen from the front
            and upright: `header_mirrored`, `header_upside_down`, `header_one_sided`.
    """

    pixels: np.ndarray
    spacing_mm: tuple[float, float]
    contradictions: tuple[str, ...] = ()


def read_film(path: pathlib.Path, subject: str | None = None) -> Film:
    """Read one film.

    The grey values pass the modality LUT or rescale, then a VOI LUT table or sigmoid if the file
    has one. A *linear* VOI window is not applied: it would only stretch and clip, and the
    percentiles of `film.intensity_window` set that window in the same way for every film, as in the
    published pipeline (Tiulpin's, which reads the stored values). MONOCHROME1 is inverted (max -
    value).

    The spacing is ImagerPixelSpacing, otherwise PixelSpacing; that of rows and columns may differ.

    Args:
        path: Path of the file.
        subject: Id of the film's subject; None: not checked.

    Raises:
        UnusableKnee: unreadable, empty_file, truncated_file, not_dicom, wrong_modality,
            colour_image, multi_frame, unknown_polarity, empty_image, corrupt_header, no_spacing,
            bad_spacing, too_large, no_decoder, truncated_pixels, corrupt_pixels or
            subject_contradicts. The detail quotes no text of the file, which may name the patient.
    """
    # pydicom warns of every flaw that it tolerates, and raises the others.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = read_header(path)
        check_image(header, MODALITIES)
        check_subject(header, subject)
        spacing_mm = _spacing(header)
        pixels = _grey_values(header, decode(header))
        return Film(pixels, spacing_mm, tuple(_contradictions(header)))


def _contradictions(header: pydicom.Dataset) -> Iterator[str]:
    """Yield the names of the header's contradictions to the expected orientation."""
    try:
        directions = [str(each)[:1].upper() for each in value(header, "PatientOrientation") or ()]
        side = value(header, "ImageLaterality") or value(header, "Laterality", "")
    except UnusableKnee:
        return  # These elements are not needed; broken ones are ignored.
    # Directions in the patient along a row and down a column; expected: left and foot.
    if directions[:1] == ["R"]:
        yield "header_mirrored"
    if directions[1:2] == ["H"]:
        yield "header_upside_down"
    if side in ("L", "R"):
        yield "header_one_sided"


def read_header(path: pathlib.Path, keywords: Sequence[str] | None = None) -> pydicom.Dataset:
    """Read a file without decoding its pixels.

    Args:
        path: Path of the file.
        keywords: Elements to read, from the part of the file before its pixels; None: everything.

    Raises:
        UnusableKnee: unreadable, empty_file, truncated_file, too_large or not_dicom.
    """
    tags, partly = (list(keywords), True) if keywords else (None, False)
    try:
        header = (
            pydicom.dcmread(path, stop_before_pixels=partly, specific_tags=tags)
            if path.stat().st_size
            else None
        )
    except InvalidDicomError as error:
        raise UnusableKnee("not_dicom", "no DICOM header") from error
    except OSError as error:
        raise UnusableKnee("unreadable", error.strerror or str(error)) from error
    except MemoryError as error:
        raise UnusableKnee("too_large", "it does not fit in memory once inflated") from error
    except Exception as error:
        # A file cut within its header fails deep in pydicom's parser, in many ways.
        raise UnusableKnee("not_dicom", f"{kind(error)} in its header") from error
    if header is None:
        raise UnusableKnee("empty_file", "zero bytes")
    if not len(header) and not keywords:
        # If a compressed image breaks off, pydicom also discards the header.
        raise UnusableKnee("truncated_file", "the file ends before its data do")
    return header


def check_image(header: pydicom.Dataset, modalities: Sequence[str]) -> None:
    """Check that a file holds one grey image of one of the modalities.

    Raises:
        UnusableKnee: wrong_modality, colour_image, multi_frame, empty_image, too_large,
            unknown_polarity or corrupt_header.
    """
    modality = value(header, "Modality") or "none"
    if modality not in modalities:
        # Another value is reported only if it looks like a modality: two letters.
        found = modality if re.fullmatch("[A-Z]{2}|none", str(modality)) else "another"
        raise UnusableKnee("wrong_modality", f"{found}, not {'/'.join(modalities)}")
    samples = integer(header, "SamplesPerPixel", 1)
    if samples != 1:
        raise UnusableKnee("colour_image", f"{samples} channels instead of 1")
    frames = integer(header, "NumberOfFrames", 1)
    if frames != 1:
        raise UnusableKnee("multi_frame", f"{frames} frames instead of 1")
    rows, columns = integer(header, "Rows", 0), integer(header, "Columns", 0)
    length = len(value(header, "PixelData") or b"")
    if rows < 1 or columns < 1 or not length:
        raise UnusableKnee("empty_image", f"{rows} rows, {columns} columns, {length} bytes")
    if rows * columns > _MOST_PIXELS:
        raise UnusableKnee("too_large", f"{columns}x{rows} pixels, more than {_MOST_PIXELS:,}")
    polarity = value(header, "PhotometricInterpretation") or "none"
    if polarity not in _POLARITIES:
        found = polarity if polarity in ("none", *_COLOURS) else "another"
        raise UnusableKnee("unknown_polarity", f"{found}, not {_POLARITIES}")


def check_subject(header: pydicom.Dataset, subject: str | None) -> None:
    """Check that a file does not have another subject's id; None: not checked.

    Raises:
        UnusableKnee: subject_contradicts.
    """
    if not subject:
        return
    named = ids_like(subject, str(value(header, "PatientID") or ""))
    if named and subject.upper() not in named:
        raise UnusableKnee("subject_contradicts", CONTRADICTS)


def ids_like(subject: str, text: str) -> list[str]:
    """Return the ids in a text, in upper case, with the subject's study prefix and length."""
    form = _SUBJECT_ID.fullmatch(subject.upper())
    if not form:
        return []
    letters = "M[A-Z]?" if form["most"] else ""
    digits = len(subject) - len(form["most"] or "")
    pattern = rf"(?<![A-Z0-9]){letters}\d{{{digits}}}(?![A-Z0-9])"
    return re.findall(pattern, text.upper())


def value(header: pydicom.Dataset, keyword: str, default: Any = None) -> Any:
    """Return the value of one element, or `default` if it is absent.

    Raises:
        UnusableKnee: corrupt_header.
    """
    # pydicom parses values on access, so a broken one raises here.
    try:
        return header.get(keyword, default)
    except Exception as error:
        raise UnusableKnee("corrupt_header", f"{keyword}: {kind(error)}") from error


def integer(header: pydicom.Dataset, keyword: str, default: int) -> int:
    """Return the integer value of one element, or `default` if it is absent or empty.

    Raises:
        UnusableKnee: corrupt_header.
    """
    found = value(header, keyword)
    if found is None or found == "":
        return default
    try:
        return int(found)
    except (TypeError, ValueError) as error:
        raise UnusableKnee("corrupt_header", f"{keyword} is no whole number") from error


def _spacing(header: pydicom.Dataset) -> tuple[float, float]:
    found = value(header, "ImagerPixelSpacing") or value(header, "PixelSpacing")
    try:
        values = [float(value) for value in np.atleast_1d(found)] if found else []
    except (TypeError, ValueError) as error:
        raise UnusableKnee("bad_spacing", "it is no number") from error
    if not values:
        raise UnusableKnee("no_spacing", "neither ImagerPixelSpacing nor PixelSpacing")
    low, high = _SPACING_RANGE
    if len(values) > 2 or not all(low <= value <= high for value in values):
        raise UnusableKnee("bad_spacing", f"{values} mm, not {low} to {high}")
    # DICOM gives the distance of rows (y) first.
    return values[-1], values[0]


def decode(header: pydicom.Dataset) -> np.ndarray:
    """Decode the stored values of one image, integer [rows, columns].

    Raises:
        UnusableKnee: too_large, no_decoder, truncated_pixels or corrupt_pixels.
    """
    try:
        stored = header.pixel_array
    except MemoryError as error:
        raise UnusableKnee("too_large", "its pixels do not fit in memory") from error
    except NotImplementedError as error:
        raise UnusableKnee("no_decoder", words(error)) from error
    except Exception as error:
        # Every decoder raises its own kinds of errors.
        length = len(value(header, "PixelData"))
        bits = integer(header, "BitsAllocated", 0)
        expected = integer(header, "Rows", 0) * integer(header, "Columns", 0) * bits // 8
        if _is_native(header) and length < expected:
            found = f"{length} of {expected} bytes"
            raise UnusableKnee("truncated_pixels", found) from error
        reason = "no_decoder" if "does not support" in str(error) else "corrupt_pixels"
        raise UnusableKnee(reason, words(error)) from error
    if stored.shape != (header.Rows, header.Columns) or stored.dtype.kind not in "iu":
        # Floats, which DICOM stores in another element, or packed bits.
        raise UnusableKnee("corrupt_pixels", f"they are {stored.dtype} {stored.shape}")
    return stored


def _is_native(header: pydicom.Dataset) -> bool:
    syntax = header.file_meta.get("TransferSyntaxUID", "")
    return syntax in AllTransferSyntaxes and not syntax.is_compressed


def rescale(header: pydicom.Dataset, stored: np.ndarray) -> np.ndarray:
    """Apply the modality LUT or rescale to stored values, if it changes them.

    Raises:
        UnusableKnee: corrupt_header.
    """
    slope, intercept = value(header, "RescaleSlope", 1), value(header, "RescaleIntercept", 0)
    if "ModalityLUTSequence" not in header and slope == 1 and intercept == 0:
        return stored
    return _applied(apply_modality_lut, stored, header, "its rescale")


def _grey_values(header: pydicom.Dataset, stored: np.ndarray) -> np.ndarray:
    grey = rescale(header, stored)
    if value(header, "VOILUTSequence"):
        grey = _applied(apply_voi_lut, np.rint(grey).astype(np.int32), header, "its VOI LUT")
    elif value(header, "VOILUTFunction") == "SIGMOID":
        grey = _applied(apply_voi_lut, grey, header, "its VOI LUT")
    if header.PhotometricInterpretation == "MONOCHROME1":
        return invert(grey)
    return grey


def invert(values: np.ndarray) -> np.ndarray:
    """Return maximum - value, of the same type except that integers become unsigned."""
    inverted = values.max() - values
    if inverted.dtype.kind != "i":
        return inverted
    # The result may exceed the range of the signed type; its bits are right as unsigned.
    return inverted.view(f"u{inverted.dtype.itemsize}")


def _applied(
    table: Callable[..., np.ndarray], values: np.ndarray, header: pydicom.Dataset, what: str
) -> np.ndarray:
    try:
        found = table(values, header)
    except Exception as error:
        # pydicom trusts the header.
        raise UnusableKnee("corrupt_header", f"{what}: {kind(error)}") from error
    if not np.isfinite(found).all():
        raise UnusableKnee("corrupt_header", f"{what} gives no numbers")
    return found


def kind(error: Exception) -> str:
    """Return the type of an error without its message, which may quote the file."""
    return type(error).__name__


def words(error: Exception) -> str:
    """Return an error as one short line, without quotations."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "…", " ".join(str(error).split()))
    return f"{kind(error)}: {text}"[:300]
