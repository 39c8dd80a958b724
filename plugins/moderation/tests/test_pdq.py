"""PDQ equals the reference implementation, whose hashes of these images are kept here (pdqhash 0.2.8)."""

import numpy as np
import pytest

from plugins.moderation.pdq import compute_pdq, format_pdq


def image(height, width):
    """Return an image of waves and noise in OpenCV's order of colours (height, width, 3)."""
    y, x = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    waves = [np.sin(9 * x + 4 * y + shift) * np.cos(7 * y * x + shift) for shift in (0.1, 1.3, 2.9)]
    noise = np.random.default_rng(height * width).integers(-30, 31, (height, width, 3))
    return np.clip(np.stack(waves, axis=-1) * 90 + 128 + noise, 0, 255).astype(np.uint8)


KNOWN = {
    (64, 64): ("a3d8fdfaa04f63e52092ea659727bf92ae16d1d34cf5474051527ea5600cb453", 100),
    (5, 5): ("3c0fb5a5c3f06b5a81e0cb72338c348d6e1fb48d3c0ff5b5c3f04b5281e0cb72", 52),
    (63, 200): ("277b5c36199fdf55d5bf0bca53849dc00770ef4ad6b216a25554eea5900c4453", 100),
    (128, 127): ("5b6fd62cbed0efca4a3c7f9466965f4a8757c4644a749187455682a5d40c5513", 100),
    (129, 500): ("1ed49cfe289535ee75555fa66182ba062bd4df62d5d4bd625554caa5000d5553", 86),
    (700, 480): ("7ef18662fed7d7e209f04762dd5047a6db14d6e27350fd625554aaa5000c5553", 49),
    (1200, 33): ("f458f7ebed34dcb17f500862c87177f6fe91f64275945aa2d5548aa5000c9453", 83),
}


def pattern(number):
    """Return a checkerboard, a disc, a glyph or a gradient: most of its coefficients are zero but for rounding."""
    y, x = np.mgrid[:150, :210]
    masks = ((y // 16 + x // 16) % 2, (y - 75) ** 2 + (x - 105) ** 2 < 50**2, (y > 37) & (y < 75) & (x > 52), y / 150)
    return np.repeat((255 - 255 * masks[number]).astype(np.uint8)[..., None], 3, axis=2)


PATTERNS = [
    "e0002000a000e000e000e000e0001fff1fff1fbf1fbf1fbf1fbf1fbf1fbf1fbf",
    "699ce61965999266a65918669e6669c379e7a798e5969e189619796179692696",
    "0000f0780f078f0770707070f0f88f8f000078f08f07078f70f0707870780787",
    "271561247e11e025cb8be5ed91b445adb9b839241089223554d1838815204fc5",
]


@pytest.mark.parametrize("number", range(4))
def test_patterns_have_the_hash_of_the_reference(number):
    assert format_pdq(compute_pdq(pattern(number))[0]) == PATTERNS[number]


@pytest.mark.parametrize("size", KNOWN)
def test_hash_and_quality_are_those_of_the_reference(size):
    words, quality = compute_pdq(image(*size))
    assert (format_pdq(words), quality) == KNOWN[size]
