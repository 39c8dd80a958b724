"""Compute PDQ, a perceptual hash of 256 bits with a quality, by which known images are found again.

Source: Davis and Rosen 2019, "The TMK+PDQF video-hashing algorithm and the PDQ image-hashing algorithm" (Facebook). The
hashes are those of the reference implementation, as pdqhash 0.2.8 binds it, which has no wheel for Linux. So all sums are
of float32 in its order: the coefficients of patterns, icons and glyphs are zero but for rounding, and their signs are bits.
A CMYK JPEG is hashed by its colours as OpenCV decodes it; programs that decode it inverted have another hash.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from dataops.images.digests import Digest

MATCH_BITS = 31
"""Maximum Hamming distance of a match. Source: ThreatExchange, python-threatexchange, PDQ's confident match threshold."""
MIN_QUALITY = 50
"""Minimum quality of an image whose hash is compared: those of blank images resemble each other. Source: as before."""
_SIDE, _WAVES, _MIN_SIDE = 64, 16, 5


def compute_pdq(image_HW3: NDArray[np.uint8]) -> tuple[NDArray[np.uint64], int]:
    """Return the hash of an image as four words, the most significant first, and its quality, 0 to 100.

    Args:
        image_HW3: in OpenCV's order of colours (blue, green, red), or (height, width) of greys.
    """
    if min(image_HW3.shape[:2]) < _MIN_SIDE:
        return np.zeros(4, np.uint64), 0
    small = _compute_luma(image_HW3)
    for _ in range(2):
        small = _filter_box(_filter_box(small.T).T)
    rows, columns = (((np.arange(_SIDE) + 0.5) * size / _SIDE).astype(np.intp) for size in small.shape)
    small = small[np.ix_(rows, columns)]
    waves = _multiply(_multiply(_cosines(), small), _cosines().T)
    bits = (waves > np.sort(waves, axis=None)[waves.size // 2 - 1]).ravel()[::-1]  # the lower one of the two medians
    return np.packbits(bits).view(">u8").astype(np.uint64), _measure_quality(small)


def _multiply(one: NDArray[np.float32], two: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the matrix product, with the sums in the order of the columns of the first matrix."""
    product = np.zeros((len(one), two.shape[1]), np.float32)
    for column, row in zip(one.T, two, strict=True):
        product += column[:, None] * row
    return product


def format_pdq(words: NDArray[np.uint64]) -> str:
    """Return a hash as 64 hex digits."""
    return "".join(f"{int(word):016x}" for word in words)


def _compute_luma(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    if image.ndim == 2:
        return image.astype(np.float32)
    strips = np.array_split(image, max(1, image.shape[0] * image.shape[1] >> 20))
    weighted = (strip[..., 2] * 0.299 + strip[..., 1] * 0.587 + strip[..., 0] * 0.114 for strip in strips)
    return np.concatenate([strip.astype(np.float32) for strip in weighted])


def _filter_box(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean of each pixel's window down its column, by running sums; at the border, of the part that exists."""
    rows = len(image)
    window = (rows + 2 * _SIDE - 1) // (2 * _SIDE)
    after = (window + 2) // 2 - 1
    image, means = np.ascontiguousarray(image), np.empty(image.shape, np.float32)
    total, size = np.zeros(image.shape[1], np.float32), 0
    for row in range(rows + after):
        if row < rows:
            total += image[row]
            size += 1
        if row >= window:
            total -= image[row - window]
            size -= 1
        if row >= after:
            np.divide(total, np.float32(size), out=means[row - after])
    return means


@cache
def _cosines() -> NDArray[np.float32]:
    """Return the waves 1 to 16 of the discrete cosine transform over 64 pixels (16, 64)."""
    angles = np.pi / 2 / _SIDE * np.arange(1, _WAVES + 1)[:, None] * (2 * np.arange(_SIDE) + 1)
    return (float(np.float32(np.sqrt(2 / _SIDE))) * np.cos(angles)).astype(np.float32)


def _measure_quality(small: NDArray[np.float32]) -> int:
    """Return the sum of the differences between neighbours, in percent of full contrast, over 90, and at most 100."""
    steps = sum(int(np.abs(np.trunc(np.diff(small, axis=axis) * 100 / 255)).sum()) for axis in (0, 1))
    return min(steps // 90, 100)


def _compute_hex(data: bytes) -> str | None:
    from dataops.images.decode import decode_pixels  # OpenCV and numba are needed by workers only

    words, quality = compute_pdq(np.ascontiguousarray(decode_pixels(data)[..., ::-1]))
    return None if quality < MIN_QUALITY else format_pdq(words)


PDQ = Digest(digits=64, bits=MATCH_BITS, compute=_compute_hex)
"""The column `pdq` of opt-out lists."""
