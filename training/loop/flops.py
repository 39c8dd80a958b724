"""Floating-point operations of a step, computed from the shapes of the model and from which of its parameters train.

They are operations of matrix products and convolutions; a multiplication and an addition are two. A weight costs its
forward pass once, once more for its own gradient, and once more for the gradient of its input if that is needed: if it,
or a layer before it, trains. Torch's own counter, which the tests compare with this, takes a second and a half.
"""

import re
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from training.model.clip import CLIP
from training.model.resnet import Bottleneck, ModifiedResNet
from training.model.towers import Attention, BackboneTower, PretrainedTextTower, Projector
from training.model.transformer import VisionTransformer


class StepFlops(NamedTuple):
    """Operations of a step, forward and backward, without those that a lack of memory repeats."""

    pair: float
    """Operations of one image, and of the projection of its text."""
    token: float
    """Operations of one token, outside of attention."""
    pair_of_tokens: float
    """Operations of attention for two tokens of a text; under the causal mask half of the pairs are computed."""

    def total(self, pairs: int, tokens: int, padded: int) -> float:
        """Return the operations of a step.

        Args:
            padded: texts x squared length of the longest, to which attention is padded.
        """
        return pairs * self.pair + tokens * self.token + padded / 2 * self.pair_of_tokens


def count_step_flops(model: CLIP, kept: int | None = None, *, has_image_features: bool = False) -> StepFlops:
    """Return the operations that a training step does, on the packed texts that it takes.

    Args:
        model: its frozen parameters have `requires_grad` off.
        kept: patches of an image that are left by patch dropout; None: all.
        has_image_features: the features of a frozen image tower were computed before.
    """
    visual, side = model.visual, model.config.vision_cfg.image_size
    assert isinstance(visual, VisionTransformer | ModifiedResNet | BackboneTower)
    if isinstance(visual, BackboneTower):
        image = _count_image_tower(visual, side, is_cached=has_image_features)
    else:
        image = _count_resnet(visual, side) if isinstance(visual, ModifiedResNet) else _count_vit(visual, side, kept)
    if model.text is not None:
        projection, token, pair_of_tokens = _count_text_tower(model.text)
        return StepFlops(image + projection, token, pair_of_tokens)
    trains = _trains(model.token_embedding, model.positional_embedding)
    token, pair_of_tokens, trains = _count_blocks(model.transformer.resblocks, trains=trains)
    trains |= _trains(model.ln_final)
    return StepFlops(image + _count(model.text_projection, trains=trains), token, pair_of_tokens)


def _trains(*parts: nn.Module | Tensor) -> bool:
    return any(
        part.requires_grad if isinstance(part, Tensor) else any(p.requires_grad for p in part.parameters())
        for part in parts
    )


def _count(*weights: Tensor, trains: bool) -> float:
    """Return the operations of weights that each multiply one position.

    Args:
        trains: a layer before them trains.
    """
    return sum(2 * weight.numel() * (1 + weight.requires_grad + trains) for weight in weights)


def _count_attention(width: int, *, trains: bool) -> float:
    """Return the operations of attention for two tokens: two products, and two more for the gradient of each."""
    return 4 * width * (3 if trains else 1)


def _count_blocks(blocks: nn.ModuleList, *, trains: bool) -> tuple[float, float, bool]:
    """Return the operations of a token, those of two tokens in attention, and whether a layer up to the last trains."""
    token = pair = 0.0
    for block in blocks:
        trains |= _trains(block)
        weights = [weight for weight in block.parameters() if weight.ndim == 2]
        token += _count(*weights, trains=trains)
        pair += _count_attention(weights[0].shape[1], trains=trains)
    return token, pair, trains


