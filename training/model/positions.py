"""Position embeddings of another image size or context length.

Legend: L positions, D width, G side of the grid of an image's positions.
"""

import logging
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

logger = logging.getLogger(__name__)

OF_IMAGES = ("visual.positional_embedding", "visual.attnpool.positional_embedding")
"""A transformer's class token and patches; the mean and the positions of a ResNet's attention pool."""
OF_TEXTS = "positional_embedding"


def fit_positions(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights whose position embeddings have the model's length; all others are the same tensors.

    Embeddings of another width, or whose positions are no square, are left as they are.

    Args:
        expected: the model's tensors by name.
    """
    fitted = dict(tensors)
    for name in (*OF_IMAGES, OF_TEXTS):
        if name not in tensors or name not in expected:
            continue
        found_LD, length = tensors[name], len(expected[name])
        if found_LD.ndim != 2 or found_LD.shape[1] != expected[name].shape[1] or len(found_LD) == length:
            continue
        if name == OF_TEXTS:
            fitted[name] = resize_text_positions(found_LD, length)
        elif is_square(len(found_LD) - 1) and is_square(length - 1):
            fitted[name] = resize_image_positions(found_LD, round((length - 1) ** 0.5))
        if fitted[name] is not found_LD:
            logger.info("%s is resized from %d to %d positions", name, len(found_LD), length)
    return fitted


def is_square(number: int) -> bool:
    """Return whether a number is the square of a positive integer."""
    return number > 0 and round(number**0.5) ** 2 == number


def resize_image_positions(positions_LD: Tensor, side: int) -> Tensor:
    """Resize the grid after the first position to side x side, by a bicubic kernel that averages where it shrinks.

    Source: open_clip's `resize_pos_embed`; the idea is that of Dosovitskiy et al. 2021, section 3.2.
    """
    first_1D, grid_LD = positions_LD[:1], positions_LD[1:]
    G, D = round(len(grid_LD) ** 0.5), grid_LD.shape[1]
    grid_1DGG = grid_LD.reshape(1, G, G, D).permute(0, 3, 1, 2)
    grid_1DGG = F.interpolate(grid_1DGG, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([first_1D, grid_1DGG.permute(0, 2, 3, 1).reshape(side * side, D)])


def resize_text_positions(positions_LD: Tensor, length: int) -> Tensor:
    """Return the first positions for a shorter context, and linearly interpolated ones for a longer.

    A text that fits into the shorter context keeps its features, since the tower is causal. Source of the interpolation:
    open_clip's `resize_text_pos_embed`, which also interpolates to a shorter one.
    """
    if length <= len(positions_LD):
        return positions_LD[:length].clone()
    return F.interpolate(positions_LD.T[None], size=length, mode="linear", align_corners=False)[0].T.contiguous()
