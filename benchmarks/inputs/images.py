"""Make images for the benchmarks: of photographs of scikit-learn and matplotlib, and of noise."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 256


def encode_jpeg(image, quality):
    """Encode an image as JPEG."""
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=quality)
    return sink.getvalue()


def noise_jpeg(seed, width, height):
    """Return a JPEG of 16 x 12 random blocks, that no other seed has."""
    blocks = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    return encode_jpeg(Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC), 80)


def load_photographs():
    """Return three real photographs that are parts of packages."""
    import matplotlib as mpl
    import sklearn.datasets

    images = Path(sklearn.datasets.__file__).parent / "images"
    hopper = Path(mpl.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    paths = [images / "china.jpg", images / "flower.jpg", hopper]
    return [Image.open(path).convert("RGB") for path in paths]


def make_jpeg(photos, number):
    """Return a JPEG of 500 to 1,250 pixels width: a 2x2 grid of crops, some mirrored, none enlarged."""
    rng = np.random.default_rng(number)
    width = int(rng.integers(250, 626))
    height = int(width * rng.uniform(0.55, 0.68))
    whole = Image.new("RGB", (2 * width, 2 * height))
    for cell in range(4):
        photo = photos[int(rng.integers(3))]
        w, h = min(width, photo.width), min(height, photo.height)
        x, y = int(rng.integers(photo.width - w + 1)), int(rng.integers(photo.height - h + 1))
        crop = photo.crop((x, y, x + w, y + h))
        if (w, h) != (width, height):  # the portrait photograph is 512 wide
            crop = photo.crop((0, 0, photo.width, photo.height)).resize((width, height), Image.Resampling.LANCZOS)
        if rng.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        whole.paste(crop, (cell % 2 * width, cell // 2 * height))
    return encode_jpeg(whole, int(rng.integers(75, 93)))


def encode_as_downloaded(image):
    """Encode an image as in a raw shard: at most 256 pixels per side, JPEG of quality 95."""
    small = image.copy()
    small.thumbnail((SIDE, SIDE))
    return encode_jpeg(small, 95)


def random_crops(number):
    """Yield crops of the photographs, at random positions and scales."""
    photos, rng = load_photographs(), np.random.default_rng(0)
    for n in range(number):
        photo, side = photos[n % 3], int(rng.integers(256, 420))
        x, y = (int(rng.integers(0, length - side + 1)) for length in photo.size)
        yield photo.crop((x, y, x + side, y + side))
