"""EfficientNet-Lite: an EfficientNet without squeeze-and-excitation, with ReLU6. Names of parameters are timm's.

Source: Tan and Le 2019; the Lite variants: TensorFlow's models/official/efficientnet/lite.
Legend: B batch, C channels, H and W height and width.
"""

import copy
import math
from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import fuse_conv_bn_eval

from plugins.towers.networks.pooling import pool_grid
from training.backbones import LITE_CHANNELS, find_backbone, round_channels
from training.evaluation.encode import IMAGES_PER_THREAD
from training.model.towers import Network
from training.model_config import BackboneConfig

STAGES = ((1, 1, 3, 1), (2, 6, 3, 2), (2, 6, 5, 2), (3, 6, 3, 2), (3, 6, 5, 1), (4, 6, 5, 2), (1, 6, 3, 1))
"""Blocks, expansion, side of the kernel and stride of each stage of Lite0."""
STEM, HEAD = 32, 1280


class SameConv2d(nn.Conv2d):
    """A convolution that pads as TensorFlow does: with a stride, the odd pixel at the right and bottom."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', ceil(H / stride), ceil(W / stride))."""
        if torch.compiler.is_exporting():  # onnxscript 0.7 and onnxruntime 1.32 do not load a graph that pads kernels
            pads = [end for pad in reversed(self._pads(input)) for end in (pad // 2, pad - pad // 2)]
            return F.conv2d(F.pad(input, pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)
        weight, padding = self.kernel(input)
        return F.conv2d(input, weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def kernel(self, input: Tensor) -> tuple[Tensor, list[int]]:
        """Return the weights and the padding with which an ordinary convolution of the input is this one."""
        pads = self._pads(input)
        # For an odd pixel the kernel begins with a row and column of zeros, since a padded copy of all inputs costs more.
        weight = F.pad(self.weight, [end for pad in reversed(pads) for end in (pad % 2, 0)])
        return weight, [pad - pad // 2 for pad in pads]

    def _pads(self, input: Tensor) -> list[int]:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        return [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in input.shape[2:]]


def _conv(inputs: int, outputs: int, kernel: int, stride: int, groups: int, *, same: bool) -> nn.Conv2d:
    kind = SameConv2d if same and stride > 1 else nn.Conv2d
    return kind(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


class _ReLU6(nn.Module):
    def forward(self, x_BCHW: Tensor) -> Tensor:
        return F.relu6(x_BCHW, inplace=not x_BCHW.requires_grad)


class FusedConv2d(nn.Module):
    """A convolution and the ReLU6 behind it, if it has one, as oneDNN computes them best; for inference alone.

    They take one pass over the memory, with weights in oneDNN's own layout. The operations are those of torch.compile on
    a CPU, and no public ones of torch's. That of ReLU6 maps NaN to a number, so weights must be finite.
    """

    def __init__(self, conv: nn.Conv2d, activation: _ReLU6 | nn.Identity):
        super().__init__()
        self.conv, self.activation = conv, activation
        self._packed: dict[torch.Size, tuple[Tensor, Sequence[int | str]]] = {}

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H', W')."""
        conv = self.conv
        if not _can_fuse(input, conv.weight):
            return self.activation(conv(input))
        weight, padding = self._packed.get(input.shape[1:]) or self._pack(input)
        options = ("hardtanh", [0.0, 6.0], "") if isinstance(self.activation, _ReLU6) else ("none", [], "")
        rest = (padding, conv.stride, conv.dilation, conv.groups, *options)
        return torch.ops.mkldnn._convolution_pointwise(input.to(weight.dtype), weight, conv.bias, *rest)

    def _pack(self, input: Tensor) -> tuple[Tensor, Sequence[int | str]]:
        """Return weights in the layout that oneDNN has for images of this size, and the padding."""
        conv = self.conv
        weight, padding = conv.kernel(input) if isinstance(conv, SameConv2d) else (conv.weight, list(conv.padding))
        # One batch size for all: the bits of an image must not depend on how many the first batch had.
        rest = (padding, conv.stride, conv.dilation, conv.groups, [IMAGES_PER_THREAD, *input.shape[1:]])
        packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *rest)
        self._packed = {input.shape[1:]: (packed, padding)}
        return packed, padding


def _fuse(network: nn.Module) -> None:
    """Replace each convolution of a folded network, and the ReLU6 behind it, by one operation."""
    for module in list(network.modules()):
        children = list(module.named_children())
        nothing = ("", nn.Identity())
        for (name, conv), (behind, activation) in zip(children, [*children[2:], nothing, nothing], strict=False):
            if isinstance(conv, nn.Conv2d):
                is_activated = isinstance(activation, _ReLU6)
                setattr(module, name, FusedConv2d(conv, activation if is_activated else nn.Identity()))
                if is_activated:
                    setattr(module, behind, nn.Identity())


def _can_fuse(input: Tensor, weight: Tensor) -> bool:
    """Return whether oneDNN computes both, and a convolution would give the type of the weights."""
    given = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
    is_on_cpu = input.device.type == "cpu" and torch.backends.mkldnn.enabled
    return is_on_cpu and given == weight.dtype and _has_fused_operation(weight.dtype)


@cache
def _has_fused_operation(dtype: torch.dtype) -> bool:
    operations = ("_convolution_pointwise", "_reorder_convolution_weight")
    if not (torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in operations)):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


class SeparableBlock(nn.Module):
    """The first block: a convolution of each channel, and one of all channels at each position."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, *, same: bool, eps: float):
        super().__init__()
        self.has_shortcut = stride == 1 and inputs == outputs
        self.conv_dw = _conv(inputs, inputs, kernel, stride, inputs, same=same)
        self.bn1 = nn.BatchNorm2d(inputs, eps)
        self.relu1 = _ReLU6()
        self.conv_pw = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs, eps)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        out = self.bn2(self.conv_pw(self.relu1(self.bn1(self.conv_dw(x_BCHW)))))
        return out + x_BCHW if self.has_shortcut else out


class InvertedResidual(nn.Module):
    """A block that expands the channels, convolves each, and projects them."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int, *, same: bool, eps: float):
        super().__init__()
        self.has_shortcut = stride == 1 and inputs == outputs
        inner = round_channels(inputs * expansion)
        self.conv_pw = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner, eps)
        self.relu1 = _ReLU6()
        self.conv_dw = _conv(inner, inner, kernel, stride, inner, same=same)
        self.bn2 = nn.BatchNorm2d(inner, eps)
        self.relu2 = _ReLU6()
        self.conv_pwl = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs, eps)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        out = self.relu1(self.bn1(self.conv_pw(x_BCHW)))
        out = self.bn3(self.conv_pwl(self.relu2(self.bn2(self.conv_dw(out)))))
        return out + x_BCHW if self.has_shortcut else out


class EfficientNetLite(Network):
    """Images to features: the mean over all positions of the head's 1280 channels, after those of other stages."""

    def __init__(self, *, width_factor: float, depth_factor: float, same: bool):
        super().__init__()
        eps = 1e-3 if same else 1e-5
        self.conv_stem = _conv(3, STEM, 3, 2, 1, same=same)
        self.bn1 = nn.BatchNorm2d(STEM, eps)
        self.relu1 = _ReLU6()
        stages, inputs = [], STEM
        for number, ((blocks, expansion, kernel, stride), channels) in enumerate(
            zip(STAGES, LITE_CHANNELS, strict=True)
        ):
            outputs = round_channels(channels * width_factor)
            is_end = number in (0, len(STAGES) - 1)
            stage = []
            for block in range(blocks if is_end else math.ceil(blocks * depth_factor)):
                kinds = {"same": same, "eps": eps}
                first = stride if block == 0 else 1
                if number == 0:
                    stage.append(SeparableBlock(inputs, outputs, kernel, first, **kinds))
                else:
                    stage.append(InvertedResidual(inputs, outputs, expansion, kernel, first, **kinds))
                inputs = outputs
            stages.append(nn.Sequential(*stage))
        self.blocks = nn.Sequential(*stages)
        self.conv_head = nn.Conv2d(inputs, HEAD, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(HEAD, eps)
        self.relu2 = _ReLU6()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, images_B3SS: Tensor, stages: tuple[int, ...] = (), grid: int = 1) -> Tensor:
        """Return features (B, W): of `stages`, counted from 1, over a grid, then of the head."""
        x_BCHW, found = self.relu1(self.bn1(self.conv_stem(images_B3SS))), []
        for number, stage in enumerate(self.blocks, 1):
            x_BCHW = stage(x_BCHW)
            found += [pool_grid(x_BCHW, grid)] if number in stages else []
        end_BC = self.relu2(self.bn2(self.conv_head(x_BCHW))).mean(dim=(2, 3))
        return torch.cat([*found, end_BC], dim=1) if found else end_BC

    def fold(self, dtype: torch.dtype = torch.float32) -> "EfficientNetLite":
        """See Network. The convolutions hold the batch norms and ReLU6 behind them, and weights in `dtype`."""
        folded = copy.deepcopy(self).eval().requires_grad_(False)
        for module in list(folded.modules()):
            for (name, conv), (behind, norm) in pairwise(list(module.named_children())):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    setattr(module, name, fuse_conv_bn_eval(conv, norm))
                    setattr(module, behind, nn.Identity())
        is_finite = all(bool(weight.isfinite().all()) for weight in folded.parameters())
        folded = folded.requires_grad_(False).to(dtype=dtype, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if is_finite:
            _fuse(folded)
        return folded

    def groups(self) -> list[list[nn.Parameter]]:
        """Return the parameters in groups from the input on."""
        stem, head = [self.conv_stem, self.bn1], [self.conv_head, self.bn2]
        parts = [stem, *([stage] for stage in self.blocks), head]
        return [[p for module in part for p in module.parameters()] for part in parts]


def build(config: BackboneConfig) -> EfficientNetLite:
    """Build the network that a config names, with random weights."""
    found = find_backbone(config.architecture)
    same = found.pads_like_tensorflow
    return EfficientNetLite(width_factor=found.width_factor, depth_factor=found.depth_factor, same=same)
