"""One step of the optimizer, the same in a job and in benchmarks/train.py: forward, loss, gradients, update.

Legend: B pairs of this rank, S side of the picture, L tokens.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from training import distributed
from training.config import TrainConfig
from training.loss import StepOutcome, contrastive_loss
from training.optim import MAX_LOGIT_SCALE
from training.preprocess import MEAN, STD


def normalized(pixels_BSS3: Tensor) -> Tensor:
    """uint8 pixels to the inputs of the image tower (B, 3, S, S), on their device and in channels_last, in one pass.

    What `training.preprocess.normalize` makes of pixels / 255, to rounding.
    """
    B, S = pixels_BSS3.shape[:2]
    std = torch.tensor(STD, device=pixels_BSS3.device).repeat(S)
    mean = torch.tensor(MEAN, device=pixels_BSS3.device).repeat(S)
    # A line of pixels at a time: three channels alone are too few for vector code.
    lines = torch.addcmul(-mean / std, pixels_BSS3.reshape(B, S, 3 * S).float(), 1 / (255 * std))
    return lines.view(B, S, S, 3).permute(0, 3, 1, 2)


def backward(forward: nn.Module, images_B3SS: Tensor, tokens_BL: Tensor, config: TrainConfig) -> StepOutcome:
    """Both towers, the loss over all ranks' pairs, and its gradients into the parameters."""
    with torch.autocast(images_B3SS.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        features: tuple[Tensor, Tensor, Tensor] = forward(images_B3SS, tokens_BL)
    outcome = contrastive_loss(*features, config.label_smoothing)
    # DistributedDataParallel averages gradients; the loss is a sum over ranks already.
    (outcome.loss * distributed.world_size()).backward()
    return outcome


def gradient_norm(model: nn.Module) -> Tensor:
    """The global norm of the gradients."""
    return get_total_norm([parameter.grad for parameter in model.parameters() if parameter.grad is not None])


def update(model: nn.Module, optimizer: Optimizer, lr: float, grad_norm: Tensor, config: TrainConfig) -> None:
    """Clip, step, and forget the gradients; the temperature stays within its bound."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    if config.max_grad_norm:
        clip_grads_with_norm_(model.parameters(), config.max_grad_norm, grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    logit_scale = model.get_parameter("logit_scale")
    with torch.no_grad():
        logit_scale.clamp_(0, MAX_LOGIT_SCALE)
