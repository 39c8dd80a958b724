"""Lay images with transparency on white."""

from PIL import Image

_STRIP_PIXELS = 1 << 20
"""Number of pixels that are laid on white at a time."""


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
