"""Vision transformers of timm's names, read at their class token, without their last layer.

Source: Dosovitskiy et al. 2021; the gains of branches: Touvron et al. 2021 (CaiT), as DINOv2 has them.
Legend: B batch, L tokens, W width, H heads, K width of a head, S side of an image.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plugins.towers.networks.pooling import pool_grid
from training.backbones import find_backbone
from training.model.towers import Attention, Network
from training.model_config import BackboneConfig

EPS = 1e-6


class Gain(nn.Module):
    """A gain for each channel."""

    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x_BLW: Tensor) -> Tensor:
        """Multiply each channel."""
        return x_BLW * self.gamma


class ViTAttention(Attention):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BLW: Tensor) -> Tensor:
        """Attend from each token to all."""
        B, L, W = x_BLW.shape
        q_BHLK, k_BHLK, v_BHLK = (
            self.qkv(x_BLW).view(B, L, 3, self.heads, W // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        )
        y_BHLK = F.scaled_dot_product_attention(q_BHLK, k_BHLK, v_BHLK)
        return self.proj(y_BHLK.transpose(1, 2).reshape(B, L, W))


class ViTPerceptron(nn.Module):
    """The two-layer perceptron of a block."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x_BLW: Tensor) -> Tensor:
        """Apply it to each token."""
        return self.fc2(F.gelu(self.fc1(x_BLW)))


class ViTBlock(nn.Module):
    """A pre-norm block."""

    def __init__(self, width: int, heads: int, *, has_layer_scale: bool):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = ViTAttention(width, heads)
        self.ls1 = Gain(width) if has_layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = ViTPerceptron(width)
        self.ls2 = Gain(width) if has_layer_scale else nn.Identity()

    def forward(self, x_BLW: Tensor) -> Tensor:
        """Add attention, then the perceptron, each to its input."""
        x_BLW = x_BLW + self.ls1(self.attn(self.norm1(x_BLW)))
        return x_BLW + self.ls2(self.mlp(self.norm2(x_BLW)))


class PatchEmbedding(nn.Module):
    """The convolution of the patches."""

    def __init__(self, width: int, patch_size: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, patch_size)

    def forward(self, images_B3SS: Tensor) -> Tensor:
        """Map (B, 3, S, S) to (B, L, W)."""
        return self.proj(images_B3SS).flatten(2).transpose(1, 2)


class ViT(Network):
    """Images to features: the class token of the last block, after the means over the patches of other blocks."""

    def __init__(
        self, *, image_size: int, patch_size: int, width: int, layers: int, heads: int, has_layer_scale: bool = False
    ):
        super().__init__()
        self.patch_embed = PatchEmbedding(width, patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, (image_size // patch_size) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(ViTBlock(width, heads, has_layer_scale=has_layer_scale) for _ in range(layers)))
        self.norm = nn.LayerNorm(width, eps=EPS)
        nn.init.normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, images_B3SS: Tensor, stages: tuple[int, ...] = (), grid: int = 1) -> Tensor:
        """Return features (B, X): of the blocks in `stages`, counted from 1, over a grid, then of the class token."""
        patches_BLW = self.patch_embed(images_B3SS)
        start_B1W = self.cls_token.to(patches_BLW.dtype).expand(patches_BLW.shape[0], -1, -1)
        x_BLW = torch.cat([start_B1W, patches_BLW], dim=1) + self.pos_embed.to(patches_BLW.dtype)
        found = []
        for number, block in enumerate(self.blocks, 1):
            x_BLW = block(x_BLW)
            found += [_pool_patches(x_BLW[:, 1:], grid)] if number in stages else []
        end_BW = self.norm(x_BLW[:, 0])
        return torch.cat([*found, end_BW], dim=1) if found else end_BW

    def groups(self) -> list[list[nn.Parameter]]:
        """Return the parameters in groups from the input on."""
        *inner, last = self.blocks
        first = [*self.patch_embed.parameters(), self.cls_token, self.pos_embed]
        return [first, *(list(b.parameters()) for b in inner), [*last.parameters(), *self.norm.parameters()]]


def _pool_patches(x_BLW: Tensor, grid: int) -> Tensor:
    """Return the means (B, W x grid x grid) of patches over the cells of a grid."""
    side = round(x_BLW.shape[1] ** 0.5)
    return x_BLW.mean(dim=1) if grid == 1 else pool_grid(x_BLW.mT.unflatten(2, (side, side)), grid)


def build(config: BackboneConfig) -> ViT:
    """Build the network that a config names, with random weights."""
    found = find_backbone(config.architecture)
    return ViT(
        image_size=config.image_size,
        patch_size=found.patch_size,
        width=found.width,
        layers=found.layers,
        heads=found.heads,
        has_layer_scale=found.has_layer_scale,
    )
