"""The towers of a model that are not CLIP's own: a pretrained network, and a projector on its feature.

Legend: B batch, S side of an image, L tokens, W width of the network's feature, D embed_dim.
"""

from typing import Any

import torch
from torch import Tensor, nn

from training.backbones import find_backbone
from training.model_config import BackboneConfig, BertConfig, WordVectorsConfig
from training.towers.bert import Bert
from training.towers.efficientnet import EfficientNetLite
from training.towers.padded_texts import PaddedTexts
from training.towers.projector import Projector
from training.towers.resnet import ResNet
from training.towers.vit import ViT
from training.towers.words import WordVectors

Encoder = Bert | WordVectors | EfficientNetLite | ResNet | ViT


class BackboneTower(nn.Module):
    """An image tower.

    Args:
        mean, std: of the channels of its inputs, which it changes to those that the network expects.
    """

    gain: Tensor
    shift: Tensor

    def __init__(self, config: BackboneConfig, embed_dim: int, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.encoder = build_backbone(config)
        self.feature_width = config.feature_width
        self.projector = Projector(config, embed_dim)
        pairs = list(zip(mean, std, config.mean, config.std, strict=True))
        self.register_buffer("gain", torch.tensor([ours / theirs for _, ours, _, theirs in pairs]).view(3, 1, 1))
        shifts = [(ours - theirs) / their_std for ours, _, theirs, their_std in pairs]
        self.register_buffer("shift", torch.tensor(shifts).view(3, 1, 1))

    def encode(self, images_B3SS: Tensor) -> Tensor:
        """Return the network's features (B, W) of normalised pixels."""
        return self.encoder(images_B3SS * self.gain + self.shift)

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, D), not normalised, of pixels (B, 3, S, S), or of the network's features (B, W)."""
        return self.projector(images if images.ndim == 2 else self.encode(images))


class PretrainedTextTower(nn.Module):
    """A text tower."""

    def __init__(self, config: BertConfig | WordVectorsConfig, embed_dim: int):
        super().__init__()
        ignored = {"kind", "projector_layers", "projector_norm", "projector_width"}
        if isinstance(config, WordVectorsConfig):
            self.encoder: Bert | WordVectors = WordVectors(**config.model_dump(exclude={*ignored, "context_length"}))
        else:
            self.encoder = Bert(**config.model_dump(exclude=ignored))
        self.feature_width = config.feature_width
        self.projector = Projector(config, embed_dim)

    def encode(self, ids_BL: Tensor) -> Tensor:
        """Return the network's features (B, W) of token ids."""
        return self.encoder(ids_BL)

    def forward(self, texts: Tensor | PaddedTexts) -> Tensor:
        """Return features (B, D), not normalised, of token ids (B, L), or of the network's features (B, W)."""
        rows = texts.rows_BX if isinstance(texts, PaddedTexts) else texts
        return self.projector(rows if rows.is_floating_point() else self.encode(rows))


def build_backbone(config: BackboneConfig) -> EfficientNetLite | ResNet | ViT:
    """Build the network that a config names, with random weights."""
    found = find_backbone(config.architecture)
    if found.family == "efficientnet_lite":
        factors: dict[str, Any] = {"width_factor": found.width_factor, "depth_factor": found.depth_factor}
        return EfficientNetLite(**factors, same=found.pads_like_tensorflow)
    if found.family == "resnet":
        return ResNet(blocks=found.blocks, is_bottleneck=found.is_bottleneck)
    return ViT(
        image_size=config.image_size,
        patch_size=found.patch_size,
        width=found.width,
        layers=found.layers,
        heads=found.heads,
        has_layer_scale=found.has_layer_scale,
    )


def group_tower(tower: BackboneTower | PretrainedTextTower) -> list[list[nn.Parameter]]:
    """Return the parameters of a tower in groups from the input on; the last is the projector."""
    return [*tower.encoder.groups(), list(tower.projector.parameters())]
