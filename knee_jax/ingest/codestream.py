"""Compressed pictures within DICOM files: their own headers, and their decoding by imagecodecs.

A codestream says itself how large and deep its picture is. That is compared with the DICOM header
before a pixel is decoded, since decoders believe the stream and readers the header.
"""

import dataclasses
import struct
from collections.abc import Callable
from typing import NamedTuple

import imagecodecs
import numpy as np
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from knee_jax.errors import UnusableKnee

JPEG, LOSSLESS_JPEG, JPEG_LS = "JPEG", "lossless JPEG", "JPEG-LS"
JPEG_2000, HT_JPEG_2000, RLE = "JPEG 2000", "high-throughput JPEG 2000", "RLE"

_COMPRESSION = {
    JPEGBaseline8Bit: JPEG,
    JPEGExtended12Bit: JPEG,
    JPEGLossless: LOSSLESS_JPEG,
    JPEGLosslessSV1: LOSSLESS_JPEG,
    JPEGLSLossless: JPEG_LS,
    JPEGLSNearLossless: JPEG_LS,
    JPEG2000Lossless: JPEG_2000,
    JPEG2000: JPEG_2000,
    HTJ2KLossless: HT_JPEG_2000,
    HTJ2KLosslessRPCL: HT_JPEG_2000,
    HTJ2K: HT_JPEG_2000,
    RLELossless: RLE,
}
LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K)
"""Transfer syntaxes that need not keep every value."""

# Start-of-frame markers: baseline, extended and progressive; lossless; JPEG-LS.
_FRAMES = {0xC0: JPEG, 0xC1: JPEG, 0xC2: JPEG, 0xC3: LOSSLESS_JPEG, 0xF7: JPEG_LS}
_OTHER_FRAMES = {*range(0xC5, 0xD0)} - {0xC8, 0xCC}
_ALONE = {0x01, *range(0xD0, 0xD9)}
_END, _SCAN = 0xD9, 0xDA
_JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"
_SIZES_OF_RLE_HEADER = 64
_NOISE = np.random.default_rng(0).integers(0, 255, 256, np.uint8).tobytes() + b"\xff\xd9"
"""Bytes, none of which is a marker's first, in place of the rest of a stream."""


@dataclasses.dataclass(frozen=True)
class Codestream:
    """Header of a compressed picture.

    Attributes:
        compression: Its name, such as `JPEG_2000`.
        columns, rows: Size, pixels.
        bits: Bits of a sample.
        samples: Samples of a pixel.
    """

    compression: str
    columns: int
    rows: int
    bits: int
    samples: int


class Form(NamedTuple):
    """Form of a picture as the DICOM header tells it.

    Attributes:
        columns, rows: Size, pixels.
        samples: Samples of a pixel, 1 or 3.
        allocated: Bits of a sample in memory: 8, 16 or 32.
    """

    columns: int
    rows: int
    samples: int
    allocated: int


def compression_of(syntax: UID) -> str | None:
    """Return the compression that a transfer syntax stands for, None if none is decoded."""
    return _COMPRESSION.get(syntax)


def parse(data: bytes) -> Codestream | None:
    """Read the header of a codestream; None if it is none that is known here (RLE has none).

    Raises:
        UnusableKnee: corrupt_pixels, truncated_pixels or no_decoder.
    """
    try:
        if data[:3] == b"\xff\xd8\xff":
            return _parse_jpeg(data)
        if data[:12] == _JP2:
            start = data.find(b"jp2c")
            data = data[start + 4 :] if start > 0 else b""
        if data[:4] == b"\xff\x4f\xff\x51":
            return _parse_jpeg_2000(data)
    except (struct.error, IndexError) as error:
        raise UnusableKnee("truncated_pixels", "the stream ends within its header") from error
    return None


def _parse_jpeg(data: bytes) -> Codestream:
    """Walk the markers up to the first start of a frame."""
    place = 2
    while True:
        while data[place] == 0xFF:
            place += 1
        marker = data[place]
        if data[place - 1] != 0xFF:
            raise UnusableKnee("corrupt_pixels", "the JPEG stream's header is broken")
        if marker in _OTHER_FRAMES:
            raise UnusableKnee("no_decoder", "JPEG of a hierarchical or arithmetic kind")
        if marker in (_END, _SCAN):
            raise UnusableKnee("corrupt_pixels", "the JPEG stream has no frame")
        if marker in _FRAMES:
            bits, rows, columns, samples = struct.unpack_from(">xxBHHB", data, place + 1)
            return Codestream(_FRAMES[marker], columns, rows, bits, samples)
        place += 1
        if marker not in _ALONE:
            place += struct.unpack_from(">H", data, place)[0]


def _parse_jpeg_2000(data: bytes) -> Codestream:
    """Read the marker SIZ, and whether CAP follows it (ISO/IEC 15444-1 A.5.1, 15444-15 A.3)."""
    length, _, right, bottom, left, top = struct.unpack_from(">HHIIII", data, 4)
    samples, depth = struct.unpack_from(">HB", data, 4 + 36)
    is_ht = data[4 + length : 6 + length] == b"\xff\x50"
    return Codestream(
        HT_JPEG_2000 if is_ht else JPEG_2000,
        right - left,
        bottom - top,
        (depth & 0x7F) + 1,
        samples,
    )


