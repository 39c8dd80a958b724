"""Compute the contrast of a decoded image, and the fingerprints that find its copies.

Compiled code computes them with integer arithmetic on the pixels, so they are equal on all machines. The hash equals that
of `imagehash.phash` over the resampling of Pillow 13, bit for bit.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import xxhash
from numpy.typing import NDArray

from dataops.kernels.compiled import compiled

Pixels = NDArray[np.uint8]
"""(height, width, 3): RGB."""

cv2.setNumThreads(1)  # the workers are the parallelism: their threads would wait for each other

PHASH_BITS = 64
THUMBNAIL_SIDE = 16
MATRIX_SIDE = 32  # of the image that the hash's cosine transform is computed from
BACKGROUND_TOLERANCE = 10
_KEPT = 8  # lowest frequencies per direction
_BLOCK = 4096  # pixels that are converted together; sums of less than 66,000 squares fit 32 bits
_PRECISION = 22  # fractional bits of a weight


@dataclass(frozen=True)
class Fingerprint:
    """Contrast, background and fingerprints of an image."""

    pixels: bytes
    """xxh3-128 of width, height and RGB: equal for images that differ only in metadata or lossless format."""
    contrast: float
    """Standard deviation of the luminance, of 255 levels."""
    background_share: float
    """Share of the pixels whose luminance is within BACKGROUND_TOLERANCE of the commonest level, over a grid of 64x64."""
    phash: int
    """64-bit perceptual hash."""
    thumbnail: bytes
    """RGB means over a 16x16 grid: 768 bytes, rows first. It verifies images with close hashes."""
    luminance: bytes
    """32x32 luminance that the hash is computed from: 1,024 bytes, rows first."""


def fingerprint(pixels: Pixels) -> Fingerprint:
    """Compute the fingerprint of an image."""
    pixels = np.ascontiguousarray(pixels)
    height, width = pixels.shape[:2]
    grey = np.empty((height, width), np.uint8)
    cells = np.empty((THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3), np.uint8)
    total, squares, background = _measure(pixels.reshape(height, -1), grey, cells)
    luminance = resize_plane(grey, MATRIX_SIDE)
    mean = total / (height * width)
    digest = xxhash.xxh3_128(b"%dx%d" % (width, height))
    digest.update(pixels.data)
    return Fingerprint(
        pixels=digest.digest(),
        contrast=math.sqrt(max(0.0, squares / (height * width) - mean * mean)),
        background_share=background,
        phash=int(_hash_of(luminance, DCT)),
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


@compiled(nogil=True)
def _hash_of(luminance, cosines):
    """Return the 64-bit perceptual hash: which of the 8x8 lowest frequencies of the 32x32 luminance exceed their median.

    Bit order and values equal those of `imagehash.phash` (most significant bit first, rows first), except that
    coefficients are rounded to a millionth first: those of flat or symmetric images are zero in theory, and rounding
    noise would make the hash depend on the machine. So would sums in another order: they are written out.

    Source: Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2.1.
    """
    kept, side = cosines.shape
    lowest, ordered, across = np.empty(kept * kept), np.empty(kept * kept), np.empty(side)
    for u in range(kept):
        across[:] = 0.0
        for y in range(side):
            for x in range(side):
                across[x] += cosines[u, y] * luminance[y, x]
        for v in range(kept):
            total = 0.0
            for x in range(side):
                total += across[x] * cosines[v, x]
            lowest[kept * u + v] = np.rint(total * 1e6)
    for i in range(len(lowest)):
        at = i
        while at > 0 and ordered[at - 1] > lowest[i]:
            ordered[at] = ordered[at - 1]
            at -= 1
        ordered[at] = lowest[i]
    middle = (ordered[len(ordered) // 2 - 1] + ordered[len(ordered) // 2]) / 2
    phash = np.uint64(0)
    for value in lowest:
        phash = (phash << np.uint64(1)) | np.uint64(value > middle)
    return phash


def resize_plane(plane: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resample a plane to a square with the Lanczos kernel, bit for bit as the `resize` of Pillow 13.

    Each pass rounds to whole levels, so their order counts: Pillow 13 resamples the columns of tall planes first, and
    earlier versions the rows of each plane.

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
def _measure(rows, grey, cells):
    """Write luminance and cells; return the sum of the luminance, the sum of its squares, and the background share."""
    height, width = grey.shape
    down, right = max(1, height // 64), max(1, width // 64)
    levels = np.zeros(256, np.int64)
    first, second = _luminance(rows.ravel(), grey.ravel())
    for y in range(0, height, down):
        line = grey[y]
        for x in range(0, width, right):
            levels[line[x]] += 1
    _cells(rows, cells)
    return first, second, _background_share(levels)


@compiled(nogil=True)
def _background_share(levels):
    """Return the largest share of the counts within BACKGROUND_TOLERANCE levels of one level."""
    most, inside = 0, 0
    for level in range(len(levels) + BACKGROUND_TOLERANCE):
        inside += levels[level] if level < len(levels) else 0
        inside -= levels[level - 2 * BACKGROUND_TOLERANCE - 1] if level > 2 * BACKGROUND_TOLERANCE else 0
        most = max(most, inside)
    return most / levels.sum()


@compiled(nogil=True)
def _cells(rows, cells):
    """Write the mean of each cell of an n x n grid, by area: a pixel is n units wide, and a cell `width` units."""
    height, width, side = rows.shape[0], rows.shape[1] // 3, len(cells)
    area = height * width
    down, whole = np.empty(rows.shape[1], np.int32), np.empty(rows.shape[1], np.uint16)
    before = np.zeros(rows.shape[1] + 3, np.int64)  # sums of all pixels to the left
    for i in range(side):
        top, bottom = i * height, (i + 1) * height
        down[:] = 0
        y = top // side
        while side * y < bottom:
            share = np.int32(min(side * (y + 1), bottom) - max(side * y, top))
            rows_whole = min(bottom // side - y, 256) if share == side else 0  # sums of 256 rows fit 16 bits
            if rows_whole:
                _sum_rows(rows[y : y + rows_whole], whole)
                for k in range(len(whole)):
                    down[k] = np.int32(down[k] + np.int32(share * np.int32(whole[k])))
            else:
                row = rows[y]
                for k in range(len(row)):
                    down[k] = np.int32(down[k] + np.int32(share * np.int32(row[k])))
            y += max(rows_whole, 1)
        red = green = blue = np.int64(0)
        for x in range(width):
            red, green, blue = red + down[3 * x], green + down[3 * x + 1], blue + down[3 * x + 2]
            before[3 * x + 3], before[3 * x + 4], before[3 * x + 5] = red, green, blue
        for j in range(side):
            low, high = j * width, (j + 1) * width
            begin, end = low // side, (high - 1) // side
            first = min(side * (begin + 1), high) - low  # shares of the two outer pixels
            last = high - side * end if end > begin else 0
            inner = 3 * max(end, begin + 1)  # the pixels between are inside the cell
            red = _in_cell(down, before, 3 * begin, inner, 3 * end, first, last, side) + area // 2
            green = _in_cell(down, before, 3 * begin + 1, inner + 1, 3 * end + 1, first, last, side) + area // 2
            blue = _in_cell(down, before, 3 * begin + 2, inner + 2, 3 * end + 2, first, last, side) + area // 2
            # Integers below 2^53 are divided as floats, in a third of the time.
            cells[i, j, 0], cells[i, j, 1], cells[i, j, 2] = red / area, green / area, blue / area


@compiled(inline="always")
def _in_cell(down, before, begin, inner, end, first, last, side):
    """Return the sum of a channel over the first pixel's share, the pixels between, and the last one's share."""
    return first * np.int64(down[begin]) + side * (before[inner] - before[begin + 3]) + last * np.int64(down[end])


@compiled(nogil=True)
def _sum_rows(rows, total):
    """Sum the columns, four rows at a time."""
    total[:] = 0
    y = 0
    while y + 4 <= len(rows):
        one, two, three, four = rows[y], rows[y + 1], rows[y + 2], rows[y + 3]
        for k in range(len(total)):
            left = np.uint16(np.uint16(one[k]) + np.uint16(two[k]))
            right = np.uint16(np.uint16(three[k]) + np.uint16(four[k]))
            total[k] = np.uint16(total[k] + np.uint16(left + right))
        y += 4
    while y < len(rows):
        for k in range(len(total)):
            total[k] = np.uint16(total[k] + np.uint16(rows[y, k]))
        y += 1


@compiled(nogil=True)
def _resample(plane, starts, counts, weights, result):
    """Resample the columns of a plane: each row of the result is a weighted sum of rows, four at a time."""
    total = np.empty(plane.shape[1], np.int32)
    for i in range(len(starts)):
        total[:] = 1 << (_PRECISION - 1)
        k, end, weight = 0, counts[i], weights[i]
        rows = plane[starts[i] : starts[i] + end]
        while k + 4 <= end:
            one, two, three, four = rows[k], rows[k + 1], rows[k + 2], rows[k + 3]
            a, b, c, d = weight[k], weight[k + 1], weight[k + 2], weight[k + 3]
            for x in range(len(total)):
                left = np.int32(np.int32(np.int32(one[x]) * a) + np.int32(np.int32(two[x]) * b))
                right = np.int32(np.int32(np.int32(three[x]) * c) + np.int32(np.int32(four[x]) * d))
                total[x] = np.int32(total[x] + np.int32(left + right))
            k += 4
        while k < end:
            for x in range(len(total)):
                total[x] = np.int32(total[x] + np.int32(np.int32(rows[k, x]) * weight[k]))
            k += 1
        for x in range(len(total)):
            result[i, x] = min(max(total[x] >> _PRECISION, 0), 255)
