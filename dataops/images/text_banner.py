"""Whether a picture is nothing but writing on a plain ground: banners, buttons with a word, quotations as pictures.

A model that learns from them learns to read their caption off the picture. No letter is recognised here, so any script
that sets letters apart or in words is seen: ink is what differs from the ground, its connected components are glyphs by
their stroke, and glyphs side by side are lines. Where nearly all ink lies in lines, the picture is text.

Source: components of like stroke that stand in lines are text, Epshtein, Ofek and Wexler 2010, "Detecting Text in Natural
Scenes with Stroke Width Transform", sections 3.2 and 3.3 (there of photographs, whose ground is not plain); that such
pictures hurt, Maini et al. 2023, "T-MARS: Improving Visual Representations by Circumventing Text Feature Learning".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dataops.images.connected_components import find_components
from dataops.kernels.compiled import compiled

MIN_BACKGROUND = 0.6
"""Least share of a picture that its ground (dataops.images.fingerprint.Fingerprint.background_share) covers where all else is text."""
_MIN_INK = 32  # levels from the ground
_MOST_INK = 0.35  # of all pixels
_LEAST_GLYPHS = 5
_LEAST_SHARE = 0.92  # of the ink, that is of glyphs or of what belongs to them
_MOST_PARTS = 1000  # more are a texture, or dust


@dataclass(frozen=True)
class _Parts:
    """Connected pieces of ink, N of them."""

    boxes: NDArray[np.float64]
    """(N, 4): left, top, width, height, in pixels."""
    areas: NDArray[np.float64]
    strokes: NDArray[np.float64]
    """Mean widths of their strokes."""
    letters: NDArray[np.bool_]
    """Whether they are no larger than letters."""

    def __getitem__(self, which: NDArray[np.bool_]) -> "_Parts":
        return _Parts(self.boxes[which], self.areas[which], self.strokes[which], self.letters[which])


def is_text_banner(luminance: NDArray[np.uint8]) -> bool:
    """Whether nearly all that is on a plain ground are lines of text. Takes a tenth of a millisecond for most pictures.

    Args:
        luminance: (height, width).
    """
    ink = _ink(luminance)
    parts = None if ink is None else _parts(ink)
    if parts is None:
        return False
    glyphs = parts[_glyphs(parts)]
    in_lines = _in_lines(glyphs)
    text = in_lines | _like(glyphs, glyphs[in_lines])
    if text.sum() < _LEAST_GLYPHS or 2 * in_lines.sum() < text.sum():
        return False
    inside = _beside(parts.boxes, glyphs.boxes[text])
    return bool(parts.areas[inside].sum() >= _LEAST_SHARE * parts.areas.sum())


def _ink(luminance: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """Not 0 where a pixel differs from the ground, the commonest level; None where none does, or too many do."""
    low, high = _ground(_histogram(luminance), luminance.size)
    return None if low > high else cv2.bitwise_not(cv2.inRange(luminance, low, high))  # pyright: ignore


def _histogram(plane: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How many pixels have each of the 256 values."""
    levels = np.zeros((4, 256), np.int64)
    _count_levels(np.ascontiguousarray(plane).ravel(), levels)
    return levels.sum(axis=0)


@compiled(nogil=True)
def _count_levels(values, levels):
    """In four tables: to add to a place that was just written waits for it, and neighbours are often alike."""
    one, two, three, four = levels[0], levels[1], levels[2], levels[3]
    whole = len(values) - len(values) % 4
    for i in range(0, whole, 4):
        one[values[i]] += 1
        two[values[i + 1]] += 1
        three[values[i + 2]] += 1
        four[values[i + 3]] += 1
    for i in range(whole, len(values)):
        one[values[i]] += 1


@compiled(nogil=True)
def _ground(levels, size):
    """The lowest and the highest level of the ground; (1, 0) where there is no ink, or too much.

    Args:
        levels: how many pixels have each of the 256.
    """
    ground, most, inside = 0, 0, levels[:4].sum()
    for level in range(256):  # within 4 of it
        inside += (levels[level + 4] if level < 252 else 0) - (levels[level - 5] if level > 4 else 0)
        if inside > most:
            ground, most = level, inside
    apart = np.zeros(256, np.int64)
    for level in range(256):
        apart[abs(level - ground)] += levels[level]
    total, inked, darkest = apart[_MIN_INK:].sum(), 0, _MIN_INK
    for level in range(_MIN_INK, 256):
        inked += apart[level]
        if inked >= 0.9 * total:
            darkest = level
            break
    least = int(max(_MIN_INK, 0.4 * darkest))
    if 0 < apart[least + 1 :].sum() <= _MOST_INK * size:
        return max(0, ground - least), min(255, ground + least)
    return 1, 0


