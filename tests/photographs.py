"""Photographs and captions, of which two implementations of a model compute the features."""

from importlib.util import find_spec
from pathlib import Path

from PIL import Image

CAPTIONS = ["a red kite", "Two cats,  one dog's BONE", "café in Paris 2019", "a temple roof, and a flower " * 4, ""]
FOLDERS = {"sklearn": "datasets/images", "matplotlib": "mpl-data/sample_data"}
"""Folder of each package that has photographs. To import them takes 3 s of CPU time."""


def photograph(name, package="sklearn"):
    """Return china.jpg or flower.jpg of scikit-learn, or matplotlib's portrait grace_hopper.jpg."""
    return Image.open(Path(find_spec(package).origin).parent / FOLDERS[package] / name).convert("RGB")


def sample_images():
    """Return two photographs; one is cut so that cropping needs no rounding."""
    return [photograph("china.jpg").crop((0, 0, 426, 426)), photograph("flower.jpg").crop((0, 0, 320, 400))]


def portrait():
    """Return a photograph with one face."""
    return photograph("grace_hopper.jpg", "matplotlib")
