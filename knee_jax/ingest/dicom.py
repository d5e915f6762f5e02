"""Grey values and spacing of DICOM files.

The steps are public, since slices of MR series also go through them (`series`).
"""

import dataclasses
import logging
import pathlib
import re
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import pydicom
from pydicom.encaps import get_frame
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import UID, AllTransferSyntaxes, ExplicitVRBigEndian

from knee_jax.errors import UnusableKnee
from knee_jax.ingest import archives, codestream, polarity

MODALITIES = ("CR", "DX", "RG")
"""Modalities of films: computed, digital and digitised radiography."""

# Files that pydicom cannot decode become rows of exclusions.csv; each would log a page of
# tracebacks.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

SPACING_RANGE_MM = (0.02, 1.0)
"""Pixel sizes that a film may have, mm."""

_POLARITIES = ("MONOCHROME1", "MONOCHROME2")
_COLOURS = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_GREY_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
"""Colours whose three channels are compared, since grey films are also stored so."""
_MOST_DIFFERENCE = 3
"""Grey levels by which lossy compression may part the channels of a grey film."""

_MOST_PIXELS = 2**26
"""Maximum number of pixels: four times those of the largest film, of 43 cm at 0.1 mm."""

NOTES = {
    "header_mirrored": "its rows run to the patient's right",
    "header_upside_down": "its columns run to the head",
    "header_one_sided": "its header names one side, though the film should show both knees",
    "header_lies_on_its_side": "its rows run to the head or feet",
    "header_not_frontal": "its rows or columns run to the front or the back",
    "no_preamble": "the file has no DICOM preamble; it is read as its first elements look",
    "no_transfer_syntax": "the header has no transfer syntax; it is read as the file looks",
    "imager_spacing_unusable": "ImagerPixelSpacing is no plausible size; another one was taken",
    "spacings_differ": "ImagerPixelSpacing was taken; PixelSpacing says otherwise",
    "spacing_of_the_scanner": "NominalScannedPixelSpacing was taken, for want of another",
    "spacing_given": "the user's spacing was taken, for the film has none",
    "voi_table_left_out": "its VOI LUT, a table for display, is broken or leaves no picture",
    "sigmoid_left_out": "its sigmoid window, meant for display, is broken or leaves no picture",
    "high_bits_masked": "bits above BitsStored hold something else, and were masked",
    "bits_stored_too_few": "its values have more bits than BitsStored says; all were kept",
    "sign_contradicts": "its header says that values have a sign, the values say not",
    "high_bit_contradicts": "HighBit says that values are shifted, the values say not",
    "stream_of_fewer_bits": "its compressed stream has fewer bits than BitsStored says",
    "grey_in_three_channels": "a grey film stored in three equal channels",
    "polarity_contradicts": "its header contradicts itself on whether bone is bright",
    "polarity_by_the_picture": "its header contradicts itself; inverted, as the picture says",
    "bones_look_dark": "bone looks dark on the picture, though the header says bright",
    "padding_left_out": "PixelPaddingValue round the film was taken out of the grey levels",
}
"""Remarks on a film, by name: what was strange, and what was done."""

CONTRADICTS = "its header names another subject than its path"

_SUBJECT_ID = re.compile(r"(?P<most>M[A-Z]?)\d{2,}|\d{7}")


@dataclasses.dataclass(frozen=True)
class Film:
    """One radiograph.

    Attributes:
        pixels: Grey values, integer or float [H, W]; bone is brighter than air.
        spacing_mm: Pixel width and height (x, y), mm.
        notes: Remarks, keys of `NOTES`.
        padding: Pixels that are none of the film, bool [H, W]; None: there are none. They are as
            dark as the darkest of the film.
    """

    pixels: np.ndarray
    spacing_mm: tuple[float, float]
    notes: tuple[str, ...] = ()
    padding: np.ndarray | None = None


