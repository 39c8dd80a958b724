"""The connected parts of a picture in black and white, by the runs of each row: most pictures have few.

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
    """N parts, of which no two touch, not even at a corner; in the order of their first pixels."""

    boxes: NDArray[np.float64]
    """(N, 4): left, top, width, height; pixels."""
    areas: NDArray[np.float64]
    """(N,) pixels."""
    _runs: NDArray[np.int32]
    """(R, 4): row, first column, the column behind, part."""

    def counts(self, marks: NDArray[np.uint8]) -> NDArray[np.int64]:
        """(N,) how many pixels of each part are not 0 in another picture of the same size."""
        found = np.zeros(len(self.areas), np.int64)
        _count(self._runs, marks, found)
        return found


def find_components(picture: NDArray[np.uint8]) -> Components:
    """The parts of a picture (height, width) whose pixels are 0 or 255: those of 255."""
    height, width = picture.shape
    runs = np.empty((height * ((width + 1) // 2), 4), np.int32)  # what is not written to takes no memory
    count = _find_runs(np.ascontiguousarray(picture).ravel(), height, width, runs)
    runs = runs[:count]
    number = _number_parts(runs)
    boxes, areas = np.empty((number, 4)), np.zeros(number)
    _measure(runs, boxes, areas)
    return Components(boxes, areas, runs)


@compiled(nogil=True)
def _find_runs(pixels, height, width, runs):
    """Write the runs, each with the number of the first one that it is known to touch; how many there are."""
    count, above, above_end = 0, 0, 0  # the runs of the row before
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
def _number_parts(runs):
    """Replace what each run touches by the number of its part; how many parts there are."""
    number = 0
    for run in range(len(runs)):  # what it touches is before it, and has its number
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
        y, start, end, part = runs[run]
        if areas[part] == 0:
            boxes[part, 0], boxes[part, 1], boxes[part, 2], boxes[part, 3] = start, y, end, y + 1
        boxes[part, 0], boxes[part, 2] = min(boxes[part, 0], start), max(boxes[part, 2], end)
        boxes[part, 3] = y + 1
        areas[part] += end - start
    for part in range(len(areas)):
        boxes[part, 2] -= boxes[part, 0]
        boxes[part, 3] -= boxes[part, 1]


@compiled(nogil=True)
def _count(runs, marks, found):
    for run in range(len(runs)):
        y, start, end, part = runs[run]
        row, marked = marks[y], 0
        for x in range(start, end):
            marked += row[x] != 0
        found[part] += marked
