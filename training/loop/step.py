"""One step of the optimizer, the same in a job and in benchmarks/train.py: forward, loss, gradients, update.

On a GPU a step is launched without waiting for it: no value is read back, and no size depends on one.

Legend: B pairs of this rank, S side of an image, K kept patches, V values of a step.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from training import distributed
from training.config import TrainConfig
from training.loop.health import KeptStatistics, LossScale, StepGuard, mean_cosine
from training.loop.inputs import StepInputs
from training.loop.optim import MAX_LOGIT_SCALE
from training.losses.contrastive import StepOutcome
from training.losses.grad_cache import backward_by_chunks
from training.losses.loss import compute_loss
from training.model.clip import CLIP, Outputs, autocast, compile_function, mark_sizes
from training.model.packing import PackedTexts
from training.model.preprocess import MEAN, STD
from training.model.towers import PaddedTexts
from training.sharding import average_whole_gradients, clip_gradients, gradient_norm, local_part
from training.step_hooks import used_step_hooks


class StepValues(NamedTuple):
    """The values that a step computes on the device; the first five are sums over the ranks."""

    loss: float
    """Mean loss of all pairs."""
    image_hits: float
    """Images that are closest to their own text."""
    text_hits: float
    """Texts that are closest to their own image."""
    image_cosine: float
    """Mean cosine between the images of a rank."""
    text_cosine: float
    """Mean cosine between the texts of a rank."""
    grad_norm: float
    """Global norm of the gradients, before they are clipped."""
    logit_scale: float
    """Log of the inverse temperature, after the step."""
    skipped: float
    """1 if the step was bad, and its update was skipped."""


def take_step(
    model: CLIP,
    forward: nn.Module,
    optimizer: Optimizer,
    config: TrainConfig,
    inputs: StepInputs,
    *,
    lr: float,
    pairs_of_ranks: Sequence[int] | None = None,
    guard: StepGuard | None = None,
    scale: LossScale | None = None,
) -> Tensor:
    """Take one step of the optimizer.

    Args:
        forward: the model, which may be sharded, or DistributedDataParallel around it.
        inputs: on the model's device.
        pairs_of_ranks: pairs of the step on each rank; None: there is one rank.
        guard: skips the update of a bad step.
        scale: of the loss in the backward pass; needs a guard.

    Returns: StepValues as fp64 (V,) on the device, which may still compute them.
    """
    images_B3SS = prepare_images(inputs, config)
    statistics = None if guard is None else KeptStatistics(model)
    outcome, outputs = backward(
        forward, images_B3SS, inputs.texts, config, inputs.kept_BK, pairs_of_ranks, inputs.named, scale
    )
    if scale is not None:
        scale.unscale([local_part(p.grad) for p in model.parameters() if p.grad is not None])
    cosines = mean_cosine(outputs.image_features_BD.detach()), mean_cosine(outputs.text_features_BD.detach())
    sums = torch.stack([v.detach().double() for v in (outcome.loss, outcome.image_hits, outcome.text_hits, *cosines)])
    sums = distributed.sum_over_ranks(sums)
    average_whole_gradients(model)
    grad_norm = gradient_norm(model)
    is_bad = None if guard is None else guard.decide(sums[0], grad_norm)
    if scale is not None:
        scale.update(grad_norm)
    update(model, optimizer, lr, grad_norm, config, is_bad)
    if statistics is not None and is_bad is not None:
        statistics.restore_where(is_bad)
    skipped = torch.zeros_like(sums[0]) if is_bad is None else is_bad.double()
    return torch.cat([sums, torch.stack([grad_norm.double(), model.logit_scale.detach().double(), skipped])])


def prepare_images(inputs: StepInputs, config: TrainConfig) -> Tensor:
    """Return a batch's images as the inputs of the image tower (B, 3, S, S), changed as the config says."""
    if inputs.pixels_BSS3.ndim == 2:  # features that were computed before
        features_BW = inputs.pixels_BSS3
        for hook in used_step_hooks(config):
            features_BW = hook.change_features(features_BW, inputs.named, config)
        return features_BW
    hooks = [hook for hook in used_step_hooks(config) if hook.changes_images]
    if not hooks and config.compile:
        mark_sizes(inputs.pixels_BSS3)
        return compile_function(_normalize)(inputs.pixels_BSS3, *_mean_and_std(inputs.pixels_BSS3.device))
    if not hooks:
        return normalize_pixels(inputs.pixels_BSS3)
    pixels_B3SS = inputs.pixels_BSS3.permute(0, 3, 1, 2).contiguous().float() / 255
    mean, std = (value.view(3, 1, 1) for value in _mean_and_std(pixels_B3SS.device))
    for hook in hooks:
        pixels_B3SS = hook.change_images(pixels_B3SS, inputs.named, config)
    pixels_B3SS = (pixels_B3SS - mean) / std
    return pixels_B3SS.contiguous(memory_format=torch.channels_last)


