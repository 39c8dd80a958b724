"""Load real images from packages, for benchmarks/curate.py.

They are photographs in scikit-learn and matplotlib and, if this Debian package is installed, clip art in openclipart-png.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.inputs.image_server import load_photographs
from dataops.images.decode import ImageRefused, decode_pixels

OPENCLIPART = Path("/usr/share/openclipart/png")
SIDE = 256


def encode_as_downloaded(image: Image.Image) -> bytes:
    """Encode an image as in a raw shard: at most 256 pixels per side, JPEG of quality 95."""
    small = image.copy()
    small.thumbnail((SIDE, SIDE))
    sink = io.BytesIO()
    small.save(sink, "JPEG", quality=95)
    return sink.getvalue()


def random_crops(number: int) -> Iterator[Image.Image]:
    """Yield crops of the photographs, at random positions and scales."""
    photos, rng = load_photographs(), np.random.default_rng(0)
    for n in range(number):
        photo, side = photos[n % 3], int(rng.integers(256, 420))
        x, y = (int(rng.integers(0, length - side + 1)) for length in photo.size)
        yield photo.crop((x, y, x + side, y + side))


def load_folder(folder: Path, number: int) -> list[Image.Image]:
    """Return images from the whole of a folder, of at least 48 pixels per side; none if there is no such folder."""
    paths = sorted(folder.rglob("*.png"))
    found = []
    for path in paths[:: max(1, len(paths) // (number + 1))]:
        try:
            image = Image.fromarray(decode_pixels(path.read_bytes(), max_area=1 << 23))
        except ImageRefused:
            continue
        image.thumbnail((SIDE, SIDE))
        if min(image.size) >= 48:
            found.append(image)
    return found[:number]
