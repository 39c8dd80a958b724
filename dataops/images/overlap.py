"""Find changed copies of an image: scaled, recompressed, recoloured, mirrored, or cropped.

The index of an image holds the hashes of its variants: the whole image and a grid of crops, each
straight and mirrored. The pairs with close hashes are then correlated: the crop is moved and
stretched a little as long as the correlation rises. A copy that shows more than the image (a frame,
a screenshot around it) is not found.
"""

import numpy as np
from numpy.typing import NDArray

from dataops.images.fingerprint import DCT, MATRIX_SIDE, compute_luminance, hash_cosines, resize_plane
from dataops.kernels.compiled import compiled

PLANE_SIDE = 64
"""Side of the luminance in the index, in pixels: enough for crops of two thirds."""
_SCALES = (1.0, 0.92, 0.85, 0.78, 0.71)
_STEP = 0.05  # largest distance between crops of one scale, as a share of the side
_MIN_CORRELATION = 0.4  # below it, moving the crop does not help
_MOVES = np.array(  # of left, top, right, bottom: across, down, larger, wider, higher
    [[1, 0, 1, 0], [0, 1, 0, 1], [-1, -1, 1, 1], [-1, 0, 1, 0], [0, -1, 0, 1]], np.float64
)


def _starts(scale: float) -> NDArray[np.float64]:
    """Return where the crops of a scale begin along one side, as shares of it."""
    return np.linspace(0, 1 - scale, int(np.ceil((1 - scale) / _STEP - 1e-9)) + 1)


def _crops() -> NDArray[np.float64]:
    """Return left, top, right, bottom of each crop as shares of the sides (C, 4); the first is the whole image."""
    found = []
    for scale in _SCALES:
        found += [(x, y, x + scale, y + scale) for y in _starts(scale) for x in _starts(scale)]
    return np.array(found)


def _bases(scale: float) -> NDArray[np.float64]:
    """Return the matrices (P, 8, PLANE_SIDE) from a line of the plane to the first 8 cosines of the crop at each start.

    They are the cosines of the means over MATRIX_SIDE cells, in which each pixel has the weight of
    its overlap.
    """
    edges = PLANE_SIDE * (_starts(scale)[:, None] + scale * np.arange(MATRIX_SIDE + 1) / MATRIX_SIDE)
    covered = np.clip(edges[:, :, None] - np.arange(PLANE_SIDE), 0, 1)  # share of each pixel to the left of an edge
    return DCT @ (np.diff(covered, axis=1) * (MATRIX_SIDE / (scale * PLANE_SIDE)))


CROPS = _crops()
_BASES = [_bases(scale) for scale in _SCALES[1:]]
VARIANTS = 2 * len(CROPS)
"""Number of hashes per image: one for each of CROPS, then one for each mirrored."""


def variant_kind(number: int) -> str:
    """Return the kind of a variant (copy, crop, mirrored or mirrored_crop) by the index of its hash."""
    if number % len(CROPS) == 0:
        return "mirrored" if number else "copy"
    return "mirrored_crop" if number > len(CROPS) else "crop"


def index_image(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint64]]:
    """Return the luminance of an image, resized to PLANE_SIDE x PLANE_SIDE, and the hashes of its variants (VARIANTS,).

    The first hash equals that of dataops.images.fingerprint.
    """
    luminance = compute_luminance(pixels)
    plane = resize_plane(luminance, PLANE_SIDE)
    cosines = [(DCT @ resize_plane(luminance, MATRIX_SIDE) @ DCT.T)[None]]
    for bases in _BASES:
        # A crop for each pair of a row and a column of starts.
        each = (bases @ plane)[:, None] @ bases.transpose(0, 2, 1)
        cosines.append(each.reshape(-1, *each.shape[2:]))
    straight = np.concatenate(cosines)
    mirrored = straight.copy()
    mirrored[:, :, 1::2] *= -1  # the cosine transform of the mirrored image
    return plane, hash_cosines(np.concatenate([straight, mirrored]))