def normalize_pixels(pixels_BSS3: Tensor) -> Tensor:
    """Convert uint8 pixels to the inputs of the image tower (B, 3, S, S), in channels_last on their device, in one pass.

    To rounding this equals `training.model.preprocess.normalize` of pixels / 255.
    """
    return _normalize(pixels_BSS3, *_mean_and_std(pixels_BSS3.device))


def _normalize(pixels_BSS3: Tensor, mean_3: Tensor, std_3: Tensor) -> Tensor:
    B, S = pixels_BSS3.shape[:2]
    mean, std = mean_3.repeat(S), std_3.repeat(S)
    # One line of pixels at a time, since three channels are too few for vector code.
    lines = torch.addcmul(-mean / std, pixels_BSS3.reshape(B, S, 3 * S).float(), 1 / (255 * std))
    return lines.view(B, S, S, 3).permute(0, 3, 1, 2)


@lru_cache
def _mean_and_std(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return both (3,) on a device: a copy in each step would wait for it."""
    return torch.tensor(MEAN, device=device), torch.tensor(STD, device=device)


def backward(
    forward: nn.Module,
    images_B3SS: Tensor,
    texts: Sequence[PackedTexts] | Sequence[PaddedTexts],
    config: TrainConfig,
    kept_BK: Tensor | None = None,
    pairs_of_ranks: Sequence[int] | None = None,
    named: Mapping[str, Tensor] | None = None,
    scale: LossScale | None = None,
) -> tuple[StepOutcome, Outputs]:
    """Run both towers and the loss over all ranks' pairs, and add its gradients to the parameters' own.

    Args:
        forward: the model, which may be sharded, or DistributedDataParallel around it.
        texts: `grad_cache` at a time, or all together.
        kept_BK: see CLIP.encode_image.
        pairs_of_ranks: pairs of the step on each rank; None: there is one rank.
        named: what the loss takes beside the features, by name; None: nothing.
        scale: factor of all gradients; None: 1.

    Returns: the loss and hits, and the features of the batch.
    """
    pairs_of_ranks = pairs_of_ranks or [len(images_B3SS)]
    known = {"config": config, "pairs_of_ranks": pairs_of_ranks, "inputs": named}
    loss = partial(compute_loss, **known)
    computing = autocast(images_B3SS.device, config.precision)
    # DistributedDataParallel and FSDP average gradients; the loss is a sum over ranks already.
    factor = distributed.world_size() if scale is None else distributed.world_size() * scale.value
    # All ranks take the same way, else they would wait for each other in different exchanges.
    if config.grad_cache is not None and config.grad_cache < max(pairs_of_ranks):
        turns = -(-max(pairs_of_ranks) // config.grad_cache)
        return backward_by_chunks(forward, images_B3SS, texts, kept_BK, loss, computing, turns, factor)
    (all_texts,) = texts
    with computing:
        outputs = Outputs(*forward(images_B3SS, all_texts, kept_BK))
    outcome = loss(outputs)
    (outcome.loss * factor).backward()
    return outcome, outputs


def update(
    model: nn.Module,
    optimizer: Optimizer,
    lr: float,
    grad_norm: Tensor,
    config: TrainConfig,
    is_bad: Tensor | None = None,
) -> None:
    """Clip the gradients, take the optimizer's step, clear the gradients, and keep the temperature within its bound.

    Args:
        is_bad: a bool on the device; where it is true, no weight and no moment changes.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
    if config.max_grad_norm:
        clip_gradients(model, config.max_grad_norm, grad_norm)
    if is_bad is not None:
        optimizer.found_inf = is_bad.float()  # pyright: ignore[reportAttributeAccessIssue] - as torch's GradScaler does
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    logit_scale = model.get_parameter("logit_scale")
    with torch.no_grad():
        logit_scale.clamp_(0, MAX_LOGIT_SCALE)
