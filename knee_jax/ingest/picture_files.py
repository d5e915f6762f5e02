"""Pixels of pictures: PNG, JPEG, TIFF and what else OpenCV decodes."""

import io
import itertools
import warnings

import cv2
import numpy as np
import PIL.Image
import PIL.TiffImagePlugin

from knee_jax.errors import UnusableKnee

MOST_PIXELS = 2**26
"""Number of pixels up to which a picture is decoded."""

MOST_COLOUR = 12
"""Grey levels by which the channels of a grey picture may differ after compression."""

_TOO_LARGE = f"more than {MOST_PIXELS:,} pixels; make it smaller"


def decode(data: bytes) -> np.ndarray | None:
    """Decode a picture, [height, width], in the file's depth; None if it is none.

    Raises:
        UnusableKnee: too_large, multi_frame, colour_image or corrupt_pixels.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of pictures that are too large for here anyway.
            warnings.simplefilter("ignore")
            with PIL.Image.open(io.BytesIO(data)) as opened:
                width, height = opened.size
                turned = _orientation(opened)
                several = _holds_several(opened)
    except PIL.Image.DecompressionBombError as error:
        raise UnusableKnee("too_large", _TOO_LARGE) from error
    except Exception:
        return None
    if width * height > MOST_PIXELS:
        raise UnusableKnee("too_large", f"{width} x {height}: {_TOO_LARGE}")
    if several:
        detail = "several pages or frames instead of 1; save every picture as a file of its own"
        raise UnusableKnee("multi_frame", detail)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise UnusableKnee("corrupt_pixels", "no decoder reads it, or its data are cut short")
    if not np.isfinite(image).all():
        raise UnusableKnee("corrupt_pixels", "it has values that are no numbers, or infinite")
    image = _turned(image, turned)
    if image.ndim == 2:
        return image
    if image.shape[-1] == 4:
        image = _seen(image)
    colours = image[..., :3].astype(np.int32)
    most = MOST_COLOUR * (257 if image.dtype == np.uint16 else 1)
    if image.shape[-1] >= 3 and np.ptp(colours, axis=-1).max() > most:
        raise UnusableKnee("colour_image", "a picture in colours; radiographs are grey")
    return np.ascontiguousarray(image[..., 0 if image.shape[-1] < 3 else 1])


def _seen(image: np.ndarray) -> np.ndarray:
    """Return the colours of a picture, [height, width, 4], black where it is rather transparent.

    Opacity is taken as all or nothing, since some decoders have multiplied by it already. A picture
    of no opacity anywhere has none that means anything.
    """
    colours, opacity = image[..., :3], image[..., 3]
    hidden = opacity < np.iinfo(image.dtype).max / 2
    if hidden.any() and opacity.any():
        colours[hidden] = 0
    return colours


def _holds_several(opened: PIL.Image.Image) -> bool:
    """Tell if a file holds further pictures, other than smaller versions and masks of its own."""
    if opened.format in ("GIF", "PNG", "WEBP"):
        return getattr(opened, "n_frames", 1) > 1
    if not isinstance(opened, PIL.TiffImagePlugin.TiffImageFile):
        return False
    try:
        for page in itertools.count(1):
            opened.seek(page)
            if not opened.tag_v2.get(_SUBFILE, 0) & _VERSION_OR_MASK:
                return True
    except Exception:
        # The end, or a damaged page; the first one may be whole.
        return False
    return False


_SUBFILE, _VERSION_OR_MASK = 0x00FE, 0b101
"""TIFF's tag of what a page is, and its bits of a smaller version or a mask of another page."""

_ORIENTATION = 0x0112
"""EXIF's tag of how a picture is to be turned."""


def _orientation(opened: PIL.Image.Image) -> int:
    """Return the orientation that is still to be applied, 1 (upright) to 8."""
    if opened.format == "TIFF":
        return 1  # OpenCV applies it itself.
    try:
        return int(opened.getexif().get(_ORIENTATION, 1))
    except Exception:
        # Whatever a damaged tag leads to; the picture itself may be whole.
        return 1


def _turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror a picture as its EXIF orientation says, 1 to 8."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)