def correlate(
    planes: NDArray[np.uint8], luminances: NDArray[np.uint8], numbers: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the correlation of images with variants of others (N,), -1 to 1: the maximum over small moves of the crop.

    Args:
        planes: (N, PLANE_SIDE, PLANE_SIDE) of the original images.
        luminances: (N, MATRIX_SIDE, MATRIX_SIDE) of the possible copies (Fingerprint.luminance).
        numbers: (N,) variants.
    """
    result = np.empty(len(numbers))
    _overlay(planes, luminances, numbers, CROPS, _MOVES, _MIN_CORRELATION, result)
    return result


@compiled(nogil=True)
def _integral(plane):
    """Return the sum of the pixels above and to the left of each corner."""
    height, width = plane.shape
    sums = np.zeros((height + 1, width + 1))
    for y in range(height):
        row = 0.0
        for x in range(width):
            row += plane[y, x]
            sums[y + 1, x + 1] = sums[y, x + 1] + row
    return sums


@compiled(nogil=True)
def _sample(sums, crop, cells):
    """Write the mean of the plane over each cell of a grid on a crop."""
    side, last = cells.shape[0], sums.shape[0] - 1
    above, here = np.empty(side + 1), np.empty(side + 1)
    lefts, rights = np.empty(side + 1, np.int64), np.empty(side + 1)
    for j in range(side + 1):
        x = (crop[0] + (crop[2] - crop[0]) * j / side) * last
        lefts[j] = min(int(x), last - 1)
        rights[j] = x - lefts[j]
    area = (crop[2] - crop[0]) * (crop[3] - crop[1]) * last * last / (side * side)
    for i in range(side + 1):
        y = (crop[1] + (crop[3] - crop[1]) * i / side) * last
        top = min(int(y), last - 1)
        down = y - top
        for j in range(side + 1):
            left, right = lefts[j], rights[j]
            upper = sums[top, left] * (1 - right) + sums[top, left + 1] * right
            lower = sums[top + 1, left] * (1 - right) + sums[top + 1, left + 1] * right
            here[j] = upper * (1 - down) + lower * down
        if i:
            for j in range(side):
                cells[i - 1, j] = (here[j + 1] - here[j] - above[j + 1] + above[j]) / area
        above, here = here, above


@compiled(nogil=True)
def _correlation(one, two, mirrored):
    """Return Pearson's correlation of two squares; 0 if one of them is flat."""
    side = one.shape[0]
    a = b = aa = bb = ab = 0.0
    for y in range(side):
        for x in range(side):
            u, v = one[y, x], np.float64(two[y, side - 1 - x if mirrored else x])
            a += u
            b += v
            aa += u * u
            bb += v * v
            ab += u * v
    count = side * side
    spread = (aa - a * a / count) * (bb - b * b / count)
    return (ab - a * b / count) / np.sqrt(spread) if spread > 1e-6 else 0.0


@compiled(nogil=True)
def _overlay(planes, luminances, numbers, crops, moves, least, result):
    side = luminances.shape[1]
    cells, moved = np.empty((side, side)), np.empty(4)
    for i in range(len(numbers)):
        sums, mirrored = _integral(planes[i]), numbers[i] >= len(crops)
        crop = crops[numbers[i] % len(crops)].copy()
        _sample(sums, crop, cells)
        best = _correlation(cells, luminances[i], mirrored)
        step = 0.04
        while best >= least and step >= 0.01:
            better = False
            for move in moves:
                for sign in (-step, step):
                    for k in range(4):
                        moved[k] = min(max(crop[k] + sign * move[k], 0.0), 1.0)
                    if moved[2] - moved[0] < 0.5 or moved[3] - moved[1] < 0.5:
                        continue
                    _sample(sums, moved, cells)
                    value = _correlation(cells, luminances[i], mirrored)
                    if value > best + 1e-4:
                        best, better = value, True
                        crop[:] = moved
            if not better:
                step /= 2
        result[i] = best
