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

LEAST_GROUND = 0.6
"""Least share of a picture that its ground (dataops.image_look.Look.ground) covers where all else is text."""
LEAST_INK = 32  # levels from the ground
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

    def __getitem__(self, which: NDArray[np.bool_]) -> "_Parts":
        return _Parts(self.boxes[which], self.areas[which], self.strokes[which])


def is_text_banner(luminance: NDArray[np.uint8]) -> bool:
    """Whether nearly all that is on a plain ground are lines of text. Takes under a millisecond for 224x224 pixels.

    Args:
        luminance: (height, width).
    """
    ink = _ink(luminance)
    parts = None if ink is None else _parts(ink)
    if parts is None:
        return False
    glyphs = parts[_glyphs(parts, luminance.shape)]
    in_lines = _in_lines(glyphs)
    text = in_lines | _like(glyphs, glyphs[in_lines])
    if text.sum() < _LEAST_GLYPHS or 2 * in_lines.sum() < text.sum():
        return False
    inside = _beside(parts.boxes, glyphs.boxes[text])
    return bool(parts.areas[inside].sum() >= _LEAST_SHARE * parts.areas.sum())


def _ink(luminance: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """Not 0 where a pixel differs from the ground, the commonest level; None where none does, or too many do."""
    levels = cv2.calcHist([luminance], [0], None, [256], [0, 256]).ravel()
    ground = int(np.convolve(levels, np.ones(9), "same").argmax())
    apart = np.bincount(np.abs(np.arange(256) - ground), levels, 256)
    inked = np.cumsum(apart[LEAST_INK:])
    least = int(max(LEAST_INK, 0.4 * (LEAST_INK + np.searchsorted(inked, 0.9 * inked[-1]))))
    if not 0 < apart[least + 1 :].sum() <= _MOST_INK * luminance.size:
        return None
    return cv2.bitwise_not(cv2.inRange(luminance, max(0, ground - least), min(255, ground + least)))  # pyright: ignore


def _parts(ink: NDArray[np.uint8]) -> _Parts | None:
    """The pieces of ink, without frames; None where more is too large for letters, or there are too many."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(ink, connectivity=8, ltype=cv2.CV_32S)
    boxes, areas = stats[1:, :4].astype(float), stats[1:, 4].astype(float)
    stays = ~_frames(boxes, areas, ink.shape)
    large = stays & ~_of_letters(boxes, ink.shape)
    if count > _MOST_PARTS or areas[large].sum() > (1 - _LEAST_SHARE) * areas[stays].sum():
        return None
    edge = cv2.subtract(ink, cv2.erode(ink, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0))
    edges = np.bincount(labels[edge > 0], minlength=count)[1:]
    return _Parts(boxes, areas, 2 * areas / np.maximum(edges, 1))[stays]


def _frames(boxes: NDArray[np.float64], areas: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Which parts are a line around all, or the corners outside of a button."""
    left, top, width, height = boxes.T
    around = (width >= 0.9 * shape[1]) & (height >= 0.8 * shape[0]) & (areas < 0.3 * width * height)
    at_side = (left == 0) | (left + width == shape[1])
    corner = at_side & ((top == 0) | (top + height == shape[0])) & (np.maximum(width, height) < 0.2 * max(shape))
    return around | corner


def _of_letters(boxes: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Which parts are no larger than letters; of small ones several may touch, and be a word."""
    _, _, widths, heights = boxes.T
    wide = np.where(heights <= 16, 12, 2.5)
    return (heights <= 0.75 * shape[0]) & (heights <= 0.4 * shape[1]) & (widths <= wide * np.maximum(heights, 5))


def _glyphs(parts: _Parts, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Which parts may be letters or words."""
    heights = parts.boxes[:, 3]
    return (heights >= 5) & _of_letters(parts.boxes, shape) & (parts.strokes <= 0.42 * heights)


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
