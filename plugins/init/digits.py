"""Write the digits that a new project starts with, as an evaluation set."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from tasks.evaluate.suite_writer import write_classification

DIGIT_TEMPLATES = ('a photo of the number: "{c}".',)
"""The prompt that CLIP's authors published for MNIST."""


DIGIT_NAMES = tuple(str(digit) for digit in range(10))


def write_digits(task: Path) -> int:
    """Write 1,797 scans of 8 x 8 pixels, light ink on black, with values 0..16 scaled to 0..255."""
    from sklearn.datasets import load_digits  # here: it takes 2 s to load, and other sets need none of it

    scans, labels = load_digits(return_X_y=True)
    grey = np.rint(np.asarray(scans).reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    pngs = [_encode_png(Image.fromarray(scan)) for scan in grey]
    write_classification(task, DIGIT_NAMES, DIGIT_TEMPLATES, pngs, (int(label) for label in np.asarray(labels)))
    return len(pngs)


def _encode_png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
