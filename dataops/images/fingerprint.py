"""Compute the contrast of a decoded image, and the fingerprints that find its copies.

Integer arithmetic on the pixels makes them equal on all machines. The hash equals that of
`imagehash.phash` over the resampling of Pillow 13, bit for bit.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dataops.kernels.compiled import compiled

Pixels = NDArray[np.uint8]
"""(height, width, 3): RGB."""

cv2.setNumThreads(1)  # the workers are the parallelism: their threads would wait for each other

PHASH_BITS = 64
THUMBNAIL_SIDE = 16
MATRIX_SIDE = 32  # of the image that the hash's cosine transform is computed from
_KEPT = 8  # lowest frequencies per direction
_BLOCK = 4096  # pixels that are converted together; sums of less than 66,000 squares fit 32 bits
_PRECISION = 22  # fractional bits of a weight


@dataclass(frozen=True)
class Fingerprint:
    """Contrast and fingerprints of an image."""

    contrast: float
    """Standard deviation of the luminance, of 255 levels."""
    phash: int
    """64-bit perceptual hash."""
    thumbnail: bytes
    """RGB means over a 16x16 grid: 768 bytes, rows first. It verifies images with close hashes."""
    luminance: bytes
    """32x32 luminance that the hash is computed from: 1,024 bytes, rows first."""


def fingerprint(pixels: Pixels) -> Fingerprint:
    """Compute the fingerprint of an image."""
    pixels = np.ascontiguousarray(pixels)
    grey = np.empty(pixels.shape[:2], np.uint8)
    cells = np.empty((THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3), np.uint8)
    total, squares = _luminance(pixels.ravel(), grey.ravel())
    _average_cells(pixels.reshape(len(pixels), -1), cells)
    luminance, mean = resize_plane(grey, MATRIX_SIDE), total / grey.size
    return Fingerprint(
        contrast=math.sqrt(max(0.0, squares / grey.size - mean * mean)),
        phash=int(hash_cosines(DCT @ luminance @ DCT.T)[0]),
        thumbnail=cells.tobytes(),
        luminance=luminance.tobytes(),
    )


def compute_luminance(pixels: Pixels) -> NDArray[np.uint8]:
    """Return the luminance (height, width)."""
    luminance = np.empty(pixels.shape[:2], np.uint8)
    _luminance(np.ascontiguousarray(pixels).ravel(), luminance.ravel())
    return luminance


def _cosines() -> NDArray[np.float64]:
    k, n = np.arange(_KEPT)[:, None], np.arange(MATRIX_SIDE)[None, :]
    return 2 * np.cos(np.pi * k * (2 * n + 1) / (2 * MATRIX_SIDE))


DCT = _cosines()


def hash_cosines(cosines: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Return the 64-bit perceptual hash of each matrix (N, 8, 8) of the lowest frequencies: which exceed their median.

    Bit order and values equal those of `imagehash.phash` (most significant bit first, rows first),
    except that coefficients are rounded to a millionth first: those of flat or symmetric images are
    zero in theory, and rounding noise would make the hash depend on the machine.

    Source: Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2.1.
    """
    values = np.round(cosines, 6).reshape(-1, PHASH_BITS)
    middle = np.sort(values, axis=1)[:, 31:33].mean(axis=1, keepdims=True)  # np.median takes eight times as long
    return np.packbits(values > middle, axis=1).view(">u8").ravel().astype(np.uint64)


