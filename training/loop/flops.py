"""Floating-point operations of a forward pass, counted by torch on shapes alone: no weights, no data, no arithmetic."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from training.config import ModelConfig
from training.model.clip import CLIP


class Flops(NamedTuple):
    """Operations of one sample in matrix products and convolutions; a multiplication and an addition are two."""

    image: int
    """Operations of one image."""
    text: int
    """Operations of one text."""


@lru_cache(maxsize=64)
def forward_flops(config: ModelConfig, tokens: int | None = None) -> Flops:
    """Count the operations of one image and one text. A training step without recomputation costs three times as much.

    Args:
        tokens: length of the text; None: the context length.
    """
    side = config.vision_cfg.image_size
    with torch.device("meta"), torch.no_grad():
        model = CLIP(config).eval()
        image, text = FlopCounterMode(display=False), FlopCounterMode(display=False)
        with image:
            model.encode_image(torch.empty(1, 3, side, side))
        with text:
            model.encode_text(torch.zeros(1, tokens or config.text_cfg.context_length, dtype=torch.int64))
    return Flops(image.get_total_flops(), text.get_total_flops())