def read_film(
    path: pathlib.Path, subject: str | None = None, spacing_mm: float | None = None
) -> Film:
    """Read one film.

    The grey values pass the modality LUT or rescale, then a VOI LUT table or sigmoid if the file
    has one that leaves a picture. A *linear* VOI window is not applied: it would only stretch and
    clip, and the percentiles of `film.intensity_window` set that window in the same way for every
    film, as in the published pipeline (Tiulpin's, which reads the stored values). MONOCHROME1 is
    inverted (max - value).

    The spacing is ImagerPixelSpacing, otherwise PixelSpacing, otherwise NominalScannedPixelSpacing;
    that of rows and columns may differ.

    Args:
        path: Path of the file.
        subject: Id of the film's subject; None: not checked.
        spacing_mm: Pixel size of a film that tells none, mm; None: such a film is unusable.

    Raises:
        UnusableKnee: unreadable, empty_file, truncated_file, not_dicom, wrong_modality,
            colour_image, multi_frame, unknown_polarity, empty_image, corrupt_header, no_spacing,
            bad_spacing, too_large, no_decoder, stream_contradicts, truncated_pixels, corrupt_pixels
            or subject_contradicts. The detail quotes no text of the file, which may name the
            patient.
    """
    # pydicom warns of every flaw that it tolerates, and raises the others.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = read_header(path)
        check_image(header, MODALITIES, colours=_GREY_COLOURS)
        check_subject(header, subject)
        found_mm, notes = _spacing(header, spacing_mm)
        notes += _form_notes(header)
        notes += _contradictions(header)
        stored, more = decode(header)
        grey, padding, of_values = _grey_values(header, stored)
        return Film(grey, found_mm, (*notes, *more, *of_values), padding)


def _form_notes(header: pydicom.Dataset) -> list[str]:
    if not header.file_meta:
        return ["no_preamble"]
    return ["no_transfer_syntax"] if _syntax(header) is None else []


def _syntax(header: pydicom.Dataset) -> UID | None:
    """Return the transfer syntax, None if the header has none.

    Raises:
        UnusableKnee: corrupt_header.
    """
    found = value(header.file_meta, "TransferSyntaxUID") if header.file_meta else None
    return UID(str(found)) if found else None


def _contradictions(header: pydicom.Dataset) -> Iterator[str]:
    """Yield the names of the header's contradictions to the expected orientation."""
    try:
        directions = [str(each)[:1].upper() for each in value(header, "PatientOrientation") or ()]
        side = value(header, "ImageLaterality") or value(header, "Laterality", "")
    except UnusableKnee:
        return  # These elements are not needed; broken ones are ignored.
    # Directions in the patient along a row and down a column; expected: left and foot.
    along, down = [*directions, "", ""][:2]
    if along == "R":
        yield "header_mirrored"
    if down == "H":
        yield "header_upside_down"
    if along in ("H", "F") or down in ("L", "R"):
        yield "header_lies_on_its_side"
    if {along, down} & {"A", "P"}:
        yield "header_not_frontal"
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
        begin = _begin(path)
        if not begin:
            raise UnusableKnee("empty_file", "zero bytes")
        with archives.open_file(path) as file:
            header = pydicom.dcmread(
                file, stop_before_pixels=partly, specific_tags=tags, force=_is_bare(begin)
            )
    except InvalidDicomError as error:
        raise UnusableKnee("not_dicom", _other_kind(begin)) from error
    except OSError as error:
        raise UnusableKnee("unreadable", error.strerror or "it cannot be read") from error
    except MemoryError as error:
        raise UnusableKnee("too_large", "it does not fit in memory once inflated") from error
    except UnusableKnee:
        raise
    except Exception as error:
        # A file cut within its header fails deep in pydicom's parser, in many ways.
        raise UnusableKnee("not_dicom", "its header breaks off or is damaged") from error
    if not len(header) and not keywords:
        # If a compressed image breaks off, pydicom also discards the header.
        raise UnusableKnee("truncated_file", "the file ends before its data do")
    return header


def _begin(path: pathlib.Path) -> bytes:
    with archives.open_file(path) as file:
        return file.read(132)


def _is_bare(begin: bytes) -> bool:
    """Return whether a file without a preamble begins with an element, as DICOM files of old do."""
    if begin[128:] == b"DICM" or len(begin) < 8:
        return False
    groups = (struct.unpack_from(order, begin) for order in ("<HH", ">HH"))
    return any(group in (2, 8) and element < 0x100 for group, element in groups)


_KINDS = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG", "PNG"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"\0\0\0\x0cjP", "JPEG 2000"),
    (4, b"ftyp", "HEIF or video"),
    (8, b"WEBP", "WebP"),
)
"""First bytes of other pictures, and their place."""


