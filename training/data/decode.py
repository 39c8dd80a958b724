"""Training images: bytes to a decoded array no larger than needed, and a random crop of it at the model's size.

A JPEG is decoded by libjpeg-turbo at 1/1, 1/2, 1/4 or 1/8 of its size, the smallest that is large
enough: the scaling is part of the cosine transform, and these four have vector code. Pillow decodes
what libjpeg-turbo cannot, and its error is final.

Legend: H, W height and width of the decoded image, S side of the model's input.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
import simplejpeg

from dataops.images.orientation import parse_orientation, turn_pixels
from dataops.images.structure import check_scans, read_segments
from training.model.preprocess import MAX_PIXELS, decode_rgb

ASPECT = (3 / 4, 4 / 3)
"""Range of a crop's width to height. Source: torchvision's RandomResizedCrop, which open_clip trains with."""
TRIES = 10
DRAWS = 4 * TRIES
AREA_FROM = 1.15
"""Shrink from which an image is scaled by area."""

Crop = tuple[int, int, int, int]
"""Top, left, height, width."""


def decode_image(data: bytes, side: int) -> np.ndarray:
    """Decode an image upright to uint8 (H, W, 3), scaled down as far as its shorter side keeps `side` pixels.

    Raises: ValueError if the bytes are not a readable image.
    """
    if data[:3] == b"\xff\xd8\xff":
        try:
            rows, columns, colours, _ = simplejpeg.decode_jpeg_header(data)
            height, width = int(rows), int(columns)
            segments = read_segments(data)
            check_scans(data, height, width, segments.first_scan)
            if height * width <= MAX_PIXELS and colours not in ("CMYK", "YCCK"):
                factor = next(f for f in (8, 4, 2, 1) if f == 1 or min(height, width) >= f * side)
                pixels = simplejpeg.decode_jpeg(
                    data, "RGB", min_height=-(-height // factor), min_width=-(-width // factor)
                )
                return turn_pixels(pixels, parse_orientation(segments.exif))
        except ValueError:  # damaged, or unusual
            pass
    return np.asarray(decode_rgb(data))


def resize_shortest_side(pixels_HW3: np.ndarray, side: int) -> np.ndarray:
    """Scale so that the shorter side has `side` pixels, and the longer one as torchvision's Resize has it."""
    height, width = pixels_HW3.shape[:2]
    longer = side * max(height, width) // min(height, width)
    return _resize(pixels_HW3, *((longer, side) if height > width else (side, longer)))


def blur_faces(pixels_HW3: np.ndarray, boxes: Sequence[Sequence[float]]) -> np.ndarray:
    """Blur the boxes of an image, each with a margin in which the blur fades; no pixel outside changes.

    Args:
        boxes: x0, y0, x1, y1 of each, as shares of width and height.

    Source: Yang et al. 2022, "A Study of Face Obfuscation in ImageNet": a margin of a tenth of the box, a Gaussian as
        wide, and a mask that fades. img2dataset, which downloads DataComp, follows it too; here the diagonal counts.
    """
    blurred_HW3 = pixels_HW3.copy()
    height, width = pixels_HW3.shape[:2]
    for x0, y0, x1, y1 in boxes:
        diagonal = math.hypot((x1 - x0) * width, (y1 - y0) * height)
        margin = max(1.0, 0.1 * diagonal)
        across, left, right = _fade(x0 * width, x1 * width, margin, width)
        down, top, bottom = _fade(y0 * height, y1 * height, margin, height)
        if left < right and top < bottom:
            part = blurred_HW3[top:bottom, left:right].astype(np.float32)
            soft = cv2.GaussianBlur(part, (0, 0), 0.1 * max(diagonal, 10.0))
            share = np.minimum.outer(down, across)[:, :, None]
            blurred_HW3[top:bottom, left:right] = np.rint(part + share * (soft - part))
    return blurred_HW3


def _fade(low: float, high: float, margin: float, extent: int) -> tuple[np.ndarray, int, int]:
    """Return the share of the blur per pixel of a span, and its start and end: 1 from low to high, fading outside."""
    first, end = max(0, math.floor(low - margin)), min(extent, math.ceil(high + margin))
    middles = np.arange(first, max(first, end)) + 0.5
    outside = np.maximum(np.maximum(low - middles, middles - high), 0)
    return np.clip(1 - outside / margin, 0, 1).astype(np.float32), first, end


def draw_crop(height: int, width: int, area: tuple[float, float], u: np.ndarray) -> Crop:
    """Draw a crop whose share of the area is uniform in `area` and the log of whose aspect is uniform.

    Args:
        u: DRAWS numbers in [0, 1): four for each try.

    Source: Szegedy et al. 2015, section 6; the distribution is that of torchvision's RandomResizedCrop: ten tries, then
        the largest centred crop of an allowed aspect.
    """
    low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
    for share, shape, y, x in u.reshape(TRIES, 4).tolist():
        pixels = height * width * (area[0] + (area[1] - area[0]) * share)
        aspect = math.exp(low + (high - low) * shape)
        w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(y * (height - h + 1)), int(x * (width - w + 1)), h, w
    w = min(width, round(height * ASPECT[1]))
    h = min(height, round(width / ASPECT[0]))
    return (height - h) // 2, (width - w) // 2, h, w


def draw_square(height: int, width: int, u: np.ndarray) -> Crop:
    """Draw a square as large as the image allows, by two numbers in [0, 1)."""
    side = min(height, width)
    return int(u[0] * (height - side + 1)), int(u[1] * (width - side + 1)), side, side


def write_crop(pixels_HW3: np.ndarray, crop: Crop, out_SS3: np.ndarray) -> None:
    """Write a crop of an image, scaled, into `out_SS3`."""
    top, left, height, width = crop
    side = len(out_SS3)
    cropped = pixels_HW3[top : top + height, left : left + width]
    out_SS3[:] = cropped if (height, width) == (side, side) else _resize(cropped, side, side)


def _resize(pixels_HW3: np.ndarray, height: int, width: int) -> np.ndarray:
    if pixels_HW3.shape[:2] == (height, width):
        return pixels_HW3
    # A cubic kernel reads four pixels a side at any scale; to shrink without aliasing, all pixels are averaged.
    shrinks = min(pixels_HW3.shape[0] / height, pixels_HW3.shape[1] / width) >= AREA_FROM
    return cv2.resize(pixels_HW3, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