def _count_vit(visual: VisionTransformer, image_size: int, kept: int | None) -> float:
    patches = (image_size // visual.conv1.kernel_size[0]) ** 2
    tokens = (patches if kept is None else kept) + 1
    pixels = patches * _count(visual.conv1.weight, trains=False)
    trains = _trains(visual.conv1, visual.class_embedding, visual.positional_embedding, visual.ln_pre)
    token, pair, trains = _count_blocks(visual.transformer.resblocks, trains=trains)
    trains |= _trains(visual.ln_post)
    return pixels + tokens * token + tokens**2 * pair + _count(visual.proj, trains=trains)


def _count_resnet(visual: ModifiedResNet, image_size: int) -> float:
    pool = visual.attnpool
    last = (image_size // 32) ** 2
    positions = last * 16**2  # after the stem's stride of 2; the pool's positions are a 32nd of the image's side apart
    total, trains = positions * _count(visual.conv1.weight, trains=False), _trains(visual.conv1, visual.bn1)
    for convolution, normalisation in ((visual.conv2, visual.bn2), (visual.conv3, visual.bn3)):
        total += positions * _count(convolution.weight, trains=trains)
        trains |= _trains(convolution, normalisation)
    positions //= 4
    for block in chain(visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        assert isinstance(block, Bottleneck)
        before, after = positions, positions // (4 if isinstance(block.avgpool, nn.AvgPool2d) else 1)
        shortcut = [weight for weight in block.downsample.parameters() if weight.ndim == 4]
        total += before * _count(block.conv1.weight, trains=trains) + after * _count(*shortcut, trains=trains)
        trains |= _trains(block)
        total += before * _count(block.conv2.weight, trains=trains) + after * _count(block.conv3.weight, trains=trains)
        positions = after
    trains |= _trains(pool)
    total += _count(pool.q_proj.weight, pool.c_proj.weight, trains=trains)
    total += (last + 1) * _count(pool.k_proj.weight, pool.v_proj.weight, trains=trains)
    return total + (last + 1) * _count_attention(pool.q_proj.in_features, trains=trains)


def _count_image_tower(tower: BackboneTower, side: int, *, is_cached: bool) -> float:
    """Return the operations of an image, by one that passes through the network.

    Args:
        side: of the input, in pixels.
        is_cached: the network's features were computed before.
    """
    operations, trains = (0.0, False) if is_cached else _count_network(tower, side)
    return operations + _count_projector(tower.projector, trains=trains)


def _count_text_tower(tower: PretrainedTextTower) -> tuple[float, float, float]:
    """Return the operations of a text's projector, of a token, and of two tokens in attention.

    The last are doubled, since the caller counts half of the pairs, as under a causal mask.
    """
    encoder = tower.encoder
    if not isinstance(blocks := getattr(encoder, "blocks", None), nn.ModuleList):  # a table of vectors
        return _count_projector(tower.projector, trains=_trains(encoder)), 0.0, 0.0
    trains = encoder.get_parameter("token_embedding.weight").requires_grad
    token, pair, trains = _count_blocks(blocks, trains=trains)
    return _count_projector(tower.projector, trains=trains), token, 2 * pair


def _count_projector(projector: Projector, *, trains: bool) -> float:
    total, trains = 0.0, trains or _trains(projector.norm)
    for layer in projector.layers:
        weight = layer.get_parameter("weight")
        total += _count(weight, trains=trains)
        trains |= weight.requires_grad
    return total


def _count_network(tower: BackboneTower, side: int) -> tuple[float, bool]:
    """Return the operations of a network for one image, and whether it trains."""
    total, trains = 0.0, False
    handles: list[Any] = []

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total, trains
        if isinstance(module, Attention):
            total += inputs[0].shape[1] ** 2 * _count_attention(inputs[0].shape[2], trains=trains)
            return
        weight = module.get_parameter("weight")
        positions = output.numel() // output.shape[1 if output.ndim == 4 else -1]
        total += positions * _count(weight, trains=trains)
        trains |= weight.requires_grad

    for module in tower.encoder.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | Attention):
            handles.append(module.register_forward_hook(count))
    was_training = tower.training
    tower.eval()
    try:
        with torch.no_grad():
            tower.encode(torch.zeros(1, 3, side, side, device=tower.get_buffer("gain").device))
    finally:
        tower.train(was_training)
        for handle in handles:
            handle.remove()
    return total, trains


PEAKS = {
    "B200": (2250e12, 75e12),
    "H200 NVL": (835.5e12, 60e12),
    "H200": (989.5e12, 67e12),
    "H100 NVL": (835.5e12, 60e12),
    "H100 PCIe": (756e12, 51e12),
    "H100": (989.5e12, 67e12),
    "A100": (312e12, 19.5e12),
    "A10G": (70e12, 35e12),
    "A10": (125e12, 31.2e12),
    "L40S": (362e12, 91.6e12),
    "L40": (181e12, 90.5e12),
    "L4": (121e12, 30.3e12),
}
"""Dense bf16 and fp32 (TF32 off) FLOP/s by the words of a card's name; SXM where none is named. Source: the NVIDIA data
sheets "H100 Tensor Core GPU", "H200 Tensor Core GPU", "A100 Tensor Core GPU", "A10 Tensor Core GPU", "A10G", "L40",
"L40S", "L4" and "Blackwell HGX B200" (an eighth of the board). Those of sparse bf16 are halved."""


def find_peak(device: torch.device, precision: str) -> float | None:
    """Return the peak FLOP/s of a device in bf16 or fp32; None if it is not known, as for a CPU or a part of a card."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    if "MIG" in card:
        return None
    found = next((peaks for words, peaks in PEAKS.items() if re.search(rf"\b{words}\b", card)), None)
    return None if found is None else found[precision == "fp32"]
