"""Count the operations of a model from its config, without torch, for the time of a training and of an evaluation."""

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from flows.config import RunConfig
from training.backbones import find_backbone
from training.config import TrainConfig

CAPTION_TOKENS = 16
"""Tokens of a typical caption. Padding is not computed (docs/training.md)."""


def uses_gpu(config: RunConfig) -> bool:
    """Return whether training uses a GPU: by the config, else by whether this machine has NVIDIA's driver."""
    if config.train.device != "auto" or config.train.launch != "local":
        return config.train.device != "cpu"
    return shutil.which("nvidia-smi") is not None


def forward_flops(config: TrainConfig) -> float:
    """Return the FLOPs of one image and its caption in both towers of the model that a config trains."""
    return count_flops(config.load_dimensions().model_dump())


def train_flops(config: TrainConfig) -> float:
    """Return the FLOPs of a sample of a training, forward and backward, in the mean over its phases."""
    ends = [phase.until for phase in config.phases] or [1.0]
    forward = [count_flops(dimensions.model_dump()) for dimensions in config.load_phases()]
    return 3 * sum((end - start) * flops for start, end, flops in zip([0.0, *ends], ends, forward, strict=False))


def count_flops(config: Mapping[str, Any]) -> float:
    """Return the FLOPs of one image and its caption in both towers of a model config."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    if vision.get("kind") == "backbone":
        image = _backbone(vision["architecture"], vision["image_size"])
    elif isinstance(vision["layers"], list | tuple):
        image = _resnet(vision["layers"], vision["width"], vision["image_size"], config["embed_dim"])
    else:
        patches = (vision["image_size"] // vision["patch_size"]) ** 2
        image = 2 * patches * 3 * vision["patch_size"] ** 2 * vision["width"]
        image += (
            _transformer(vision["layers"], vision["width"], patches + 1, 1) + 2 * vision["width"] * config["embed_dim"]
        )
    tokens = min(CAPTION_TOKENS, text["context_length"])
    projection = 2 * text["width"] * config["embed_dim"]
    if text.get("kind") == "words":
        return image + projection
    attended = 1 if text.get("kind") == "bert" else 0.5
    return image + _transformer(text["layers"], text["width"], tokens, attended) + projection


def _transformer(layers: int, width: int, tokens: int, attended: float) -> float:
    """Return the FLOPs of all blocks.

    Args:
        attended: share of the pairs of tokens that attend to each other: half under a causal mask.
    """
    return layers * (24 * tokens * width**2 + 4 * attended * tokens**2 * width)


def _backbone(architecture: str, side: int) -> float:
    found = find_backbone(architecture)
    if found.layers:
        tokens = (side // found.patch_size) ** 2 + 1
        return 2 * tokens * 3 * found.patch_size**2 * found.width + _transformer(found.layers, found.width, tokens, 1)
    return found.gflops * 1e9 * (side / found.image_size) ** 2


def _resnet(layers: Sequence[int], width: int, size: int, embed: int) -> float:
    """Return the FLOPs of CLIP's ModifiedResNet: a stem of three convolutions, bottlenecks, attention pooling."""
    side = size // 2
    stem = (3 * width // 2 + width // 2 * width // 2 + width // 2 * width) * 9 * side**2
    side //= 2
    total, channels = float(stem), width
    for stage, blocks in enumerate(layers):
        planes = width << stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            outer = side // stride
            total += channels * planes * side**2 + 9 * planes * planes * side**2 + 4 * planes * planes * outer**2
            total += channels * 4 * planes * outer**2 if not block else 0
            channels, side = 4 * planes, outer
    tokens = side**2 + 1
    pool = tokens * 2 * channels**2 + channels**2 + channels * embed + 2 * tokens * channels
    return 2 * (total + pool)
