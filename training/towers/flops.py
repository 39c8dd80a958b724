"""Floating-point operations of a step in a pretrained tower, as training/loop/flops.py counts them for CLIP's towers."""

from typing import Any

import torch
from torch import Tensor, nn

from training.towers.bert import Bert
from training.towers.towers import BackboneTower, PretrainedTextTower, Projector
from training.towers.vit import ViTAttention


def count_image_tower(tower: BackboneTower, side: int, *, is_cached: bool) -> float:
    """Return the operations of an image, by one that passes through the network.

    Args:
        side: of the input, in pixels.
        is_cached: the network's features were computed before.
    """
    operations, trains = (0.0, False) if is_cached else _count_network(tower, side)
    return operations + _count_projector(tower.projector, trains=trains)


def count_text_tower(tower: PretrainedTextTower) -> tuple[float, float, float]:
    """Return the operations of a text's projector, of a token, and of two tokens in attention.

    The last are doubled, since the caller counts half of the pairs, as under a causal mask.
    """
    encoder = tower.encoder
    if not isinstance(encoder, Bert):
        trains = any(p.requires_grad for p in encoder.parameters())
        return _count_projector(tower.projector, trains=trains), 0.0, 0.0
    token = pair = 0.0
    trains = encoder.token_embedding.weight.requires_grad
    for block in encoder.blocks:
        weights = [weight for weight in block.parameters() if weight.ndim == 2]
        trains |= any(p.requires_grad for p in block.parameters())
        token += sum(2 * w.numel() * (1 + w.requires_grad + trains) for w in weights)
        pair += 2 * 4 * weights[0].shape[1] * (3 if trains else 1)
    return _count_projector(tower.projector, trains=trains), token, pair


def _count_projector(projector: Projector, *, trains: bool) -> float:
    total, trains = 0.0, trains or any(p.requires_grad for p in projector.norm.parameters())
    for layer in projector.layers:
        weight = layer.get_parameter("weight")
        total += 2 * weight.numel() * (1 + weight.requires_grad + trains)
        trains |= weight.requires_grad
    return total


def _count_network(tower: BackboneTower, side: int) -> tuple[float, bool]:
    """Return the operations of a network for one image, and whether it trains."""
    total, trains = 0.0, False
    handles: list[Any] = []

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total, trains
        if isinstance(module, ViTAttention):
            total += 4 * inputs[0].shape[1] ** 2 * inputs[0].shape[2] * (3 if trains else 1)
            return
        weight = module.get_parameter("weight")
        positions = output.numel() // output.shape[1 if output.ndim == 4 else -1]
        total += 2 * positions * weight.numel() * (1 + weight.requires_grad + trains)
        trains |= weight.requires_grad

    for module in tower.encoder.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | ViTAttention):
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
