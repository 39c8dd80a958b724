"""Detect images that show nothing but text on a plain background: banners, buttons with a word, quotations.

A model that is trained on them learns to read the caption from the image. No letter is recognised, so this works for any
script with separate letters or words: ink is what differs from the background, its connected components are glyphs by the
width of their strokes, and glyphs side by side are lines. If nearly all ink is in lines, the image is text.

Source: components of similar stroke width in lines are text, Epshtein, Ofek and Wexler 2010, "Detecting Text in Natural
Scenes with Stroke Width Transform", sections 3.2 and 3.3 (for photographs, whose background is not
plain); such images harm training, Maini et al. 2023, "T-MARS: Improving Visual Representations by Circumventing Text
Feature Learning".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dataops.kernels.compiled import compiled

MIN_BACKGROUND = 0.6
"""Minimum Fingerprint.background_share (dataops.images.fingerprint) of an image of text."""
_MIN_INK = 32  # levels between ink and background
_MAX_INK = 0.35  # share of all pixels
_MIN_GLYPHS = 5
_MIN_SHARE = 0.92  # share of the ink that belongs to glyphs
_MAX_COMPONENTS = 1000  # more are a texture, or dust


@dataclass(frozen=True)
class _Ink:
    """N connected components of ink."""

    boxes: NDArray[np.float64]
    """(N, 4): left, top, width, height, in pixels."""
    areas: NDArray[np.float64]
    strokes: NDArray[np.float64]
    """Mean widths of their strokes, in pixels."""
    letters: NDArray[np.bool_]
    """True if they are as small as letters."""

    def __getitem__(self, which: NDArray[np.bool_]) -> "_Ink":
        return _Ink(self.boxes[which], self.areas[which], self.strokes[which], self.letters[which])


def is_text_banner(luminance: NDArray[np.uint8]) -> bool:
    """Return whether nearly all ink on a plain background is lines of text.

    Args:
        luminance: (height, width).
    """
    ink = _find_ink(luminance)
    components = None if ink is None else _measure_ink(ink)
    if components is None:
        return False
    glyphs = components[_are_glyphs(components)]
    in_lines = _in_lines(glyphs)
    text = in_lines | _resemble(glyphs, glyphs[in_lines])
    if text.sum() < _MIN_GLYPHS or 2 * in_lines.sum() < text.sum():
        return False
    inside = _belong_to(components.boxes, glyphs.boxes[text])
    return bool(components.areas[inside].sum() >= _MIN_SHARE * components.areas.sum())


def _find_ink(luminance: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """Return 255 for pixels that differ from the background, else 0; None if none does, or too many do."""
    low, high = _background(
        cv2.calcHist([luminance], [0], None, [256], (0, 256)).ravel().astype(np.int64), luminance.size
    )
    return None if low > high else cv2.bitwise_not(cv2.inRange(luminance, low, high))  # pyright: ignore


@compiled(nogil=True)
def _background(levels, size):
    """Return the lowest and the highest level of the background; (1, 0) if there is no ink, or too much.

    Args:
        levels: number of pixels of each of the 256 levels.
    """
    centre, most, inside = 0, 0, levels[:4].sum()  # the level with the most pixels within 4 levels
    for level in range(256):
        inside += (levels[level + 4] if level < 252 else 0) - (levels[level - 5] if level > 4 else 0)
        if inside > most:
            centre, most = level, inside
    apart = np.zeros(256, np.int64)
    for level in range(256):
        apart[abs(level - centre)] += levels[level]
    total, inked, darkest = apart[_MIN_INK:].sum(), 0, _MIN_INK
    for level in range(_MIN_INK, 256):
        inked += apart[level]
        if inked >= 0.9 * total:
            darkest = level
            break
    least = int(max(_MIN_INK, 0.4 * darkest))
    if 0 < apart[least + 1 :].sum() <= _MAX_INK * size:
        return max(0, centre - least), min(255, centre + least)
    return 1, 0


def _measure_ink(ink: NDArray[np.uint8]) -> _Ink | None:
    """Return the components of ink, without frames; None if too many are larger than letters, or there are too many."""
    count, labels, stats, _ = cv2.connectedComponentsWithStatsWithAlgorithm(ink, 8, cv2.CV_32S, cv2.CCL_GRANA)
    boxes, areas = np.hsplit(np.array(stats[1:], np.float64), [4])
    areas = areas[:, 0]
    if len(areas) >= _MAX_COMPONENTS:
        return None
    kept, letters = np.empty((2, len(areas)), np.bool_)
    if _classify(boxes, areas, *ink.shape, kept, letters) > 1 - _MIN_SHARE:
        return None
    inner: Any = cv2.erode(ink, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    edge: Any = cv2.subtract(ink, inner)
    marked = np.bincount(labels[edge > 0], minlength=count)[1:]
    return _Ink(boxes, areas, 2 * areas / np.maximum(marked, 1), letters)[kept]


@compiled(nogil=True)
def _classify(boxes, areas, rows, columns, kept, letters):
    """Mark components that are no frames, and those as small as letters; return the area share that is larger."""
    large = whole = 0.0
    for i in range(len(areas)):
        kept[i] = not _is_frame(boxes[i], areas[i], rows, columns)
        letters[i] = _is_letter_sized(boxes[i], rows, columns)
        whole += areas[i] if kept[i] else 0.0
        large += areas[i] if kept[i] and not letters[i] else 0.0
    return large / whole if whole > 0 else 0.0


@compiled(nogil=True)
def _is_frame(box, area, rows, columns):
    """Return whether a component is a line around the image, or a corner outside a button."""
    left, top, width, height = box
    around = width >= 0.9 * columns and height >= 0.8 * rows and area < 0.3 * width * height
    at_side = left == 0 or left + width == columns
    at_end = top == 0 or top + height == rows
    return around or (at_side and at_end and max(width, height) < 0.2 * max(rows, columns))


@compiled(nogil=True)
def _is_letter_sized(box, rows, columns):
    """Return whether a component is as small as letters; small letters may touch and form a word."""
    _, _, width, height = box
    return height <= 0.75 * rows and height <= 0.4 * columns and width <= (12 if height <= 16 else 2.5) * max(height, 5)


def _are_glyphs(components: _Ink) -> NDArray[np.bool_]:
    """Return which components may be letters or words."""
    heights = components.boxes[:, 3]
    return (heights >= 5) & components.letters & (components.strokes <= 0.42 * heights)


def _in_lines(glyphs: _Ink) -> NDArray[np.bool_]:
    """Return which glyphs are in lines of at least three."""
    left, top, width, height = glyphs.boxes.T
    taller, lower = np.maximum.outer(height, height), np.minimum.outer(height, height)
    overlap = np.minimum.outer(top + height, top + height) - np.maximum.outer(top, top)
    gap = np.maximum.outer(left, left) - np.minimum.outer(left + width, left + width)
    beside = (overlap >= 0.5 * lower) & (gap <= taller) & (taller <= 2.6 * lower)
    found = np.zeros(len(height), bool)
    for line in _iterate_connected(beside):
        if line.sum() >= 3 and _is_line(glyphs[line]):
            found |= line
    return found


def _iterate_connected(beside: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
    """Yield the connected components of a symmetric relation, as masks."""
    left = np.ones(len(beside), np.bool_)
    while left.any():
        line, more = np.zeros(len(beside), np.bool_), np.zeros(len(beside), np.bool_)
        more[left.argmax()] = True
        while more.sum() > line.sum():
            line[:] = more
            more[:] = beside[line].any(axis=0)
        left &= ~line
        yield line


def _is_line(glyphs: _Ink) -> bool:
    """Return whether glyphs have similar strokes and heights, one base line, fill their boxes as letters, and differ."""
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


def _resemble(glyphs: _Ink, lines: _Ink) -> NDArray[np.bool_]:
    """Return which glyphs have the stroke and size of the lines: words of one or two letters."""
    if not len(lines.areas):
        return np.zeros(len(glyphs.areas), bool)
    stroke, size = np.median(lines.strokes), np.median(lines.boxes[:, 3])
    return _near(glyphs.strokes, stroke, 1.4) & _near(glyphs.boxes[:, 3], size, 1.7)


def _near(values: NDArray[np.float64], middle: Any, factor: float) -> NDArray[np.bool_]:
    return (values >= middle / factor) & (values <= middle * factor)


def _belong_to(boxes: NDArray[np.float64], glyphs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which components are glyphs, or points, accents and commas: as small as a glyph, within half its height."""
    reach = glyphs[:, 3] / 2
    x, y = boxes[:, 0] + boxes[:, 2] / 2, boxes[:, 1] + boxes[:, 3] / 2
    right, bottom = glyphs[:, 0] + glyphs[:, 2], glyphs[:, 1] + glyphs[:, 3]
    across = (x[:, None] >= glyphs[:, 0] - reach) & (x[:, None] <= right + reach)
    down = (y[:, None] >= glyphs[:, 1] - reach) & (y[:, None] <= bottom + reach)
    fits = (boxes[:, 3, None] <= glyphs[:, 3]) & (boxes[:, 2, None] <= np.maximum(glyphs[:, 2], glyphs[:, 3]))
    return np.asarray((across & down & fits).any(axis=1))
