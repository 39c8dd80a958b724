"""Find the connected components of a black and white image, from the runs of each row; most images have few.

Source: Rosenfeld and Pfaltz 1966, "Sequential Operations in Digital Picture Processing", section 4; by runs, He, Chao and
Suzuki 2008, "A Run-Based Two-Scan Labeling Algorithm".
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataops.kernels.compiled import compiled, load64

_SET = np.uint64(0xFFFFFFFFFFFFFFFF)


@dataclass(frozen=True)
class Components:
    """N components, in the order of their first pixels. Pixels that touch at a corner are connected."""

    boxes: NDArray[np.float64]
    """(N, 4): left, top, width, height, in pixels."""
    areas: NDArray[np.float64]
    """(N,): number of pixels."""
    _runs: NDArray[np.int32]
    """(R, 4): row, first column, last column + 1, component."""

    def count_marked(self, marks: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the number of pixels of each component (N,) that are not 0 in another image of the same size."""
        counts = np.zeros(len(self.areas), np.int64)
        _count(self._runs, marks, counts)
        return counts


def find_components(image: NDArray[np.uint8]) -> Components:
    """Return the components of the pixels of 255 in an image (height, width) of 0 and 255."""
    height, width = image.shape
    runs = np.empty((height * ((width + 1) // 2), 4), np.int32)  # pages that are not written take no memory
    count = _find_runs(np.ascontiguousarray(image).ravel(), height, width, runs)
    runs = runs[:count]
    components = _number_components(runs)
    boxes, areas = np.empty((components, 4)), np.zeros(components)
    _measure(runs, boxes, areas)
    return Components(boxes, areas, runs)


@compiled(nogil=True)
def _find_runs(pixels, height, width, runs):
    """Write the runs, each with the index of the first run that it is known to touch; return their number."""
    count, above, above_end = 0, 0, 0  # runs of the previous row
    for y in range(height):
        begin, x, row = count, 0, pixels[y * width : (y + 1) * width]
        while x < width:
            if x + 8 <= width and load64(row, x) == 0:
                x += 8
                continue
            if row[x] == 0:
                x += 1
                continue
            start = x
            while x < width and row[x] != 0:
                x += 8 if x + 8 <= width and load64(row, x) == _SET else 1
            runs[count, 0], runs[count, 1], runs[count, 2], runs[count, 3] = y, start, x, count
            while above < above_end and runs[above, 2] < start:  # ends before the corner
                above += 1
            touching = above
            while touching < above_end and runs[touching, 1] <= x:
                _join(runs, touching, count)
                touching += 1
            count += 1
        above, above_end = begin, count
    return count


@compiled(inline="always")
def _root(runs, run):
    while runs[run, 3] != run:
        runs[run, 3] = runs[runs[run, 3], 3]
        run = runs[run, 3]
    return run


@compiled(nogil=True)
def _join(runs, one, other):
    one, other = _root(runs, one), _root(runs, other)
    runs[max(one, other), 3] = min(one, other)


@compiled(nogil=True)
def _number_components(runs):
    """Replace the index of the touched run by the number of the component; return the number of components."""
    number = 0
    for run in range(len(runs)):  # the touched run comes before it, and is numbered
        first = runs[run, 3]
        if first == run:
            runs[run, 3] = number
            number += 1
        else:
            runs[run, 3] = runs[first, 3]
    return number


@compiled(nogil=True)
def _measure(runs, boxes, areas):
    for run in range(len(runs)):
        y, start, end, component = runs[run]
        if areas[component] == 0:
            boxes[component, 0], boxes[component, 1], boxes[component, 2], boxes[component, 3] = start, y, end, y + 1
        boxes[component, 0], boxes[component, 2] = min(boxes[component, 0], start), max(boxes[component, 2], end)
        boxes[component, 3] = y + 1
        areas[component] += end - start
    for component in range(len(areas)):
        boxes[component, 2] -= boxes[component, 0]
        boxes[component, 3] -= boxes[component, 1]


@compiled(nogil=True)
def _count(runs, marks, counts):
    for run in range(len(runs)):
        y, start, end, component = runs[run]
        row, marked = marks[y], 0
        for x in range(start, end):
            marked += row[x] != 0
        counts[component] += marked
