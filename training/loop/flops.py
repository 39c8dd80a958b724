"""Floating-point operations of a forward pass, counted by torch on shapes alone: no weights, no data, no arithmetic."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from training.config import ModelConfig
from training.model.clip import CLIP


class Flops(NamedTuple):
    """Of one sample; a multiplication and an addition are two. Matrix products and convolutions, as is the custom."""

    image: int
    """Of one picture."""
    text: int
    """Of one text."""


@lru_cache(maxsize=64)
def forward_flops(config: ModelConfig, tokens: int | None = None) -> Flops:
    """What one picture and one text cost. A training step without recomputation costs three times as much.

    Args:
        config: the model.
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