def resize_plane(plane: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resample a plane to a square with the Lanczos kernel, bit for bit as the `resize` of Pillow 13.

    Each pass rounds to whole levels, so their order counts: Pillow 13 resamples the columns of tall
    planes first, and earlier versions the rows of each plane.

    Source: Duchon, "Lanczos Filtering in One and Two Dimensions", 1979; the rounding of Pillow's src/libImaging/Resample.c;
        which planes are tall was found by comparing it over sizes.
    """
    height, width = plane.shape
    if height > side and height + side > 2 * width:
        return _turned(_resampled(_turned(_resampled(plane, side)), side))
    return _resampled(_turned(_resampled(_turned(plane), side)), side)


def _turned(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    turned: Any = cv2.transpose(plane)  # OpenCV's type hints lose uint8
    return turned.reshape(plane.shape[::-1])


def _resampled(plane: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resample the columns of a plane to `side` rows."""
    result = np.empty((side, plane.shape[1]), np.uint8)
    _resample(plane, *_weights(len(plane), side), result)
    return result


@lru_cache(maxsize=512)
def _weights(size: int, side: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
    """Return, for each pixel of the result, its first source pixel, their number, and their weights (side, K)."""
    scale = size / side
    stretch = max(scale, 1.0)
    reach = 3.0 * stretch
    starts, counts = np.empty(side, np.int64), np.empty(side, np.int64)
    weights = np.zeros((side, math.ceil(reach) * 2 + 1), np.int32)
    for i in range(side):
        center = (i + 0.5) * scale
        low, high = max(0, int(center - reach + 0.5)), min(size, int(center + reach + 0.5))
        values = [_lanczos((at - center + 0.5) / stretch) for at in range(low, high)]
        total = sum(values)
        starts[i], counts[i] = low, high - low
        weights[i, : high - low] = [_rounded(value / total * (1 << _PRECISION)) for value in values]
    return starts, counts, weights


def _lanczos(x: float) -> float:
    if not -3.0 <= x < 3.0:
        return 0.0
    return _sinc(x) * _sinc(x / 3)


def _sinc(x: float) -> float:
    return math.sin(x * math.pi) / (x * math.pi) if x else 1.0


def _rounded(value: float) -> int:
    return int(value - 0.5) if value < 0 else int(value + 0.5)


@compiled(nogil=True)
def _luminance(pixels, grey):
    """Write the luminance of RGB, RGB, ... as Pillow's mode L (ITU-R 601-2); return its sum and the sum of its squares."""
    # The channels are separated first, many pixels at a time, so that the compiler vectorises.
    red, green, blue = np.empty(_BLOCK, np.uint8), np.empty(_BLOCK, np.uint8), np.empty(_BLOCK, np.uint8)
    first, second = 0, 0
    for start in range(0, len(grey), _BLOCK):
        line = grey[start : start + _BLOCK]
        block = pixels[3 * start : 3 * (start + len(line))]
        for x in range(len(line)):
            red[x], green[x], blue[x] = block[3 * x], block[3 * x + 1], block[3 * x + 2]
        for x in range(len(line)):
            total = np.uint32(red[x]) * np.uint32(19595) + np.uint32(green[x]) * np.uint32(38470)
            line[x] = np.uint8(
                np.uint32(total + np.uint32(blue[x]) * np.uint32(7471) + np.uint32(32768)) >> np.uint32(16)
            )
        one, two = np.uint32(0), np.uint32(0)
        for x in range(len(line)):
            value = np.uint32(line[x])
            one = np.uint32(one + value)
            two = np.uint32(two + np.uint32(value * value))
        first += one
        second += two
    return first, second


@compiled(nogil=True)
def _average_cells(rows, cells):
    """Write the mean of each cell of an n x n grid, by area: a pixel is n units wide, and a cell `width` units."""
    height, width, side = rows.shape[0], rows.shape[1] // 3, len(cells)
    area, down = height * width, np.empty(rows.shape[1], np.int32)
    for i in range(side):
        down[:] = 0
        for y in range(i * height // side, -(-(i + 1) * height // side)):
            share, row = np.int32(min(side * (y + 1), (i + 1) * height) - max(side * y, i * height)), rows[y]
            for k in range(len(row)):
                down[k] = np.int32(down[k] + np.int32(share * np.int32(row[k])))
        for j in range(side):
            for channel in range(3):
                total = area // 2
                for x in range(j * width // side, -(-(j + 1) * width // side)):
                    share_x = min(side * (x + 1), (j + 1) * width) - max(side * x, j * width)
                    total += share_x * np.int64(down[3 * x + channel])
                cells[i, j, channel] = total // area


@compiled(nogil=True)
def _resample(plane, starts, counts, weights, result):
    """Resample the columns of a plane: each row of the result is a weighted sum of rows, four at a time."""
    total = np.empty(plane.shape[1], np.int32)
    for i in range(len(starts)):
        total[:] = 1 << (_PRECISION - 1)
        for k in range(counts[i]):
            row, weight = plane[starts[i] + k], weights[i, k]
            for x in range(len(total)):
                total[x] = np.int32(total[x] + np.int32(np.int32(row[x]) * weight))
        for x in range(len(total)):
            result[i, x] = min(max(total[x] >> _PRECISION, 0), 255)
