"""Photographs and captions, of which two implementations of a model compute the features."""

from PIL import Image
from sklearn.datasets import load_sample_images

CAPTIONS = ["a red kite", "Two cats,  one dog's BONE", "café in Paris 2019", "a temple roof, and a flower " * 4, ""]


def sample_images():
    """Return two photographs; one is cut so that cropping needs no rounding."""
    first, second = (Image.fromarray(array) for array in load_sample_images().images)
    return [first.crop((0, 0, 426, 426)), second.crop((0, 0, 320, 400))]
