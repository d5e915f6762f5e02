"""Pixels of a DICOM file: stored values decoded, rescaled, and made grey values of bright bone.

The steps are public, since slices of MR series also go through them (`series`).
"""

from collections.abc import Callable

import cv2
import numpy as np
import pydicom
from pydicom.encaps import get_frame
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import AllTransferSyntaxes, ExplicitVRBigEndian

from knee_jax.errors import UnusableKnee
from knee_jax.ingest import codestream, polarity
from knee_jax.ingest.dicom_header import integer, transfer_syntax, value

_MOST_DIFFERENCE = 3
"""Grey levels by which lossy compression may part the channels of a grey film."""


def decode(header: pydicom.Dataset, frame: int = 0) -> tuple[np.ndarray, list[str]]:
    """Decode the stored values of one frame.

    Args:
        header: Whole file.
        frame: Number of the frame, from 0.

    Returns:
        Stored values, integer [rows, columns], or [rows, columns, 3] of an image in three channels;
        and remarks, keys of `dicom.NOTES`.

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
    syntax = transfer_syntax(header)
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
        detail = f"it breaks off: {found:,} of {length:,} bytes of pixels; copy the file again"
        raise UnusableKnee("truncated_pixels", detail)
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


def grey_values(
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
    syntax = transfer_syntax(header)
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