def _other_kind(begin: bytes) -> str:
    """Describe a file that is not DICOM."""
    if begin.startswith(b"%PDF"):
        return "a PDF document"
    if begin.startswith((b"PK\x03\x04", b"\x1f\x8b")):
        return "an archive, without the suffix .zip, .tar.gz or .tgz"
    for place, bytes_, name in _KINDS:
        if begin[place:].startswith(bytes_):
            return f"a picture of the kind {name}, as a photograph or screenshot of a film is"
    return "no DICOM preamble and no DICOM element at its start"


def check_image(
    header: pydicom.Dataset,
    modalities: Sequence[str],
    colours: Sequence[str] = (),
    *,
    frames: bool = False,
) -> None:
    """Check that a file holds one grey image of one of the modalities.

    Args:
        header: Whole file.
        modalities: Modalities.
        colours: Colours whose three channels may be equal, so that the image is grey.
        frames: Whether it may hold several.

    Raises:
        UnusableKnee: wrong_modality, colour_image, multi_frame, empty_image, too_large,
            unknown_polarity or corrupt_header.
    """
    modality = value(header, "Modality") or "none"
    if modality not in modalities:
        # Another value is reported only if it looks like a modality: two letters.
        found = modality if re.fullmatch("[A-Z]{2}|none", str(modality)) else "another"
        named = f" ({_OTHER_MODALITIES[found]})" if found in _OTHER_MODALITIES else ""
        raise UnusableKnee("wrong_modality", f"{found}{named}, not {'/'.join(modalities)}")
    samples = integer(header, "SamplesPerPixel", 1)
    polarity = value(header, "PhotometricInterpretation") or "none"
    in_channels = samples == 3 and polarity in colours
    if samples != 1 and not in_channels:
        raise UnusableKnee("colour_image", f"{samples} channels instead of 1")
    number = integer(header, "NumberOfFrames", 1)
    if number != 1 and not (frames and number > 1):
        detail = f"{number} frames instead of 1; export every picture as a file of its own"
        raise UnusableKnee("multi_frame", detail)
    rows, columns = integer(header, "Rows", 0), integer(header, "Columns", 0)
    length = len(value(header, "PixelData") or b"")
    if rows < 1 or columns < 1 or not length:
        raise UnusableKnee("empty_image", f"{rows} rows, {columns} columns, {length} bytes")
    if rows * columns * number > _MOST_PIXELS:
        raise UnusableKnee("too_large", f"{columns}x{rows} pixels, more than {_MOST_PIXELS:,}")
    if polarity not in _POLARITIES and not in_channels:
        found = polarity if polarity in ("none", *_COLOURS) else "another"
        raise UnusableKnee("unknown_polarity", f"{found}, not {' or '.join(_POLARITIES)}")


_OTHER_MODALITIES = {
    "XC": "a photograph",
    "OT": "of another kind, as scans and screenshots are",
    "SC": "a secondary capture, as screenshots are",
    "MR": "magnetic resonance",
    "CT": "computed tomography",
    "US": "ultrasound",
    "PR": "a presentation state, without pixels",
    "KO": "a list of objects, without pixels",
    "SR": "a report, without pixels",
}


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
        raise UnusableKnee("corrupt_header", f"{keyword} cannot be read") from error


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


