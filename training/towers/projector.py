"""The layers that training adds to a pretrained tower: from its feature to the space that images and texts share.

Legend: B batch, W width of the feature, D embed_dim.
"""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from training.model_config import ProjectedConfig


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
