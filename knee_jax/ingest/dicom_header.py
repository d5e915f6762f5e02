"""Header of a DICOM file, read without its pixels, whatever was left out of the file's form."""

import logging
import pathlib
import struct
from collections.abc import Sequence
from typing import Any

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from knee_jax.errors import UnusableKnee
from knee_jax.ingest import archives

# Files that pydicom cannot decode become rows of exclusions.csv; each would log a page of
# tracebacks.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)


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
            raise UnusableKnee("empty_file", "the file is empty; copy it again")
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
    return "no DICOM preamble and no DICOM element at its start; give a film"


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


def transfer_syntax(header: pydicom.Dataset) -> UID | None:
    """Return the transfer syntax, None if the header has none.

    Raises:
        UnusableKnee: corrupt_header.
    """
    found = value(header.file_meta, "TransferSyntaxUID") if header.file_meta else None
    return UID(str(found)) if found else None