def _spacing(
    header: pydicom.Dataset, given_mm: float | None
) -> tuple[tuple[float, float], list[str]]:
    """Return the spacing (x, y), mm, and remarks on it."""
    low, high = SPACING_RANGE_MM
    found, wrong = {}, {}
    for keyword in ("ImagerPixelSpacing", "PixelSpacing", "NominalScannedPixelSpacing"):
        told = value(header, keyword)
        try:
            values = [float(each) for each in np.atleast_1d(told)] if told else []
        except (TypeError, ValueError):
            wrong[keyword] = "it is no number"
            continue
        if values and len(values) <= 2 and all(low <= each <= high for each in values):
            # DICOM gives the distance of rows (y) first.
            found[keyword] = (values[-1], values[0])
        elif values:
            # A number far from any pixel's size may be a misplaced id.
            told = "/".join(f"{each:g}" if 0 <= each < 1000 else "?" for each in values[:2])
            wrong[keyword] = f"{told} mm, not {low} to {high}"
    if not found:
        if wrong:
            raise UnusableKnee("bad_spacing", next(iter(wrong.values())))
        if given_mm is not None:
            return (given_mm, given_mm), ["spacing_given"]
        detail = "none of ImagerPixelSpacing, PixelSpacing and NominalScannedPixelSpacing; if it "
        raise UnusableKnee("no_spacing", f"{detail}is known, give it as --spacing")
    keyword = next(iter(found))
    notes = ["imager_spacing_unusable"] if "ImagerPixelSpacing" in wrong else []
    if keyword == "NominalScannedPixelSpacing":
        notes.append("spacing_of_the_scanner")
    others = [each for name, each in found.items() if name == "PixelSpacing"]
    if keyword == "ImagerPixelSpacing" and not np.allclose(
        [found[keyword]], others or found[keyword], rtol=1e-3
    ):
        notes.append("spacings_differ")
    return found[keyword], notes


def decode(header: pydicom.Dataset, frame: int = 0) -> tuple[np.ndarray, list[str]]:
    """Decode the stored values of one frame.

    Args:
        header: Whole file.
        frame: Number of the frame, from 0.

    Returns:
        Stored values, integer [rows, columns], or [rows, columns, 3] of an image in three channels;
        and remarks, keys of `NOTES`.

    Raises:
        UnusableKnee: corrupt_header, too_large, no_decoder, stream_contradicts, truncated_pixels or
            corrupt_pixels.
    """
    samples = integer(header, "SamplesPerPixel", 1)
    allocated = integer(header, "BitsAllocated", 0)
    stored = integer(header, "BitsStored", allocated)
    high = integer(header, "HighBit", stored - 1)
    if allocated not in (8, 16, 32):
        raise UnusableKnee("no_decoder", f"{allocated} bits allocated, not 8, 16 or 32")
    if not (1 <= stored <= allocated and stored - 1 <= high < allocated):
        detail = f"{stored} bits stored up to bit {high}, of {allocated} allocated"
        raise UnusableKnee("corrupt_header", detail)
    signed = integer(header, "PixelRepresentation", 0)
    if signed not in (0, 1):
        raise UnusableKnee("corrupt_header", f"PixelRepresentation is {signed}, not 0 or 1")
    form = codestream.Form(
        integer(header, "Columns", 0), integer(header, "Rows", 0), samples, allocated
    )
    try:
        raw, bits = _raw_samples(header, form, frame)
        return _stored_values(raw, bits, stored, high, bool(signed))
    except MemoryError as error:
        raise UnusableKnee("too_large", "its pixels do not fit in memory") from error


_ITEM = b"\xfe\xff\x00\xe0"


def _raw_samples(
    header: pydicom.Dataset, form: codestream.Form, frame: int
) -> tuple[np.ndarray, int]:
    """Return the samples as they are in the file, and how many bits they have."""
    data = value(header, "PixelData")
    syntax = _syntax(header)
    if syntax is not None and syntax not in AllTransferSyntaxes:
        raise UnusableKnee("no_decoder", "a transfer syntax that is none of DICOM's")
    wrapped = data[:4] == _ITEM
    if syntax is None and not wrapped:
        _, little = header.original_encoding
        return _native(data, form, frame, header, little is not False), form.allocated
    if syntax is not None and not syntax.is_compressed:
        if wrapped or (len(data) < _length(form) and codestream.parse(data)):
            detail = "the header says that the pixels are not compressed, but they are"
            raise UnusableKnee("stream_contradicts", detail)
        return _native(data, form, frame, header, syntax != ExplicitVRBigEndian), form.allocated
    if syntax is not None and codestream.compression_of(syntax) is None:
        raise UnusableKnee("no_decoder", f"{syntax.name} is not read here")
    if not wrapped:
        detail = "the header says that the pixels are compressed, but they are not wrapped so"
        raise UnusableKnee("stream_contradicts", detail)
    try:
        number = integer(header, "NumberOfFrames", 1)
        stream = get_frame(data, frame, number_of_frames=number)
    except Exception as error:
        detail = "the wrapping of the compressed pixels is damaged"
        raise UnusableKnee("corrupt_pixels", detail) from error
    return codestream.decode(stream, syntax, form)


