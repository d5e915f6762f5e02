"""DICOM of any transfer syntax pydicom can decode → grey values, and a film's spacing.

The steps are public, since a slice of an MR series goes through them too (`volume`).
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
"""Computed, digital and digitised radiography."""

# What it cannot decode becomes a row of quarantine.csv; its log would be a page of tracebacks each.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

_SPACING_RANGE = (0.02, 1.0)
_POLARITIES = ("MONOCHROME1", "MONOCHROME2")
_COLOURS = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_MOST_PIXELS = 2**26
"""Four times those of the largest film, of 43 cm in 0.1 mm."""


CONTRADICTS = "its header names another subject than its path"

_SUBJECT_ID = re.compile(r"(?P<most>M[A-Z]?)\d{2,}|\d{7}")


@dataclasses.dataclass(frozen=True)
class Film:
    """One radiograph.

    Attributes:
        pixels: integer or float [H, W]; bone is brighter than air.
        spacing_mm: pixel width and height (x, y) in mm.
        contradictions: what the header says against a bilateral film, seen from the front and
            upright; `header_mirrored`, `header_upside_down`, `header_one_sided`.
    """

    pixels: np.ndarray
    spacing_mm: tuple[float, float]
    contradictions: tuple[str, ...] = ()


def read_film(path: pathlib.Path, subject: str | None = None) -> Film:
    """Reads one film.

    The grey values pass the modality LUT or rescale, then a VOI LUT table or sigmoid where the
    file has one. A *linear* VOI window is not applied: it would only stretch and clip, and the
    percentiles of `film.intensity_window` set that window for every film alike, as in the published
    pipeline (Tiulpin's, which reads the stored values). MONOCHROME1 is inverted (max - value).

    The spacing is ImagerPixelSpacing, else PixelSpacing; rows and columns may differ.

    Args:
        path: of the file.
        subject: of whom the film is; None: of anybody.

    Raises:
        UnusableKnee: unreadable, empty_file, truncated_file, not_dicom, wrong_modality,
            colour_image, multi_frame, unknown_polarity, empty_image, corrupt_header, no_spacing,
            bad_spacing, too_large, no_decoder, truncated_pixels, corrupt_pixels or
            subject_contradicts. Its detail quotes no text of the file, in which the patient may be
            named.
    """
    # pydicom warns of every blemish it can live with; what it cannot live with it raises.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = read_header(path)
        check_image(header, MODALITIES)
        check_subject(header, subject)
        spacing_mm = _spacing(header)
        pixels = _grey_values(header, decode(header))
        return Film(pixels, spacing_mm, tuple(_contradictions(header)))


def _contradictions(header: pydicom.Dataset) -> Iterator[str]:
    """Names what a header tells about a film's orientation, where it tells something else."""
    try:
        directions = [str(each)[:1].upper() for each in value(header, "PatientOrientation") or ()]
        side = value(header, "ImageLaterality") or value(header, "Laterality", "")
    except UnusableKnee:
        return  # Nobody needs these elements; what is broken tells nothing.
    # Which way along a row, and down a column, in the patient: left and foot.
    if directions[:1] == ["R"]:
        yield "header_mirrored"
    if directions[1:2] == ["H"]:
        yield "header_upside_down"
    if side in ("L", "R"):
        yield "header_one_sided"


def read_header(path: pathlib.Path, keywords: Sequence[str] | None = None) -> pydicom.Dataset:
    """Reads a file, its pixels not yet decoded.

    Args:
        path: of the file.
        keywords: the elements to be read, and the file no further than to its pixels; None: all.

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
        # Where a compressed image breaks off, pydicom drops the header along with it.
        raise UnusableKnee("truncated_file", "the file ends before its data do")
    return header


def check_image(header: pydicom.Dataset, modalities: Sequence[str]) -> None:
    """Checks that a file holds one grey image of one of the modalities.

    Raises:
        UnusableKnee: wrong_modality, colour_image, multi_frame, empty_image, too_large,
            unknown_polarity or corrupt_header.
    """
    modality = value(header, "Modality") or "none"
    if modality not in modalities:
        # Another one is told if it looks like one: two letters.
        found = modality if re.fullmatch("[A-Z]{2}|none", str(modality)) else "another"
        raise UnusableKnee("wrong_modality", f"{found}, not {'/'.join(modalities)}")
    samples = whole(header, "SamplesPerPixel", 1)
    if samples != 1:
        raise UnusableKnee("colour_image", f"{samples} channels instead of 1")
    frames = whole(header, "NumberOfFrames", 1)
    if frames != 1:
        raise UnusableKnee("multi_frame", f"{frames} frames instead of 1")
    rows, columns = whole(header, "Rows", 0), whole(header, "Columns", 0)
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
    """Checks that a file names no other subject; None: any may be named.

    Raises:
        UnusableKnee: subject_contradicts.
    """
    if not subject:
        return
    named = ids_like(subject, str(value(header, "PatientID") or ""))
    if named and subject.upper() not in named:
        raise UnusableKnee("subject_contradicts", CONTRADICTS)


def ids_like(subject: str, text: str) -> list[str]:
    """The ids in a text, upper case, that are as a subject's: of OAI or MOST, of as many digits."""
    form = _SUBJECT_ID.fullmatch(subject.upper())
    if not form:
        return []
    letters = "M[A-Z]?" if form["most"] else ""
    digits = len(subject) - len(form["most"] or "")
    pattern = rf"(?<![A-Z0-9]){letters}\d{{{digits}}}(?![A-Z0-9])"
    return re.findall(pattern, text.upper())


def value(header: pydicom.Dataset, keyword: str, default: Any = None) -> Any:
    """The value of one element, `default` where it is absent.

    Raises:
        UnusableKnee: corrupt_header.
    """
    # pydicom parses values when they are asked for, so that a broken one is met here.
    try:
        return header.get(keyword, default)
    except Exception as error:
        raise UnusableKnee("corrupt_header", f"{keyword}: {kind(error)}") from error


def whole(header: pydicom.Dataset, keyword: str, default: int) -> int:
    """The value of one element that is a whole number, `default` where it is absent or empty.

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
    """The stored values of one image, integer [rows, columns].

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
        # Every decoder has errors of its own kind.
        length = len(value(header, "PixelData"))
        bits = whole(header, "BitsAllocated", 0)
        expected = whole(header, "Rows", 0) * whole(header, "Columns", 0) * bits // 8
        if _is_native(header) and length < expected:
            found = f"{length} of {expected} bytes"
            raise UnusableKnee("truncated_pixels", found) from error
        reason = "no_decoder" if "does not support" in str(error) else "corrupt_pixels"
        raise UnusableKnee(reason, words(error)) from error
    if stored.shape != (header.Rows, header.Columns) or stored.dtype.kind not in "iu":
        # Of floats, which DICOM keeps elsewhere, or packed bits.
        raise UnusableKnee("corrupt_pixels", f"they are {stored.dtype} {stored.shape}")
    return stored


def _is_native(header: pydicom.Dataset) -> bool:
    syntax = header.file_meta.get("TransferSyntaxUID", "")
    return syntax in AllTransferSyntaxes and not syntax.is_compressed


def rescale(header: pydicom.Dataset, stored: np.ndarray) -> np.ndarray:
    """Stored values through the modality LUT or rescale, untouched where that changes nothing.

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
    """Maximum - value, of the same kind but unsigned where it is integer."""
    inverted = values.max() - values
    if inverted.dtype.kind != "i":
        return inverted
    # Of signed values up to twice what such a one can hold: it has wrapped around, as unsigned not.
    return inverted.view(f"u{inverted.dtype.itemsize}")


def _applied(
    table: Callable[..., np.ndarray], values: np.ndarray, header: pydicom.Dataset, what: str
) -> np.ndarray:
    try:
        found = table(values, header)
    except Exception as error:
        # pydicom trusts what is in the header.
        raise UnusableKnee("corrupt_header", f"{what}: {kind(error)}") from error
    if not np.isfinite(found).all():
        raise UnusableKnee("corrupt_header", f"{what} gives no numbers")
    return found


def kind(error: Exception) -> str:
    """An error without its words, which may quote what is in the file."""
    return type(error).__name__


def words(error: Exception) -> str:
    """An error as one line, not too long for a table, without what it quotes."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "…", " ".join(str(error).split()))
    return f"{kind(error)}: {text}"[:300]
