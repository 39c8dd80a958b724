"""The towers of a model that are not CLIP's own: a pretrained network, and a projector on its feature.

The networks are those of plugins (`pairmill.networks`): a function of the tower's config, which
returns a Network.

Legend: B batch, S side of an image, L tokens, W width of the network's feature, D embed_dim, X tokens or numbers of a
feature.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dataops import plugins
from training.model.packing import split_rows
from training.model_config import BackboneConfig, PretrainedTextConfig, ProjectedConfig


class Network(nn.Module):
    """A pretrained network: pixels (B, 3, S, S), or token ids (B, L), to features (B, W)."""

    def groups(self) -> list[list[nn.Parameter]]:
        """Return the parameters in groups from the input on."""
        raise NotImplementedError

    def fold(self, dtype: torch.dtype = torch.float32) -> "Network":
        """Return a network for inference alone that computes the same, up to rounding, in less time; else this one.

        Args:
            dtype: of its weights; with bfloat16, autocast has fewer of them to convert.
        """
        return self

    def shift_outputs(self, shift_W: Tensor) -> None:
        """Add a vector to each feature by the network's own parameters; for texts only."""
        raise NotImplementedError


class Attention(nn.Module):
    """A module that attends, of inputs (B, L, W); the operations of its weights are those of its linear layers."""


class Projector(nn.Module):
    """A layer norm, if it has one, then linear layers with a GELU between any two. Source: arXiv 2409.19425.

    Without any, the output is the feature, normalised if it has the norm, and `output_dim` is its
    width.
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


class PaddedTexts(NamedTuple):
    """The texts of a batch for a pretrained tower: token ids with padding, or features that were computed before.

    A tuple of tensors, as PackedTexts is, which DistributedDataParallel takes as it is.
    """

    rows_BX: Tensor
    """Token ids (B, L), padded with 0, or features (B, W)."""
    ends_B: Tensor
    """Number of tokens of each text, without padding; 0 for features."""
    slots_T: Tensor
    """Index of each token in the flattened batch; empty for features."""

    @property
    def token_count(self) -> int:
        """Number of tokens of all texts."""
        return len(self.slots_T)

    @property
    def padded_count(self) -> int:
        """Texts x squared length of the longest, to which attention is padded; 0 for features."""
        return 0 if self.rows_BX.is_floating_point() else self.rows_BX.numel() * self.rows_BX.shape[1]


class BackboneTower(nn.Module):
    """An image tower.

    Args:
        mean, std: of the channels of its inputs, which it changes to those that the network expects.
    """

    gain: Tensor
    shift: Tensor

    def __init__(self, config: BackboneConfig, embed_dim: int, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.encoder: Network = plugins.find("networks", config.network)(config)
        self.stages, self.grid = config.stages, config.grid
        self.feature_width = config.feature_width
        self.projector = Projector(config, embed_dim)
        pairs = list(zip(mean, std, config.mean, config.std, strict=True))
        self.register_buffer("gain", torch.tensor([ours / theirs for _, ours, _, theirs in pairs]).view(3, 1, 1))
        shifts = [(ours - theirs) / their_std for ours, _, theirs, their_std in pairs]
        self.register_buffer("shift", torch.tensor(shifts).view(3, 1, 1))

    def encode(self, images_B3SS: Tensor, encoder: Network | None = None) -> Tensor:
        """Return the network's features (B, W) of normalised pixels; `encoder` in place of the network if given."""
        return (encoder or self.encoder)(images_B3SS * self.gain + self.shift, self.stages, self.grid)

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, D), not normalised, of pixels (B, 3, S, S), or of the network's features (B, W)."""
        return self.projector(images if images.ndim == 2 else self.encode(images))


class PretrainedTextTower(nn.Module):
    """A text tower."""

    def __init__(self, config: PretrainedTextConfig, embed_dim: int):
        super().__init__()
        self.encoder: Network = plugins.find("networks", config.network)(config)
        self.feature_width = config.feature_width
        self.projector = Projector(config, embed_dim)

    def encode(self, ids_BL: Tensor) -> Tensor:
        """Return the network's features (B, W) of token ids."""
        return self.encoder(ids_BL)

    def forward(self, texts: Tensor | PaddedTexts) -> Tensor:
        """Return features (B, D), not normalised, of token ids (B, L), or of the network's features (B, W)."""
        rows = texts.rows_BX if isinstance(texts, PaddedTexts) else texts
        return self.projector(rows if rows.is_floating_point() else self.encode(rows))


def group_tower(tower: BackboneTower | PretrainedTextTower) -> list[list[nn.Parameter]]:
    """Return the parameters of a tower in groups from the input on; the last is the projector."""
    return [*tower.encoder.groups(), list(tower.projector.parameters())]


def pad_chunks(rows_BX: Tensor, rows: int | None) -> list[PaddedTexts]:
    """Return `rows` texts at a time; None: all together.

    Args:
        rows_BX: token ids or features, on the CPU.
    """
    return [_pad_texts(chunk) for chunk in split_rows(rows_BX, rows)]


def _pad_texts(rows_BX: Tensor) -> PaddedTexts:
    if rows_BX.is_floating_point():
        return PaddedTexts(rows_BX, torch.zeros(len(rows_BX), dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    lengths_B = (rows_BX != 0).sum(dim=1)
    longest = max(int(((rows_BX != 0) * torch.arange(1, rows_BX.shape[1] + 1)).max()), 1) if rows_BX.numel() else 1
    cut_BL = rows_BX[:, :longest].contiguous()
    return PaddedTexts(cut_BL, lengths_B, (cut_BL != 0).flatten().nonzero()[:, 0])