def _parts(ink: NDArray[np.uint8]) -> _Parts | None:
    """The pieces of ink, without frames; None where more is too large for letters, or there are too many."""
    found = find_components(ink)
    boxes, areas = found.boxes, found.areas
    if len(areas) >= _MOST_PARTS:
        return None
    stays, letters = np.empty((2, len(areas)), np.bool_)
    if _sort_out(boxes, areas, *ink.shape, stays, letters) > 1 - _LEAST_SHARE:
        return None
    edge: Any = cv2.subtract(
        ink, cv2.erode(ink, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    )
    return _Parts(boxes, areas, 2 * areas / np.maximum(found.counts(edge), 1), letters)[stays]


@compiled(nogil=True)
def _sort_out(boxes, areas, rows, columns, stays, letters):
    """Tell which parts are no frames, and which of letters; by area, the share of the former that is too large for them."""
    large = whole = 0.0
    for i in range(len(areas)):
        stays[i] = not _is_frame(boxes[i], areas[i], rows, columns)
        letters[i] = _is_of_letters(boxes[i], rows, columns)
        whole += areas[i] if stays[i] else 0.0
        large += areas[i] if stays[i] and not letters[i] else 0.0
    return large / whole if whole > 0 else 0.0


@compiled(nogil=True)
def _is_frame(box, area, rows, columns):
    """Whether a part is a line around all, or a corner outside of a button."""
    left, top, width, height = box
    around = width >= 0.9 * columns and height >= 0.8 * rows and area < 0.3 * width * height
    at_side = left == 0 or left + width == columns
    at_end = top == 0 or top + height == rows
    return around or (at_side and at_end and max(width, height) < 0.2 * max(rows, columns))


@compiled(nogil=True)
def _is_of_letters(box, rows, columns):
    """Whether a part is no larger than letters; of small ones several may touch, and be a word."""
    _, _, width, height = box
    return height <= 0.75 * rows and height <= 0.4 * columns and width <= (12 if height <= 16 else 2.5) * max(height, 5)


def _glyphs(parts: _Parts) -> NDArray[np.bool_]:
    """Which parts may be letters or words."""
    heights = parts.boxes[:, 3]
    return (heights >= 5) & parts.letters & (parts.strokes <= 0.42 * heights)


def _in_lines(glyphs: _Parts) -> NDArray[np.bool_]:
    """Which glyphs stand in lines of at least three."""
    left, top, width, height = glyphs.boxes.T
    taller, lower = np.maximum.outer(height, height), np.minimum.outer(height, height)
    overlap = np.minimum.outer(top + height, top + height) - np.maximum.outer(top, top)
    gap = np.maximum.outer(left, left) - np.minimum.outer(left + width, left + width)
    beside = (overlap >= 0.5 * lower) & (gap <= taller) & (taller <= 2.6 * lower)
    found = np.zeros(len(height), bool)
    for line in _connected(beside):
        if line.sum() >= 3 and _is_line(glyphs[line]):
            found |= line
    return found


def _connected(beside: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
    left = np.ones(len(beside), np.bool_)
    while left.any():
        line, more = np.zeros(len(beside), np.bool_), np.zeros(len(beside), np.bool_)
        more[left.argmax()] = True
        while more.sum() > line.sum():
            line[:] = more
            more[:] = beside[line].any(axis=0)
        left &= ~line
        yield line


def _is_line(glyphs: _Parts) -> bool:
    """Glyphs of one stroke and of like heights, on one base line, that fill their boxes as letters do and differ."""
    left, top, width, height = glyphs.boxes.T
    bottom, size = top + height, np.median(height)
    filled = glyphs.areas / (width * height)
    return bool(
        _near(glyphs.strokes, np.median(glyphs.strokes), 1.4).mean() >= 0.8
        and _near(height, size, 1.7).mean() >= 0.8
        and (np.abs(bottom - np.median(bottom)) <= 0.15 * size + 1).mean() >= 0.6
        and width.sum() <= 1.2 * ((left + width).max() - left.min())  # letters stand beside each other
        and filled.mean() <= 0.85
        and glyphs.areas.std() >= 0.05 * glyphs.areas.mean()
    )


def _like(glyphs: _Parts, lines: _Parts) -> NDArray[np.bool_]:
    """Which glyphs are of the lines' stroke and size: words of one or two letters."""
    if not len(lines.areas):
        return np.zeros(len(glyphs.areas), bool)
    stroke, size = np.median(lines.strokes), np.median(lines.boxes[:, 3])
    return _near(glyphs.strokes, stroke, 1.4) & _near(glyphs.boxes[:, 3], size, 1.7)


def _near(values: NDArray[np.float64], middle: Any, factor: float) -> NDArray[np.bool_]:
    return (values >= middle / factor) & (values <= middle * factor)


def _beside(boxes: NDArray[np.float64], glyphs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which parts are glyphs, or no larger than a glyph and within half of its height: points, accents, commas."""
    reach = glyphs[:, 3] / 2
    x, y = boxes[:, 0] + boxes[:, 2] / 2, boxes[:, 1] + boxes[:, 3] / 2
    right, bottom = glyphs[:, 0] + glyphs[:, 2], glyphs[:, 1] + glyphs[:, 3]
    across = (x[:, None] >= glyphs[:, 0] - reach) & (x[:, None] <= right + reach)
    down = (y[:, None] >= glyphs[:, 1] - reach) & (y[:, None] <= bottom + reach)
    fits = (boxes[:, 3, None] <= glyphs[:, 3]) & (boxes[:, 2, None] <= np.maximum(glyphs[:, 2], glyphs[:, 3]))
    return np.asarray((across & down & fits).any(axis=1))
