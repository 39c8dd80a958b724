"""What is seen of one decoded picture: whether there is anything on it, and the fingerprints by which copies are found.

All of it is whole-number arithmetic in compiled code over the pixels, the same on each machine. The hash is that of
`imagehash.phash` over Pillow's own resampling, to the bit.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import xxhash
from numpy.typing import NDArray

from dataops.compiled import compiled

Pixels = NDArray[np.uint8]
"""(height, width, 3): RGB."""

PHASH_BITS = 64
THUMBNAIL_SIDE = 16
MATRIX_SIDE = 32  # the picture that the hash's cosine transform sees
_KEPT = 8  # of its lowest frequencies, each way
_PRECISION = 22  # bits of a weight behind the point


@dataclass(frozen=True)
class Look:
    """What is seen of a picture."""

    pixels: bytes
    """xxh3-128 of width, height and RGB: equal for pictures that differ in metadata or lossless format alone."""
    contrast: float
    """The standard deviation of the luminance, of 255."""
    phash: int
    """64-bit perceptual hash."""
    thumbnail: bytes
    """Means over a 16x16 grid: 768 bytes, rows first. What verifies that two pictures of like hashes are one."""
    luminance: bytes
    """The 32x32 luminance that the hash was taken of: 1,024 bytes, rows first."""


def look(pixels: Pixels) -> Look:
    """Look at a picture."""
    pixels = np.ascontiguousarray(pixels)
    height, width = pixels.shape[:2]
    narrower = np.empty((MATRIX_SIDE, height), np.uint8)
    cells = np.empty((THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3), np.uint8)
    sums = _measure(pixels, *_weights(width, MATRIX_SIDE), narrower)
    first, second = (total / (height * width) for total in sums)
    _cells(pixels.reshape(height, -1), cells)
    luminance = _turned(narrower, MATRIX_SIDE)
    digest = xxhash.xxh3_128(b"%dx%d" % (width, height))
    digest.update(pixels.data)
    return Look(
        pixels=digest.digest(),
        contrast=math.sqrt(max(0.0, second - first * first)),
        phash=hash_of(luminance),
        thumbnail=cells.tobytes(),
        luminance=luminance.tobytes(),
    )


def luminance_of(pixels: Pixels) -> NDArray[np.uint8]:
    """The luminance (height, width)."""
    luminance = np.empty(pixels.shape[:2], np.uint8)
    _luminance(np.ascontiguousarray(pixels), luminance)
    return luminance


def _cosines() -> NDArray[np.float64]:
    k, n = np.arange(_KEPT)[:, None], np.arange(MATRIX_SIDE)[None, :]
    return 2 * np.cos(np.pi * k * (2 * n + 1) / (2 * MATRIX_SIDE))


DCT = _cosines()


def hash_of(luminance: NDArray[np.uint8]) -> int:
    """64-bit perceptual hash: the signs of the 8x8 lowest frequencies of the 32x32 luminance, around their median.

    Bit order and values are those of `imagehash.phash` (most significant bit first, rows first), but that coefficients
    are rounded to a millionth first: those of flat or symmetric pictures are exactly zero in theory, and their noise
    would make the hash depend on the machine.

    Source: Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2.1.
    """
    lowest = np.round(DCT @ luminance.astype(np.float64) @ DCT.T, 6).ravel()
    low, high = np.partition(lowest, (31, 32))[31:33].tolist()
    return int.from_bytes(np.packbits(lowest > (low + high) / 2).tobytes(), "big")


def resized(plane: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A plane resampled to a square by Lanczos' kernel, as Pillow's `resize` does, to the bit: rows first, in two passes.

    Source: Duchon, "Lanczos Filtering in One and Two Dimensions", 1979; the rounding of Pillow's src/libImaging/Resample.c.
    """
    return _turned(_turned(plane, side), side)


