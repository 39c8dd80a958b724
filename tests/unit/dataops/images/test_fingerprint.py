import numpy as np
import pytest
from PIL import Image

from dataops.images.fingerprint import compute_luminance, fingerprint, resize_plane

EDGES = [
    *[(1, side) for side in (2, 31, 32, 33, 5_000)],
    *[(side, 1) for side in (2, 31, 32, 33, 5_000)],
    *[(3, 4_000), (4_000, 3), (5, 900), (31, 33), (32, 700), (700, 32), (33, 34), (33, 35), (64, 96), (64, 97)],
    *[(100, 168), (100, 169), (300, 568), (300, 569), (400, 3_000), (3_000, 400)],
]


def random_sizes(number):
    """Return widths and heights from 1 to 600, small ones as often as large ones."""
    sizes = np.exp(np.random.default_rng(7).uniform(0, np.log(600), (number, 2)))
    return [(int(width), int(height)) for width, height in sizes]


def test_images_of_any_size_hash_as_by_imagehash():
    """Of images two pixels wide, every other coefficient is zero in theory, and imagehash's has the noise of its sums."""
    imagehash = pytest.importorskip("imagehash")
    random = np.random.default_rng(2)
    for width, height in [*EDGES, *(size for size in random_sizes(40) if min(size) > 2)]:
        noise = random.integers(0, 256, (height, width, 3), np.uint8)
        expected = str(imagehash.phash(Image.fromarray(noise)))
        assert f"{fingerprint(noise).phash:016x}" == expected, (width, height)


@pytest.mark.parametrize("side", [32, 64])
def test_luminance_and_resize_plane_equal_pillow_for_any_size(side):
    random = np.random.default_rng(1)
    for width, height in [(1, 1), (2, 900), *EDGES, *random_sizes(60)]:
        noise = random.integers(0, 256, (height, width, 3), np.uint8)
        grey = Image.fromarray(noise).convert("L")
        assert np.array_equal(plane := compute_luminance(noise), np.asarray(grey))
        expected = np.asarray(grey.resize((side, side), Image.Resampling.LANCZOS))
        assert np.array_equal(resize_plane(plane, side), expected), (width, height)


@pytest.mark.parametrize("size", [(160, 96), (100, 70), (17, 16), (16, 16), (9, 3), (1, 1)])
def test_thumbnail_is_the_mean_of_each_cell(size):
    image = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    found = np.frombuffer(fingerprint(image).thumbnail, np.uint8).reshape(16, 16, 3)

    def shares(side):  # share of each pixel in each cell (side, 16)
        finely = np.repeat(np.arange(side), 16).reshape(16, side)
        return np.stack([np.bincount(cell, minlength=side) / side for cell in finely], axis=1)

    means = np.einsum("yi,xj,yxc->ijc", shares(size[1]), shares(size[0]), image.astype(float))
    assert np.abs(found - means).max() <= 0.5 + 1e-9
