"""Grey values of PNG files."""

import pathlib

import cv2
import numpy as np

from knee_jax.errors import UnusableKnee
from knee_jax.ingest import archives


def read_grey(path: pathlib.Path) -> np.ndarray:
    """Read an image of one channel, or of equal ones, [height, width], in the file's depth.

    Raises:
        UnusableKnee: unreadable, empty_file, not_an_image or colour_image.
    """
    try:
        data = np.frombuffer(archives.read(path), np.uint8)
    except OSError as error:
        raise UnusableKnee("unreadable", error.strerror or "it cannot be read") from error
    if not data.size:
        raise UnusableKnee("empty_file", "the file is empty; copy it again")
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if image is None:
        raise UnusableKnee("not_an_image", "no decoder reads it, or its data are cut short")
    if image.ndim != 2 and (image[..., :3] != image[..., :1]).any():
        raise UnusableKnee("colour_image", f"{image.shape[-1]} channels that differ")
    if image.ndim != 2:
        image = np.ascontiguousarray(image[..., 0])
    return image