def _turned(plane: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A plane with its rows resampled, and turned: what were its columns are its rows."""
    result = np.empty((side, len(plane)), np.uint8)
    _resample(plane, *_weights(plane.shape[1], side), result)
    return result


@lru_cache(maxsize=512)
def _weights(size: int, side: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Of each pixel of the result the first that it is made of, and the weights from there on (side, K).

    K is a multiple of 16, which processors add up in few steps: zeros fill it.
    """
    scale = size / side
    stretch = max(scale, 1.0)
    reach = 3.0 * stretch
    starts = np.empty(side, np.int64)
    weights = np.zeros((side, -(-(math.ceil(reach) * 2 + 1) // 16) * 16), np.int32)
    for place in range(side):
        center = (place + 0.5) * scale
        low, high = max(0, int(center - reach + 0.5)), min(size, int(center + reach + 0.5))
        values = [_lanczos((at - center + 0.5) / stretch) for at in range(low, high)]
        total = sum(values)
        starts[place] = low
        weights[place, : high - low] = [_rounded(value / total * (1 << _PRECISION)) for value in values]
    return starts, weights


def _lanczos(x: float) -> float:
    if not -3.0 <= x < 3.0:
        return 0.0
    return _sinc(x) * _sinc(x / 3)


def _sinc(x: float) -> float:
    return math.sin(x * math.pi) / (x * math.pi) if x else 1.0


def _rounded(value: float) -> int:
    return int(value - 0.5) if value < 0 else int(value + 0.5)


@compiled(inline="always")
def _grey(row, grey):
    """The luminance of a row of RGB, RGB, ..., as Pillow's mode L (ITU-R 601-2)."""
    for x in range(len(row) // 3):
        total = np.int32(np.int32(row[3 * x]) * np.int32(19595) + np.int32(row[3 * x + 1]) * np.int32(38470))
        grey[x] = np.int32(total + np.int32(row[3 * x + 2]) * np.int32(7471) + np.int32(32768)) >> 16


@compiled(nogil=True)
def _luminance(pixels, luminance):
    for y in range(len(pixels)):
        _grey(pixels[y].reshape(-1), luminance[y])


@compiled(nogil=True)
def _measure(pixels, starts, weights, narrower):
    """The luminance, its rows resampled and the result turned; the sum of its values, and of their squares."""
    width, first, second = pixels.shape[1], 0, 0
    grey = np.zeros(width + weights.shape[1], np.int32)
    for y in range(len(pixels)):
        _grey(pixels[y].reshape(-1), grey)
        one, two = np.uint32(0), np.uint32(0)
        for x in range(width):  # a row of 66,000 pixels fits the sums
            value = np.uint32(grey[x])
            one = np.uint32(one + value)
            two = np.uint32(two + np.uint32(value * value))
        first += one
        second += two
        _resample_row(grey, starts, weights, narrower[:, y])
    return first, second


@compiled(nogil=True)
def _cells(rows, cells):
    """The mean of each cell of a grid, by area: with n cells a side, a pixel is n units wide, and a cell `width` units."""
    height, width, side = rows.shape[0], rows.shape[1] // 3, len(cells)
    area = height * width
    for i in range(side):
        down = np.zeros(rows.shape[1], np.int32)
        for y in range(i * height // side, ((i + 1) * height - 1) // side + 1):
            share = np.int32(min(side * (y + 1), (i + 1) * height) - max(side * y, i * height))
            row = rows[y]
            for k in range(len(row)):
                down[k] = np.int32(down[k] + np.int32(share * np.int32(row[k])))
        for j in range(side):
            low, high = j * width, (j + 1) * width
            for channel in range(3):
                total = 0
                for x in range(low // side, (high - 1) // side + 1):
                    share = min(side * (x + 1), high) - max(side * x, low)
                    total += share * np.int64(down[3 * x + channel])
                cells[i, j, channel] = (total + area // 2) // area


@compiled(inline="always")
def _resample_row(row, starts, weights, result):
    """Of a row with K numbers behind it that do not matter."""
    for place in range(len(starts)):
        part = row[starts[place] : starts[place] + weights.shape[1]]
        weight, total = weights[place], np.int32(1 << 21)
        for k in range(len(weight)):
            total = np.int32(total + np.int32(part[k] * weight[k]))
        result[place] = min(max(total >> 22, 0), 255)


@compiled(nogil=True)
def _resample(plane, starts, weights, result):
    """Resample the rows of a plane; the result is turned."""
    width = plane.shape[1]
    row = np.zeros(width + weights.shape[1], np.int32)
    for y in range(len(plane)):
        row[:width] = plane[y]
        _resample_row(row, starts, weights, result[:, y])