def _length(form: codestream.Form) -> int:
    """Return the bytes of a frame that is not compressed."""
    return form.rows * form.columns * form.samples * form.allocated // 8


def _native(
    data: bytes, form: codestream.Form, frame: int, header: pydicom.Dataset, little: bool
) -> np.ndarray:
    """Return the samples of a frame that is not compressed.

    Raises:
        UnusableKnee: truncated_pixels or colour_image.
    """
    if value(header, "PhotometricInterpretation") == "YBR_FULL_422":
        raise UnusableKnee("colour_image", "colours at half the resolution")
    length = _length(form)
    if len(data) < length * (frame + 1):
        found = max(len(data) - length * frame, 0)
        raise UnusableKnee("truncated_pixels", f"{found} of {length} bytes")
    if len(data) >= length * (integer(header, "NumberOfFrames", 1) + 1):
        detail = f"{len(data):,} bytes, where Rows and Columns tell of {length:,}"
        raise UnusableKnee("corrupt_pixels", detail)
    kind = np.dtype(f"{'<' if little else '>'}u{form.allocated // 8}")
    part = data[length * frame : length * (frame + 1)]
    if not little and form.allocated == 8 and header["PixelData"].VR == "OW":
        # Bytes are swapped within words, of which there may be half a one.
        words = data[: len(data) // 2 * 2]
        part = np.frombuffer(words, "u2").byteswap().tobytes()[length * frame :][:length]
    samples = np.frombuffer(part, kind)
    if form.samples == 1:
        return samples.reshape(form.rows, form.columns)
    if integer(header, "PlanarConfiguration", 0):
        return np.moveaxis(samples.reshape(form.samples, form.rows, form.columns), 0, -1)
    return samples.reshape(form.rows, form.columns, form.samples)


def _stored_values(
    raw: np.ndarray, bits: int, stored: int, high: int, signed: bool
) -> tuple[np.ndarray, list[str]]:
    """Take the stored values out of samples.

    Args:
        raw: Samples, integer of any shape.
        bits: Number of their bits.
        stored: BitsStored.
        high: HighBit.
        signed: Whether values are in two's complement.

    Returns:
        Values, of an integer type of the samples' size; and remarks.

    Raises:
        UnusableKnee: stream_contradicts.
    """
    notes = []
    raw = raw.astype(raw.dtype.newbyteorder("="), copy=False).view(f"u{raw.dtype.itemsize}")
    shift = high + 1 - stored
    if shift and bits > high:
        if not raw.max(initial=0) >> stored and (raw & (2**shift - 1)).any():
            notes.append("high_bit_contradicts")
        else:
            raw = raw >> raw.dtype.type(shift)
            bits = max(bits - shift, stored)
    if bits < stored:
        if signed:
            detail = f"the stream has {bits} bits a sample, the header says {stored}, with a sign"
            raise UnusableKnee("stream_contradicts", detail)
        return raw, [*notes, "stream_of_fewer_bits"]
    if not signed and not raw.max(initial=0) >> stored:
        return raw, notes
    if signed:
        # Unsigned values beyond half of the range, called signed, jump where they pass it.
        plain, with_sign = (_extend(raw, stored, sign) for sign in (False, True))
        if (with_sign < 0).any() and _is_torn(with_sign, plain, _MOST_TORN_BY_SIGN):
            return plain, [*notes, "sign_contradicts"]
    masked, whole = (_extend(raw, width, signed) for width in (stored, bits))
    if bits == stored or np.array_equal(masked, whole):
        return masked, notes
    if _is_torn(masked, whole):
        return whole, [*notes, "bits_stored_too_few"]
    return masked, [*notes, "high_bits_masked"]


def _extend(raw: np.ndarray, bits: int, signed: bool) -> np.ndarray:
    """Return the values of the lowest bits of unsigned samples."""
    size = 8 * raw.dtype.itemsize
    if not signed:
        return raw if bits == size else raw & raw.dtype.type(2**bits - 1)
    spare = raw.dtype.type(size - bits)
    return (raw << spare).view(f"i{raw.dtype.itemsize}") >> spare.astype(f"i{raw.dtype.itemsize}")


def _is_torn(masked: np.ndarray, whole: np.ndarray, most: float | None = None) -> bool:
    """Return whether masking tears a picture, instead of taking something off it.

    Neighbours that differ in the masked bits are alike without them, if these are an overlay. If
    the bits are of the picture, many of them are alike only with them, as 1023 and 1024 are.
    """
    a, b = (np.atleast_3d(each).astype(np.int64)[..., 0] for each in (masked, whole))
    rest = b - a
    torn = seams = 0
    for axis in (0, 1):
        there = np.diff(rest, axis=axis) != 0
        seams += int(there.sum())
        closer = np.abs(np.diff(b, axis=axis)) < np.abs(np.diff(a, axis=axis))
        torn += int((closer & there).sum())
    return torn > (_MOST_TORN if most is None else most) * seams


_MOST_TORN = 0.05
"""Share of seams at which noise, or the end of a bone, may look torn."""
_MOST_TORN_BY_SIGN = 0.8
"""The same of a sign that may be a mistake, where seams of pure noise are torn by half."""


_SLOPES, _INTERCEPT = (1e-6, 1e6), 1e7
"""Slopes, either way, and largest intercept of a rescale that are believed."""


def rescale(header: pydicom.Dataset, stored: np.ndarray) -> np.ndarray:
    """Apply the modality LUT or rescale to stored values, if it changes them.

    Raises:
        UnusableKnee: corrupt_header.
    """
    if value(header, "ModalityLUTSequence"):
        return _applied(apply_modality_lut, stored, header, "its modality LUT")
    try:
        slope, intercept = (
            float(default if (found := value(header, keyword)) in (None, "") else found)
            for keyword, default in (("RescaleSlope", 1), ("RescaleIntercept", 0))
        )
    except (TypeError, ValueError) as error:
        raise UnusableKnee("corrupt_header", "its rescale is no number") from error
    plausible = slope == 0 or _SLOPES[0] <= abs(slope) <= _SLOPES[1]
    if not (plausible and abs(intercept) <= _INTERCEPT):
        raise UnusableKnee(
            "corrupt_header",
            f"RescaleSlope is {slope:g} and RescaleIntercept {intercept:g}, which no film has",
        )
    if slope == 0:
        raise UnusableKnee("corrupt_header", "RescaleSlope is 0, which leaves no picture")
    if slope == 1 and intercept == 0:
        return stored
    return _applied(lambda values, _: values * slope + intercept, stored, header, "its rescale")


def _grey_values(
    header: pydicom.Dataset, stored: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Return grey values in which bone is bright, the padding, and remarks."""
    notes = []
    inverted = value(header, "PhotometricInterpretation") == "MONOCHROME1"
    if stored.ndim == 3:
        stored = _one_channel(header, stored)
        notes.append("grey_in_three_channels")
    padding = _padding(header, stored)
    if padding is not None:
        notes.append("padding_left_out")
    grey = rescale(header, stored)
    if name := _display_table(header):
        shown = _displayed(header, grey)
        if shown is None:
            notes.append(name)
        else:
            grey = shown
    if inverted:
        grey = invert(grey)
    grey = _fill(grey, padding)
    bright = polarity.brightness_of_bone(grey)
    if _contradicts_itself(header, inverted):
        if bright < -polarity.DECIDED:
            grey = _fill(invert(grey), padding)
            return grey, padding, [*notes, "polarity_by_the_picture"]
        notes.append("polarity_contradicts")
    elif bright < -polarity.DECIDED:
        notes.append("bones_look_dark")
    return grey, padding, notes


def _one_channel(header: pydicom.Dataset, stored: np.ndarray) -> np.ndarray:
    """Return the grey values of an image in three channels.

    Raises:
        UnusableKnee: colour_image.
    """
    syntax = _syntax(header)
    allowed = _MOST_DIFFERENCE if syntax in codestream.LOSSY else 0
    is_jpeg = syntax is not None and codestream.compression_of(syntax) not in (None, codestream.RLE)
    first, *others = (stored[..., n].astype(np.int64) for n in range(3))
    # Compressed colours are decoded as RGB; brightness and two colours are grey in the middle.
    apart = str(value(header, "PhotometricInterpretation")).startswith("YBR") and not is_jpeg
    middle = 2 ** (integer(header, "BitsStored", 8) - 1)
    differences = [np.abs(each - (middle if apart else first)).max() for each in others]
    if max(differences) > allowed:
        detail = f"3 channels that differ, by up to {max(differences)}: a picture in colour"
        raise UnusableKnee("colour_image", f"{detail}, as a photograph of a film is")
    return stored[..., 0]


def _padding(header: pydicom.Dataset, stored: np.ndarray) -> np.ndarray | None:
    """Return the pixels of PixelPaddingValue that touch the border, None if there are none.

    Within the film the same value is of the film.
    """
    try:
        ends = [value(header, "PixelPaddingValue"), value(header, "PixelPaddingRangeLimit")]
        numbers = [int(end) for end in ends if end not in (None, "")]
    except (UnusableKnee, TypeError, ValueError):
        return None
    if ends[0] in (None, "") or not numbers:
        return None
    # The value may be written without the sign that the pixels have.
    low, high = min(numbers), max(numbers)
    mask = 2 ** integer(header, "BitsStored", 8 * stored.dtype.itemsize) - 1
    padded = (stored >= low) & (stored <= high) | (
        (stored.astype(np.int64) & mask) == (numbers[0] & mask)
    )
    count, regions = cv2.connectedComponents(padded.astype(np.uint8), connectivity=4)
    edges = np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])
    outer = np.zeros(count, bool)
    outer[edges] = True
    outer[0] = False
    found = outer[regions]
    # A film that is nothing else is flat, and refused as such.
    return found if found.any() and not found.all() else None


def _fill(grey: np.ndarray, padding: np.ndarray | None) -> np.ndarray:
    """Return the film with padding as dark as its darkest pixel."""
    return grey if padding is None else np.where(padding, grey[~padding].min(), grey)


def _display_table(header: pydicom.Dataset) -> str:
    """Return the remark on leaving out the file's table for display, '' if it has none."""
    try:
        if value(header, "VOILUTSequence"):
            return "voi_table_left_out"
    except UnusableKnee:
        return "voi_table_left_out"
    try:
        return "sigmoid_left_out" if value(header, "VOILUTFunction") == "SIGMOID" else ""
    except UnusableKnee:
        return "sigmoid_left_out"


def _displayed(header: pydicom.Dataset, grey: np.ndarray) -> np.ndarray | None:
    """Apply a table for display; return None if it is broken or leaves too little of the picture.

    A table turns grey levels into others; one that makes most of them equal was not meant for these
    values. Both are told by the information of their histograms.
    """
    try:
        is_table = bool(value(header, "VOILUTSequence"))
        values = np.rint(grey).astype(np.int32) if is_table else grey
        shown = _applied(apply_voi_lut, values, header, "its VOI LUT")
    except UnusableKnee:
        return None
    return shown if _information(shown) > _information(grey) * _LEAST_INFORMATION else None


_LEAST_INFORMATION = 1 / 3
"""Share of a picture's information that its table for display must leave."""


def _information(grey: np.ndarray) -> float:
    """Return the entropy of a picture in 256 grey levels between percentiles 5 and 99, bits."""
    low, high = np.percentile(grey, (5, 99))
    if not low < high:
        return 0.0
    levels = ((grey - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)
    shares = np.bincount(levels.ravel(), minlength=256) / levels.size
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())


def _contradicts_itself(header: pydicom.Dataset, inverted: bool) -> bool:
    """Return whether elements besides PhotometricInterpretation say otherwise on bright and dark.

    PresentationLUTShape is INVERSE where the lowest value is white, and
    PixelIntensityRelationshipSign is 1 where the lowest value is of the fewest X-rays, bone (DICOM
    PS3.3 C.11.6 and C.8.11.3.1.2).
    """
    try:
        shape = value(header, "PresentationLUTShape")
        sign = value(header, "PixelIntensityRelationshipSign")
    except UnusableKnee:
        return False
    of_shape = {"INVERSE": True, "IDENTITY": False}.get(str(shape), inverted)
    of_sign = {"1": True, "-1": False}.get(str(sign), inverted)
    return of_shape != inverted or of_sign != inverted


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
        raise UnusableKnee("corrupt_header", f"{what} cannot be applied") from error
    if not np.isfinite(found).all():
        raise UnusableKnee("corrupt_header", f"{what} gives no numbers")
    return found
