"""Convert images of any mode to RGB."""

import numpy as np
from PIL import Image

_STRIP_PIXELS = 1 << 20
"""Number of pixels that are laid on white at a time."""


def convert_to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB, on white where it is transparent, and the upper 8 of 16 bits of grey."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _convert_deep_grey(image)
    return lay_on_white(image) if image.has_transparency_data else image.convert("RGB")


def _convert_deep_grey(image: Image.Image) -> Image.Image:
    """Convert grey of 16 bits, which Pillow reads as I;16 or I and would clip at 255, so that all but black is white."""
    grey_HW = np.asarray(image)
    bright_HW = (grey_HW.clip(0, 65_535) >> 8).astype(np.uint8)
    if isinstance(transparent := image.info.get("transparency"), int):
        bright_HW[grey_HW == transparent] = 255
    return Image.fromarray(bright_HW).convert("RGB")


def lay_on_white(image: Image.Image) -> Image.Image:
    """Convert an image with transparency to RGB, on white, strip by strip: whole copies would take 16 bytes a pixel."""
    width, height = image.size
    opaque = Image.new("RGB", image.size)
    rows = max(1, _STRIP_PIXELS // max(width, 1))
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height))).convert("RGBA")
        white = Image.new("RGBA", strip.size, (255, 255, 255, 255))
        opaque.paste(Image.alpha_composite(white, strip).convert("RGB"), (0, top))
    return opaque
