"""DICOM of any transfer syntax pydicom can decode → grey values, and a film's spacing.

The steps are public, since a slice of an MR series goes through them too (`volume`).
"""

import dataclasses
import logging
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from knee_jax.errors import UnusableKnee

MODALITIES = ("CR", "DX", "RG")
"""Computed, digital and digitised radiography."""

# What it cannot decode becomes a row of quarantine.csv; its log would be a page of tracebacks each.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

_SPACING_RANGE = (0.02, 1.0)
_POLARITIES = ("MONOCHROME1", "MONOCHROME2")


@dataclasses.dataclass(frozen=True)
class Film:
    """One radiograph.

    Attributes:
        pixels: integer or float [H, W]; bone is brighter than air.
        spacing_mm: pixel width and height (x, y) in mm.
    """

    pixels: np.ndarray
    spacing_mm: tuple[float, float]


def read_film(path: pathlib.Path) -> Film:
    """Reads one film.

    The grey values pass the modality LUT or rescale, then a VOI LUT table or sigmoid where the
    file has one. A *linear* VOI window is not applied: it would only stretch and clip, and the
    percentiles of `film.intensity_window` set that window for every film alike, as in the published
    pipeline (Tiulpin's, which reads the stored values). MONOCHROME1 is inverted (max - value).

    The spacing is ImagerPixelSpacing, else PixelSpacing; rows and columns may differ.

    Raises:
        UnusableKnee: unreadable, empty_file, truncated_file, not_dicom, wrong_modality,
            colour_image, multi_frame, unknown_polarity, empty_image, corrupt_header, no_spacing,
            bad_spacing, no_decoder, truncated_pixels or corrupt_pixels.
    """
    # pydicom warns of every blemish it can live with; what it cannot live with it raises.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = read_header(path)
        check_image(header, MODALITIES)
        spacing_mm = _spacing(header)
        return Film(_grey_values(header, decode(header)), spacing_mm)


def read_header(path: pathlib.Path, keywords: Sequence[str] | None = None) -> pydicom.Dataset:
    """Reads a file, its pixels not yet decoded.

    Args:
        path: of the file.
        keywords: the elements to be read, and the file no further than to its pixels; None: all.

    Raises:
        UnusableKnee: unreadable, empty_file, truncated_file or not_dicom.
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
    except Exception as error:
        # A file cut within its header fails deep in pydicom's parser, in many ways.
        raise UnusableKnee("not_dicom", words(error)) from error
    if header is None:
        raise UnusableKnee("empty_file", "zero bytes")
    if not len(header) and not keywords:
        # Where a compressed image breaks off, pydicom drops the header along with it.
        raise UnusableKnee("truncated_file", "the file ends before its data do")
    return header


def check_image(header: pydicom.Dataset, modalities: Sequence[str]) -> None:
    """Checks that a file holds one grey image of one of the modalities.

    Raises:
        UnusableKnee: wrong_modality, colour_image, multi_frame, empty_image, unknown_polarity or
            corrupt_header.
    """
    modality = value(header, "Modality", "")
    if modality not in modalities:
        raise UnusableKnee("wrong_modality", f"{modality or 'none'}, not {'/'.join(modalities)}")
    samples = value(header, "SamplesPerPixel", 1)
    if samples != 1:
        raise UnusableKnee("colour_image", f"{samples} channels instead of 1")
    frames = value(header, "NumberOfFrames") or 1
    if frames != 1:
        raise UnusableKnee("multi_frame", f"{frames} frames instead of 1")
    rows, columns = value(header, "Rows") or 0, value(header, "Columns") or 0
    if not rows or not columns or not header.get("PixelData"):
        length = len(header.get("PixelData") or b"")
        raise UnusableKnee("empty_image", f"{rows} rows, {columns} columns, {length} bytes")
    polarity = value(header, "PhotometricInterpretation", "")
    if polarity not in _POLARITIES:
        raise UnusableKnee("unknown_polarity", f"{polarity or 'none'}, not {_POLARITIES}")


def value(header: pydicom.Dataset, keyword: str, default: Any = None) -> Any:
    """The value of one element, `default` where it is absent.

    Raises:
        UnusableKnee: corrupt_header.
    """
    # pydicom parses values when they are asked for, so that a broken one is met here.
    try:
        return header.get(keyword, default)
    except Exception as error:
        raise UnusableKnee("corrupt_header", f"{keyword}: {words(error)}") from error


def _spacing(header: pydicom.Dataset) -> tuple[float, float]:
    # As in `value`.
    try:
        found = header.get("ImagerPixelSpacing") or header.get("PixelSpacing")
        values = [float(value) for value in np.atleast_1d(found)] if found else []
    except (TypeError, ValueError) as error:
        raise UnusableKnee("bad_spacing", words(error)) from error
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
        UnusableKnee: no_decoder, truncated_pixels or corrupt_pixels.
    """
    try:
        return header.pixel_array
    except NotImplementedError as error:
        raise UnusableKnee("no_decoder", words(error)) from error
    except Exception as error:
        # Every decoder has errors of its own kind.
        compressed = header.file_meta.TransferSyntaxUID.is_compressed
        expected = header.Rows * header.Columns * header.BitsAllocated // 8
        if not compressed and len(header.PixelData) < expected:
            found = f"{len(header.PixelData)} of {expected} bytes"
            raise UnusableKnee("truncated_pixels", found) from error
        reason = "no_decoder" if "does not support" in str(error) else "corrupt_pixels"
        raise UnusableKnee(reason, words(error)) from error


def rescale(header: pydicom.Dataset, stored: np.ndarray) -> np.ndarray:
    """Stored values through the modality LUT or rescale, untouched where that changes nothing.

    Raises:
        UnusableKnee: corrupt_header.
    """
    slope, intercept = value(header, "RescaleSlope", 1), value(header, "RescaleIntercept", 0)
    if "ModalityLUTSequence" not in header and slope == 1 and intercept == 0:
        return stored
    try:
        return apply_modality_lut(stored, header)
    except (TypeError, ValueError) as error:
        raise UnusableKnee("corrupt_header", f"its rescale: {words(error)}") from error


def _grey_values(header: pydicom.Dataset, stored: np.ndarray) -> np.ndarray:
    rescaled = rescale(header, stored)
    if header.get("VOILUTSequence"):
        rescaled = apply_voi_lut(np.rint(rescaled).astype(np.int32), header)
    elif header.get("VOILUTFunction") == "SIGMOID":
        rescaled = apply_voi_lut(rescaled, header)
    if header.PhotometricInterpretation == "MONOCHROME1":
        return rescaled.max() - rescaled
    return rescaled


def words(error: Exception) -> str:
    """An error as one line, not too long for a table."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
