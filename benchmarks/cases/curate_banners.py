"""Render images of text, and count those that the check `text_banner` drops."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.inputs.images import encode_as_downloaded
from tasks.curate.config import CurateConfig
from tasks.curate.inspect_images import inspect_image

FONTS = sorted(
    path for path in (Path(mpl.get_data_path()) / "fonts" / "ttf").glob("DejaVu*.ttf") if "Display" not in path.name
)
TEXT = (
    "Sale Click here to read more about our new summer offers 50% off Follow your dreams and never give up Contact us "
    "Home Subscribe now Happy Birthday HELLO WORLD Guten Tag Straße Привет мир скидка Ελλάδα καλημέρα"
)
WORDS = TEXT.split()
MIN_LETTERS = 5


def make_banners(number: int) -> list[Image.Image]:
    """Render banners, buttons and quotations: text of one colour on another, in 19 fonts, some with a frame."""
    rng = np.random.default_rng(0)
    found: list[Image.Image] = []
    while len(found) < number:
        image, letters = _banner(rng)
        if letters >= MIN_LETTERS:
            found.append(image)
    return found


def _banner(rng: np.random.Generator) -> tuple[Image.Image, int]:
    width, height, size = (
        int(rng.integers(96, 257)),
        int(rng.choice([32, 48, 64, 128, 192, 256])),
        int(rng.integers(10, 40)),
    )
    background, ink = (tuple(rng.integers(0, 256, 3).tolist()) for _ in range(2))
    if abs(_luminance(background) - _luminance(ink)) < 80:
        ink = (255, 255, 255) if _luminance(background) < 128 else (0, 0, 0)
    image = Image.new("RGB", (width, height), background)
    draw, font = ImageDraw.Draw(image), ImageFont.truetype(FONTS[rng.integers(len(FONTS))], size)
    if rng.random() < 0.3:
        draw.rectangle((2, 2, width - 3, height - 3), outline=ink)
    letters, y = 0, round(0.08 * height)
    while y + 1.2 * size < height:
        line = _line(rng, draw, font, width - 10)
        draw.text(((width - draw.textlength(line, font)) / 2, y), line, ink, font)
        letters, y = letters + len(line.replace(" ", "")), y + round(1.35 * size)
        if rng.random() < 0.3:
            break
    return image, letters


def _line(rng: np.random.Generator, draw: ImageDraw.ImageDraw, font: Any, width: int) -> str:
    line = ""
    while True:
        longer = f"{line} {rng.choice(WORDS)}".strip()
        if draw.textlength(longer, font) > width:
            return line
        line = longer


def _luminance(colour: Sequence[int]) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def find_banners(images: Sequence[Image.Image]) -> list[int]:
    """Return the indices of the images that the check drops, as JPEGs of a raw shard."""
    inspected = (
        inspect_image(encode_as_downloaded(image), image.size, CurateConfig(min_side=1, max_aspect_ratio=99))
        for image in images
    )
    return [number for number, row in enumerate(inspected) if row["drop_reason"] == "text_banner"]