def decode(data: bytes, syntax: UID | None, form: Form) -> tuple[np.ndarray, int]:
    """Decode one frame whose codestream agrees with the DICOM header.

    Args:
        data: Frame, without the items that it is wrapped in.
        syntax: Transfer syntax of the file; None: unknown, the stream tells.
        form: Form of the picture.

    Returns:
        Samples, [rows, columns] or [rows, columns, samples], in the least of the integers that hold
        them; and their number of bits.

    Raises:
        UnusableKnee: stream_contradicts, corrupt_pixels, truncated_pixels or no_decoder.
    """
    told = None if syntax is None else compression_of(syntax)
    if told == RLE:
        return _decode_rle(data, form), form.allocated
    stream = parse(data)
    if stream is None:
        wanted = told or "compressed"
        raise UnusableKnee("corrupt_pixels", f"the pixels are no {wanted} stream")
    if told not in (None, stream.compression):
        detail = f"the header says {told}, the stream is {stream.compression}"
        raise UnusableKnee("stream_contradicts", detail)
    _compare(stream, form)
    decoders: dict[str, Callable[[bytes], np.ndarray]] = {
        JPEG: _decode_jpeg,
        LOSSLESS_JPEG: _decode_jpeg,
        JPEG_LS: _decode_jpeg_ls,
        # OpenJPEG is strict; OpenJPH, which is faster, takes the missing end of a stream for zeros.
        JPEG_2000: imagecodecs.jpeg2k_decode,
        HT_JPEG_2000: imagecodecs.jpeg2k_decode,
    }
    picture = _call(decoders[stream.compression], data, stream.compression)
    shape = (form.rows, form.columns, *([form.samples] if form.samples > 1 else []))
    if picture.shape != shape or picture.dtype.kind not in "iu":
        raise UnusableKnee("corrupt_pixels", f"{stream.compression} decodes to another shape")
    return picture, stream.bits


def _compare(stream: Codestream, form: Form) -> None:
    """Check a stream's header against that of the file.

    Raises:
        UnusableKnee: stream_contradicts or no_decoder.
    """
    name = f"the {stream.compression} stream"
    if (stream.columns, stream.rows) != (form.columns, form.rows):
        found, told = f"{stream.columns}x{stream.rows}", f"{form.columns}x{form.rows}"
        raise UnusableKnee(
            "stream_contradicts", f"{name} is {found} pixels, the header says {told}"
        )
    if stream.samples != form.samples:
        detail = f"{name} has {stream.samples} channels, the header says {form.samples}"
        raise UnusableKnee("stream_contradicts", detail)
    if stream.compression == JPEG and stream.bits not in (8, 12):
        raise UnusableKnee("no_decoder", f"{name} claims {stream.bits} bits a sample, not 8 or 12")
    if stream.bits > form.allocated:
        detail = f"{name} has {stream.bits} bits a sample, the header allocates {form.allocated}"
        raise UnusableKnee("stream_contradicts", detail)


def _call(read: Callable[[bytes], np.ndarray], data: bytes, compression: str) -> np.ndarray:
    try:
        return read(data)
    except MemoryError as error:
        raise UnusableKnee("too_large", "its pixels do not fit in memory") from error
    except UnusableKnee:
        raise
    except Exception as error:
        # Each decoder raises its own kinds of errors, in words that are no user's.
        detail = f"the {compression} stream ends early or is damaged"
        raise UnusableKnee("truncated_pixels", detail) from error


def _decode_jpeg(data: bytes) -> np.ndarray:
    """Decode JPEG, and check that the stream holds all of the picture.

    The decoder fills what a stream lacks, without a word. With noise at its end, only such a
    picture changes.

    Raises:
        UnusableKnee: truncated_pixels.
    """
    picture = imagecodecs.jpeg8_decode(data)
    end = data.rfind(b"\xff\xd9")
    # An end is followed by nothing but filling.
    whole = data[:end] if end >= 0 and not data[end + 2 :].strip(b"\0\xff") else data.rstrip(b"\0")
    if not np.array_equal(picture, imagecodecs.jpeg8_decode(whole + _NOISE)):
        raise UnusableKnee("truncated_pixels", "the JPEG stream ends early")
    return picture


def _decode_jpeg_ls(data: bytes) -> np.ndarray:
    """Decode JPEG-LS; without the end of a stream, CharLS goes on for seconds behind it."""
    return imagecodecs.jpegls_decode(data + b"\xff\xd9")


def _decode_rle(data: bytes, form: Form) -> np.ndarray:
    """Decode RLE (DICOM PS3.5 G), whose header tells the number of byte planes alone.

    Raises:
        UnusableKnee: stream_contradicts, corrupt_pixels or truncated_pixels.
    """
    if len(data) < _SIZES_OF_RLE_HEADER:
        raise UnusableKnee("truncated_pixels", "the RLE stream ends within its header")
    (planes,) = struct.unpack_from("<I", data)
    size = form.allocated // 8
    if planes != size * form.samples:
        if not 1 <= planes <= 15:
            raise UnusableKnee("corrupt_pixels", "the pixels are no RLE stream")
        detail = f"the RLE stream has {planes} byte planes, the header says {size * form.samples}"
        raise UnusableKnee("stream_contradicts", detail)
    kind = f"<u{size}"
    samples = _call(
        lambda data: np.frombuffer(imagecodecs.dicomrle_decode(data, kind), kind), data, RLE
    )
    expected = form.rows * form.columns * form.samples
    if len(samples) < expected:
        detail = f"the RLE stream holds {len(samples):,} of {expected:,} samples"
        raise UnusableKnee("truncated_pixels", detail)
    if len(samples) - expected > 1:
        detail = f"the RLE stream holds {len(samples):,} samples, the header says {expected:,}"
        raise UnusableKnee("stream_contradicts", detail)
    samples = samples[:expected]
    if form.samples == 1:
        return samples.reshape(form.rows, form.columns)
    # Planes follow one another.
    return np.moveaxis(samples.reshape(form.samples, form.rows, form.columns), 0, -1)
