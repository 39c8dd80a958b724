"""Crop photographs of scikit-learn and matplotlib, for benchmarks/curate.py."""

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from benchmarks.inputs.image_server import load_photographs

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
