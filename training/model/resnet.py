"""CLIP's ModifiedResNet: three convolutions for a stem, average pooling for every stride, attention for the last pool.

Names of parameters are OpenAI's. Source: Radford et al. 2021, section 2.4; He et al. 2019 (ResNet-D).
Legend: B batch, C channels, H and W height and width, N positions of the attention pool, K width of a head.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut; a stride is an average pool."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(channels, channels * EXPANSION, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels * EXPANSION)
        nn.init.zeros_(self.bn3.weight)  # each block starts as its shortcut
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or in_channels != channels * EXPANSION:
            layers = [
                ("-1", nn.AvgPool2d(stride) if stride > 1 else nn.Identity()),
                ("0", nn.Conv2d(in_channels, channels * EXPANSION, 1, bias=False)),
                ("1", nn.BatchNorm2d(channels * EXPANSION)),
            ]
            self.downsample = nn.Sequential(OrderedDict(layers))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, 4 channels, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x_BCHW)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(self.avgpool(out)))
        return F.relu(out + self.downsample(x_BCHW), inplace=True)


class AttentionPool2d(nn.Module):
    """One step of attention, whose query is the mean over all positions."""

    def __init__(self, side: int, channels: int, heads: int, output_dim: int):
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(side**2 + 1, channels).div_(channels**0.5))
        self.q_proj = nn.Linear(channels, channels)
        self.k_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.c_proj = nn.Linear(channels, output_dim)
        for layer in (self.q_proj, self.k_proj, self.v_proj, self.c_proj):
            nn.init.normal_(layer.weight, std=channels**-0.5)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, output_dim)."""
        x_BNC = x_BCHW.flatten(2).transpose(1, 2)
        x_BNC = torch.cat([x_BNC.mean(dim=1, keepdim=True), x_BNC], dim=1)
        x_BNC = x_BNC + self.positional_embedding.to(x_BNC.dtype)
        B, _, C = x_BNC.shape
        shape = (B, -1, self.heads, C // self.heads)
        q_BH1K = self.q_proj(x_BNC[:, :1]).view(shape).transpose(1, 2)
        k_BHNK = self.k_proj(x_BNC).view(shape).transpose(1, 2)
        v_BHNK = self.v_proj(x_BNC).view(shape).transpose(1, 2)
        x_BH1K = F.scaled_dot_product_attention(q_BH1K, k_BHNK, v_BHNK)
        return self.c_proj(x_BH1K.transpose(1, 2).reshape(B, C))


class ModifiedResNet(nn.Module):
    """Images to features: a stem at a quarter of the side, four stages, attention pool at a 32nd of the side."""

    def __init__(self, *, layers: tuple[int, ...], width: int, heads: int, image_size: int, output_dim: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.avgpool = nn.AvgPool2d(2)
        self.layer1 = _stage(width, width, layers[0], stride=1)
        self.layer2 = _stage(width * 4, width * 2, layers[1], stride=2)
        self.layer3 = _stage(width * 8, width * 4, layers[2], stride=2)
        self.layer4 = _stage(width * 16, width * 8, layers[3], stride=2)
        self.attnpool = AttentionPool2d(image_size // 32, width * 32, heads, output_dim)

    def forward(self, images_B3SS: Tensor) -> Tensor:
        """Return features (B, output_dim), not normalised."""
        x_BCHW = F.relu(self.bn1(self.conv1(images_B3SS)), inplace=True)
        x_BCHW = F.relu(self.bn2(self.conv2(x_BCHW)), inplace=True)
        x_BCHW = self.avgpool(F.relu(self.bn3(self.conv3(x_BCHW)), inplace=True))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x_BCHW = stage(x_BCHW)
        return self.attnpool(x_BCHW)


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(in_channels, channels, stride)
    return nn.Sequential(first, *(Bottleneck(channels * EXPANSION, channels) for _ in range(blocks - 1)))
