import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from dataops.images.fingerprint import MATRIX_SIDE, fingerprint
from dataops.images.near_duplicates import find_close_pairs
from dataops.images.overlap import VARIANTS, correlate, index_image
from tests.photographs import photograph, portrait

DISTANCE, CORRELATION = 10, 0.95


def tiles():
    """17 images: tiles of two photographs that do not overlap."""
    cut = [(photograph("china.jpg"), 4, 2), (portrait(), 3, 3)]
    return [
        photo.crop((160 * x, 200 * y, 160 * x + 160, 200 * y + 200))
        for photo, across, down in cut
        for x in range(across)
        for y in range(down)
    ]


TILES = tiles()
INDEXED = [index_image(np.asarray(tile)) for tile in TILES]
PLANES, HASHES = np.stack([plane for plane, _ in INDEXED]), np.concatenate([hashes for _, hashes in INDEXED])


def find_copies(copies):
    """Return each pair (tile, copy) that is matched."""
    fingerprints = [fingerprint(np.asarray(copy)) for copy in copies]
    hashes = np.array([one.phash for one in fingerprints], np.uint64)
    luminances = np.frombuffer(b"".join(one.luminance for one in fingerprints), np.uint8).reshape(
        -1, MATRIX_SIDE, MATRIX_SIDE
    )
    pairs = np.concatenate([np.empty((0, 2), np.int64), *find_close_pairs(HASHES, hashes, DISTANCE)])
    best = correlate(PLANES[pairs[:, 0] // VARIANTS], luminances[pairs[:, 1]], pairs[:, 0] % VARIANTS)
    good = pairs[best >= CORRELATION]
    return {(int(query) // VARIANTS, int(copy)) for query, copy in good}


def jpeg(image, quality):
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return Image.open(out)


def crop(image, side, number):
    """Return a crop at a random position."""
    x, y = np.random.default_rng(number).random(2) * (1 - side)
    left, top = int(x * image.width), int(y * image.height)
    return image.crop((left, top, left + int(side * image.width), top + int(side * image.height)))


CHANGES = {
    "compressed": (lambda image, _: jpeg(image, 30), 17),
    "half the size": (lambda image, _: image.resize((80, 100)), 17),
    "stretched": (lambda image, _: image.resize((160, 150)), 17),
    "mirrored": (lambda image, _: ImageOps.mirror(image), 17),
    "grey": (lambda image, _: ImageOps.grayscale(image).convert("RGB"), 17),
    "saturated": (lambda image, _: ImageEnhance.Color(image).enhance(1.8), 16),
    "less contrast": (lambda image, _: ImageEnhance.Contrast(image).enhance(0.6), 17),
    "cropped to 0.9": (lambda image, number: crop(image, 0.9, number), 15),
    "cropped to 0.8": (lambda image, number: crop(image, 0.8, number), 15),
    "all at once": (lambda image, number: jpeg(ImageOps.mirror(crop(image, 0.85, number)), 60), 15),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_copies_match_and_other_images_do_not(name):
    change, least = CHANGES[name]
    pairs = find_copies([change(tile, number) for number, tile in enumerate(TILES)])
    assert {(one, two) for one, two in pairs if one != two} == set()
    assert len(pairs) >= least


def test_correlate_is_at_least_the_correlation_of_numpy():
    """Compare with numpy: the search over moved crops can only raise Pearson's correlation of the cells."""
    left = PLANES[3]
    cells = left.reshape(32, 2, 32, 2).mean(axis=(1, 3))
    right = np.clip(cells * 0.5 + np.random.default_rng(0).normal(0, 20, (32, 32)), 0, 255).astype(np.uint8)
    expected = np.corrcoef(cells.ravel(), right.ravel())[0, 1]
    assert expected <= correlate(left[None], right[None], np.array([0]))[0] <= expected + 0.05
    flat = np.zeros((1, 32, 32), np.uint8)
    assert correlate(left[None], flat, np.array([0]))[0] == 0
