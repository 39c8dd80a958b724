"""Image backbones by timm's names: what their names state. No torch here.

Source: timm 1.0, models/efficientnet.py, models/resnet.py, models/vision_transformer.py and models/deit.py.
"""

import re
from dataclasses import dataclass
from typing import Literal

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Mean and standard deviation of the channels that a backbone was trained with."""
_LITE = {
    0: (1.0, 1.0, 224), 1: (1.0, 1.1, 240), 2: (1.1, 1.2, 260), 3: (1.2, 1.4, 300), 4: (1.4, 1.8, 380),
}  # fmt: skip
"""Factors of channels and blocks, and side of the input."""
LITE_CHANNELS = (16, 24, 40, 80, 112, 192, 320)
"""Channels of the stages of Lite0."""
_RESNETS = {
    18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3),
}  # fmt: skip
"""Blocks of each stage."""
_VITS = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
NAMES = (
    "efficientnet_lite0 to 4, tf_efficientnet_lite0 to 4, resnet18, 34, 50, 101 and 152, and vision transformers such as "
    "vit_small_patch16_224, deit_small_patch16_224 or vit_small_patch14_dinov2"
)


@dataclass(frozen=True)
class Backbone:
    """The dimensions of a backbone."""

    family: Literal["efficientnet_lite", "resnet", "vit"]
    image_size: int
    """Side of the input that it was trained on, in pixels."""
    width: int
    """Numbers of its feature."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    blocks: tuple[int, ...] = ()
    """Blocks of a ResNet's four stages."""
    is_bottleneck: bool = False
    """Whether a ResNet's blocks are 1x1, 3x3, 1x1 convolutions; else two of 3x3."""
    width_factor: float = 1.0
    """Factor of the channels of an EfficientNet."""
    depth_factor: float = 1.0
    """Factor of the blocks of an EfficientNet."""
    pads_like_tensorflow: bool = False
    """Whether a stride pads more at the right and bottom, with the epsilon of TensorFlow's batch norm."""
    patch_size: int = 0
    """Side of a transformer's patch, in pixels."""
    layers: int = 0
    """Blocks of a transformer."""
    heads: int = 0
    """Attention heads of a transformer."""
    has_layer_scale: bool = False
    """Whether each branch of a transformer's block has a gain for each channel."""

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Channels of the output of each stage: those of a ResNet or EfficientNet, or the blocks of a transformer."""
        if self.family == "efficientnet_lite":
            return tuple(round_channels(channels * self.width_factor) for channels in LITE_CHANNELS)
        if self.family == "resnet":
            return tuple(64 * 2**number * (4 if self.is_bottleneck else 1) for number in range(len(self.blocks)))
        return (self.width,) * self.layers


def round_channels(channels: float) -> int:
    """Return the nearest multiple of 8, at least 8, that is not below 90% of a number."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def find_backbone(name: str) -> Backbone:
    """Return the dimensions that a name of timm's states; of its tag, after a dot, only `dino` counts: other mean and std.

    Raises: ValueError for any other name; lists the known ones.
    """
    base, _, tag = name.partition(".")
    if found := re.fullmatch(r"(tf_)?efficientnet_lite([0-4])", base):
        width, depth, side = _LITE[int(found[2])]
        like_tensorflow = found[1] is not None
        mean, std = HALF if like_tensorflow else IMAGENET
        return Backbone(
            "efficientnet_lite", side, 1280, mean, std,
            width_factor=width, depth_factor=depth, pads_like_tensorflow=like_tensorflow,
        )  # fmt: skip
    if (found := re.fullmatch(r"resnet(\d+)", base)) and int(found[1]) in _RESNETS:
        deep = int(found[1]) >= 50
        blocks = _RESNETS[int(found[1])]
        return Backbone("resnet", 224, 2048 if deep else 512, *IMAGENET, blocks, is_bottleneck=deep)
    if found := re.fullmatch(r"(vit|deit)_(tiny|small|base|large)_patch(\d{1,2})_(\d{2,4}|dinov2)", base):
        width, layers, heads = _VITS[found[2]]
        is_dino = found[4] == "dinov2"
        mean, std = IMAGENET if found[1] == "deit" or is_dino or tag == "dino" else HALF
        patch, side = int(found[3]), 518 if is_dino else int(found[4])
        return Backbone(
            "vit", side, width, mean, std,
            patch_size=patch, layers=layers, heads=heads, has_layer_scale=is_dino,
        )  # fmt: skip
    raise ValueError(f"architecture: {name!r} is not known; the names are timm's {NAMES}")
