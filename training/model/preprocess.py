"""Bytes to pixels, in one way for training and evaluation."""

import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from dataops.images.kinds import KINDS, sniff
from dataops.images.orientation import read_orientation, turn_image
from dataops.images.rgb import convert_to_rgb
from dataops.images.structure import cut_metadata

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of each channel. Source: Radford et al. 2021's release, clip/clip.py `_transform`."""
MAX_PIXELS = 1 << 27
FORMATS = tuple(KINDS.values())
"""Pillow reads many more, and for EPS it runs Ghostscript."""


def decode_rgb(data: bytes) -> Image.Image:
    """Decode an image upright, as its EXIF says; what is transparent becomes white.

    Raises:
        ValueError: unreadable, truncated, or larger than 2^27 pixels. The message is part of predictions and
            skipped.json.
    """
    try:
        kind = sniff(data)
        image = Image.open(io.BytesIO(cut_metadata(data, kind)), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels are more than {MAX_PIXELS}")
        orientation = read_orientation(data, kind, image)
        return turn_image(to_rgb(image), orientation)
    except UnidentifiedImageError as error:  # Pillow's message holds an address in memory
        raise ValueError("not a readable picture: no known format") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders let many types escape on hostile bytes
        raise ValueError(f"not a readable picture: {type(error).__name__}: {error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB, on white where it is transparent."""
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    return convert_to_rgb(image)


def resize_shortest(image: Image.Image, side: int) -> Image.Image:
    """Scale (bicubic) so that the shorter side has `side` pixels, and the longer one as torchvision's Resize has it."""
    width, height = image.size
    if min(width, height) == side:
        return image
    longer = side * max(width, height) // min(width, height)
    size = (side, longer) if width < height else (longer, side)
    return image.resize(size, Image.Resampling.BICUBIC)


def normalize(images: Tensor) -> Tensor:
    """Convert [0, 1] to the inputs of the image tower; channels are the third dimension from the end."""
    mean, std = (torch.tensor(one, dtype=images.dtype, device=images.device).view(3, 1, 1) for one in (MEAN, STD))
    return (images - mean) / std


@dataclass(frozen=True)
class Preprocess:
    """An image to the input of the image tower: shortest side to `image_size`, centre square, normalised."""

    image_size: int

    def __call__(self, image: Image.Image | bytes) -> Tensor:
        """Return float (3, S, S).

        Raises:
            ValueError: the bytes are not a readable image.
        """
        image = decode_rgb(image) if isinstance(image, bytes) else to_rgb(image)
        image = resize_shortest(image, self.image_size)
        left, top = (round((extent - self.image_size) / 2) for extent in image.size)
        square = image.crop((left, top, left + self.image_size, top + self.image_size))
        return normalize(torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255)

    def facts(self) -> dict[str, object]:
        """Return the `preprocess` of model.json, in open_clip's field names."""
        return {
            "image_size": self.image_size,
            "mean": list(MEAN),
            "std": list(STD),
            "interpolation": "bicubic",
            "resize_mode": "shortest",
            "fill_color": 255,
        }
