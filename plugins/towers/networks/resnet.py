"""ResNet-18 to ResNet-152, without their last layer. Names of parameters are timm's, which are torchvision's.

Source: He et al. 2016; the stride in the 3 x 3 convolution of a bottleneck as in torchvision.
Legend: B batch, C channels, H and W height and width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plugins.towers.networks.pooling import pool_grid
from training.backbones import find_backbone
from training.model.towers import Network
from training.model_config import BackboneConfig


class ResNetBlock(nn.Module):
    """Two convolutions of 3 x 3 with a shortcut; as a bottleneck, one of 3 x 3 between two of 1 x 1."""

    def __init__(self, inputs: int, channels: int, stride: int, *, is_bottleneck: bool):
        super().__init__()
        self.is_bottleneck = is_bottleneck
        outputs = channels * 4 if is_bottleneck else channels
        first, second = ((1, 1), (3, stride)) if is_bottleneck else ((3, stride), (3, 1))
        self.conv1 = nn.Conv2d(inputs, channels, *first, padding=first[0] // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, *second, padding=second[0] // 2, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        if is_bottleneck:
            self.conv3 = nn.Conv2d(channels, outputs, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x_BCHW)))))
        if self.is_bottleneck:
            out = self.bn3(self.conv3(F.relu(out)))
        return F.relu(out + self.downsample(x_BCHW))


class ResNet(Network):
    """Images to features: the mean over all positions of the last stage, after those of other stages."""

    def __init__(self, *, blocks: tuple[int, ...], is_bottleneck: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs, stages = 64, []
        for number, count in enumerate(blocks):
            channels, stage = 64 * 2**number, []
            for block in range(count):
                stride = 2 if block == 0 and number > 0 else 1
                stage.append(ResNetBlock(inputs, channels, stride, is_bottleneck=is_bottleneck))
                inputs = channels * 4 if is_bottleneck else channels
            stages.append(nn.Sequential(*stage))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, images_B3SS: Tensor, stages: tuple[int, ...] = (), grid: int = 1) -> Tensor:
        """Return features (B, W): of `stages`, counted from 1, over a grid, then of the last."""
        x_BCHW, found = F.max_pool2d(F.relu(self.bn1(self.conv1(images_B3SS))), 3, 2, 1), []
        for number, stage in enumerate((self.layer1, self.layer2, self.layer3, self.layer4), 1):
            x_BCHW = stage(x_BCHW)
            found += [pool_grid(x_BCHW, grid)] if number in stages else []
        end_BC = x_BCHW.mean(dim=(2, 3))
        return torch.cat([*found, end_BC], dim=1) if found else end_BC

    def groups(self) -> list[list[nn.Parameter]]:
        """Return the parameters in groups from the input on."""
        parts = ([self.conv1, self.bn1], [self.layer1], [self.layer2], [self.layer3], [self.layer4])
        return [[p for module in part for p in module.parameters()] for part in parts]


def build(config: BackboneConfig) -> ResNet:
    """Build the network that a config names, with random weights."""
    found = find_backbone(config.architecture)
    return ResNet(blocks=found.blocks, is_bottleneck=found.is_bottleneck)
