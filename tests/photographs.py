"""Photographs and captions, of which two implementations of a model compute the features."""

from importlib.util import find_spec
from pathlib import Path

from PIL import Image

CAPTIONS = ["a red kite", "Two cats,  one dog's BONE", "café in Paris 2019", "a temple roof, and a flower " * 4, ""]
FOLDER = Path(find_spec("sklearn").origin).parent / "datasets" / "images"
"""Two photographs of scikit-learn, whose import takes 2 s of CPU time."""


def sample_images():
    """Return two photographs; one is cut so that cropping needs no rounding."""
    first, second = (Image.open(FOLDER / name).convert("RGB") for name in ("china.jpg", "flower.jpg"))
    return [first.crop((0, 0, 426, 426)), second.crop((0, 0, 320, 400))]
