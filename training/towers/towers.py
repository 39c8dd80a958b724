"""The towers of a model that are not CLIP's own: a pretrained network, and a projector on its feature.

Legend: B batch, S side of an image, L tokens, W width of the network's feature, D embed_dim.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.backbones import find_backbone
from training.model_config import BackboneConfig, BertConfig, ProjectedConfig, WordVectorsConfig
from training.towers.bert import Bert
from training.towers.efficientnet import EfficientNetLite
from training.towers.padded_texts import PaddedTexts
from training.towers.resnet import ResNet
from training.towers.vit import ViT


class Projector(nn.Module):
    """A layer norm, if it has one, then linear layers with a GELU between any two. Source: arXiv 2409.19425.

    Without any, the output is the feature, normalised if it has the norm, and `output_dim` is its width.
    """

    def __init__(self, config: ProjectedConfig, output_dim: int):
        super().__init__()
        width, layers = config.feature_width, config.projector_layers
        self.norm = nn.LayerNorm(width) if config.projector_norm else nn.Identity()
        widths = [width, *[config.projector_width] * (layers - 1), output_dim] if layers else [width]
        self.layers = nn.ModuleList(nn.Linear(*ends) for ends in pairwise(widths))
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)

    def forward(self, features_BW: Tensor) -> Tensor:
        """Map (B, W) to (B, D)."""
        x_BW = self.norm(features_BW)
        for number, layer in enumerate(self.layers):
            x_BW = layer(x_BW if number == 0 else F.gelu(x_BW))
        return x_BW


class WordVectors(nn.Module):
    """A table of vectors; row 0 is padding, and so is each token that has no vector."""

    def __init__(self, *, vocab_size: int, width: int):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width, padding_idx=0)
        nn.init.normal_(self.embedding.weight[1:], std=0.02)

    def forward(self, ids_BL: Tensor) -> Tensor:
        """Return the means (B, W); 0 for a text without a vector."""
        is_real_BL1 = (ids_BL != 0).unsqueeze(2)
        sums_BW = (self.embedding(ids_BL) * is_real_BL1).sum(dim=1)
        return sums_BW / is_real_BL1.sum(dim=1).clamp(min=1)

    def groups(self) -> list[list[nn.Parameter]]:
        """Return the parameters in groups from the input on."""
        return [list(self.embedding.parameters())]


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
        self.encoder, self.stages = build_backbone(config), config.stages
        self.feature_width = config.feature_width
        self.projector = Projector(config, embed_dim)
        pairs = list(zip(mean, std, config.mean, config.std, strict=True))
        self.register_buffer("gain", torch.tensor([ours / theirs for _, ours, _, theirs in pairs]).view(3, 1, 1))
        shifts = [(ours - theirs) / their_std for ours, _, theirs, their_std in pairs]
        self.register_buffer("shift", torch.tensor(shifts).view(3, 1, 1))

    def encode(self, images_B3SS: Tensor) -> Tensor:
        """Return the network's features (B, W) of normalised pixels."""
        return self.encoder(images_B3SS * self.gain + self.shift, self.stages)

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
