"""Floating-point operations, counted by torch on shapes alone: no weights, no data, no arithmetic.

They are operations of matrix products and convolutions; a multiplication and an addition are two.
"""

import re
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from training.model.clip import CLIP
from training.model.packing import PackedTexts, pack_texts
from training.model_config import ModelConfig


class StepFlops(NamedTuple):
    """Operations of a step, forward and backward, without those that a lack of memory repeats."""

    pair: float
    """Operations of one image, and of the projection of its text."""
    token: float
    """Operations of one token, outside of attention."""
    pair_of_tokens: float
    """Operations of attention for two tokens of a text; under the causal mask half of the pairs are computed."""

    def total(self, pairs: int, tokens: int, padded: int) -> float:
        """Return the operations of a step.

        Args:
            padded: texts x squared length of the longest, to which attention is padded.
        """
        return pairs * self.pair + tokens * self.token + padded / 2 * self.pair_of_tokens


def step_flops(config: ModelConfig, *, kept: int | None = None, image_locked: bool = False) -> StepFlops:
    """Count the operations that a training step does, on the packed texts that it takes.

    Args:
        kept: patches of an image that are left by patch dropout; None: all.
        image_locked: the image tower has no backward pass.
    """
    with torch.device("meta"):
        model = CLIP(config)
    if image_locked:
        model.lock_image()
    side, third = config.vision_cfg.image_size, config.text_cfg.context_length // 3
    images = torch.empty(2, 3, side, side, device="meta")  # two, since batch normalisation needs them
    kept_BK = None if kept is None else torch.zeros(2, kept, dtype=torch.int64, device="meta")
    with FlopCounterMode(display=False) as counter:
        features = model.encode_image(images, kept_BK)
        if features.requires_grad:
            features.sum().backward()
    # A text of l tokens costs projection + token l + pair_of_tokens l^2.
    one, two, three = (_text_flops(model, length) for length in (third, 2 * third, 3 * third))
    pair_of_tokens = (three - 2 * two + one) / (2 * third**2)
    token = (two - one) / third - 3 * third * pair_of_tokens
    projection = one - token * third - pair_of_tokens * third**2
    return StepFlops(counter.get_total_flops() / 2 + projection, token, pair_of_tokens)


def _text_flops(model: CLIP, length: int) -> float:
    tokens_BL = torch.arange(length)[None]
    texts = PackedTexts(*(tensor.to("meta") for tensor in pack_texts(tokens_BL)))
    with FlopCounterMode(display=False) as counter:
        model.encode_text(texts).sum().backward()
    return counter.get_total_flops()


PEAKS = {
    "B200": (2250e12, 75e12),
    "H200 NVL": (835.5e12, 60e12),
    "H200": (989.5e12, 67e12),
    "H100 NVL": (835.5e12, 60e12),
    "H100 PCIe": (756e12, 51e12),
    "H100": (989.5e12, 67e12),
    "A100": (312e12, 19.5e12),
    "A10G": (70e12, 35e12),
    "A10": (125e12, 31.2e12),
    "L40S": (362e12, 91.6e12),
    "L40": (181e12, 90.5e12),
    "L4": (121e12, 30.3e12),
}
"""Dense bf16 and fp32 (TF32 off) FLOP/s by the words of a card's name; SXM where none is named. Source: the NVIDIA data
sheets "H100 Tensor Core GPU", "H200 Tensor Core GPU", "A100 Tensor Core GPU", "A10 Tensor Core GPU", "A10G", "L40",
"L40S", "L4" and "Blackwell HGX B200" (an eighth of the board). Those of sparse bf16 are halved."""


def find_peak(device: torch.device, precision: str) -> float | None:
    """Return the peak FLOP/s of a device in bf16 or fp32; None if it is not known, as for a CPU or a part of a card."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    if "MIG" in card:
        return None
    found = next((peaks for words, peaks in PEAKS.items() if re.search(rf"\b{words}\b", card)), None)
    return None if found is None else found[precision == "fp32"]
