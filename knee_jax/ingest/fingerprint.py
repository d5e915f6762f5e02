"""Checksum and perceptual hash of a knee's pixels, by which it is known again under any name."""

import functools
import hashlib

import cv2
import numpy as np

SIDE, DEVIATION, EDGE = 64, 1.5, 2
"""Side of the reduced picture, deviation of the blur that is taken off it, and its rim, pixels."""

BITS = 512
"""Bits of a perceptual hash."""

NEAR = 76
"""Number of differing bits up to which two pictures are taken for one.

None of the 4.5 million pairs of 3,000 real knees of `kneekl224` differs in fewer than 135 bits, and
none of the 470,000 of `phantom_xray/demo` in fewer than 92. Of 150 real knees, the same picture at
half the resolution differs in at most 54 bits and with another gamma in 61; moved by a pixel or
saved as JPEG of quality 50, 95 % differ in at most 76.
"""


def checksum(pixels: np.ndarray) -> str:
    """Return 16 hexadecimal digits that stand for an array's shape, type and values."""
    digest = hashlib.sha256(f"{pixels.dtype}{pixels.shape}".encode())
    digest.update(pixels.tobytes())
    return digest.hexdigest()[:16]


def perceptual_hash(pixels: np.ndarray) -> str:
    """Return a hash that differs in few bits (`NEAR`) between versions of one picture.

    The usual hashes of 64 bits are no use here: knees are aligned, and 5,189 pairs of different
    real knees share their hash of differences. This one sees the fine structure alone: the picture
    is reduced, its blurred self is taken off, the contrast is made even, and each bit is the side
    of a random plane that the result lies on (Charikar 2002).

    Args:
        pixels: Image, uint8 [height, width], or volume [rows, columns, slices].

    Returns:
        `BITS` bits as hexadecimal digits; '' for volumes and for images that are smaller than
        `SIDE` or all of one grey, which cannot be told apart in this way.
    """
    if pixels.ndim != 2 or min(pixels.shape) < SIDE or pixels.min() == pixels.max():
        return ""
    image = np.ascontiguousarray(pixels)
    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    fine = small - cv2.GaussianBlur(small, (0, 0), DEVIATION)
    contrast = np.sqrt(cv2.GaussianBlur(fine * fine, (0, 0), 4 * DEVIATION)) + 1
    even = (fine / contrast)[EDGE:-EDGE, EDGE:-EDGE]
    return np.packbits((even - even.mean()).ravel() @ _planes() > 0).tobytes().hex()


@functools.cache
def _planes() -> np.ndarray:
    """Return the normals of the planes, ±1 in float32 [pixels, bits]."""
    size = (SIDE - 2 * EDGE) ** 2 * BITS
    # Raw bits, whose stream NumPy keeps for good.
    raw = np.random.PCG64(0).random_raw(size // 64)
    signs = np.unpackbits(raw.astype("<u8").view(np.uint8)).reshape(-1, BITS)
    return signs.astype(np.float32) * 2 - 1
