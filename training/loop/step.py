"""One step of the optimizer, the same in a job and in benchmarks/train.py: forward, loss, gradients, update.

Legend: B pairs of this rank, S side of an image, L tokens, K kept patches, D embed_dim.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from training import distributed
from training.config import AugmentConfig, TrainConfig
from training.data.augment import augment
from training.data.loader import Batch
from training.loop.grad_cache import backward_by_chunks
from training.loop.loss import StepOutcome, contrastive_loss, sigmoid_loss
from training.loop.optim import MAX_LOGIT_SCALE
from training.model.clip import Outputs
from training.model.preprocess import MEAN, STD, normalize


def normalize_pixels(pixels_BSS3: Tensor) -> Tensor:
    """Convert uint8 pixels to the inputs of the image tower (B, 3, S, S), in channels_last on their device, in one pass.

    To rounding this equals `training.model.preprocess.normalize` of pixels / 255.
    """
    B, S = pixels_BSS3.shape[:2]
    std = torch.tensor(STD, device=pixels_BSS3.device).repeat(S)
    mean = torch.tensor(MEAN, device=pixels_BSS3.device).repeat(S)
    # One line of pixels at a time, since three channels are too few for vector code.
    lines = torch.addcmul(-mean / std, pixels_BSS3.reshape(B, S, 3 * S).float(), 1 / (255 * std))
    return lines.view(B, S, S, 3).permute(0, 3, 1, 2)


def prepare_images(batch: Batch, config: TrainConfig, seed: int, device: torch.device) -> Tensor:
    """Return a batch's images as the inputs of the image tower (B, 3, S, S), augmented as the config says."""
    pixels_BSS3 = torch.from_numpy(batch.pixels_BSS3).to(device, non_blocking=True)
    if config.augment == AugmentConfig():
        return normalize_pixels(pixels_BSS3)
    pixels_B3SS = pixels_BSS3.permute(0, 3, 1, 2).contiguous().float() / 255
    pixels_B3SS = augment(pixels_B3SS, config.augment, seed, batch.epoch, batch.samples)
    return normalize(pixels_B3SS).contiguous(memory_format=torch.channels_last)


def compute_loss(outputs: Outputs, config: TrainConfig, pairs_of_ranks: Sequence[int] | None = None) -> StepOutcome:
    """Compute the loss that the config names.

    Args:
        pairs_of_ranks: pairs of the step on each rank; None: the ranks exchange them.
    """
    images_BD, texts_BD, logit_scale, logit_bias = outputs
    if config.loss == "sigmoid":
        assert logit_bias is not None
        return sigmoid_loss(images_BD, texts_BD, logit_scale, logit_bias, config.loss_rows, pairs_of_ranks)
    return contrastive_loss(images_BD, texts_BD, logit_scale, config.label_smoothing, config.loss_rows, pairs_of_ranks)


def backward(
    forward: nn.Module,
    images_B3SS: Tensor,
    tokens_BL: Tensor,
    config: TrainConfig,
    kept_BK: Tensor | None = None,
    pairs_of_ranks: Sequence[int] | None = None,
) -> StepOutcome:
    """Run both towers and the loss over all ranks' pairs, and add its gradients to the parameters' own.

    Args:
        forward: the model, or DistributedDataParallel around it.
        kept_BK: see CLIP.encode_image.
        pairs_of_ranks: pairs of the step on each rank; None: there is one rank.
    """
    pairs_of_ranks = pairs_of_ranks or [len(images_B3SS)]
    loss = partial(compute_loss, config=config, pairs_of_ranks=pairs_of_ranks)
    autocast = torch.autocast(images_B3SS.device.type, torch.bfloat16, enabled=config.precision == "bf16")
    inputs = (images_B3SS, tokens_BL, kept_BK)
    # All ranks take the same way, else they would wait for each other in different exchanges.
    if config.grad_cache is not None and config.grad_cache < max(pairs_of_ranks):
        return backward_by_chunks(forward, inputs, config.grad_cache, loss, autocast)
    with autocast:
        outputs = Outputs(*forward(*inputs))
    outcome = loss(outputs)
    # DistributedDataParallel averages gradients; the loss is a sum over ranks already.
    (outcome.loss * distributed.world_size()).backward()
    return outcome


def gradient_norm(model: nn.Module) -> Tensor:
    """Return the global norm of the gradients."""
    return get_total_norm([parameter.grad for parameter in model.parameters() if parameter.grad is not None])


def update(model: nn.Module, optimizer: Optimizer, lr: float, grad_norm: Tensor, config: TrainConfig) -> None:
    """Clip the gradients, take the optimizer's step, clear the gradients, and keep the temperature within its bound."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    if config.max_grad_norm:
        clip_grads_with_norm_(model.parameters(), config.max_grad_norm, grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    logit_scale = model.get_parameter("logit_scale")
    with torch.no_grad():
        logit_scale.clamp_(0, MAX_LOGIT_SCALE)
