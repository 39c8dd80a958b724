"""The backward pass of a step: at once, or a few pairs at a time where memory does not hold the batch.

Legend: B pairs of this rank, L tokens, S side of the picture, K kept patches, D embed_dim.
"""

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training import distributed
from training.config import TrainConfig
from training.loss import StepOutcome, step_loss
from training.model import Outputs


def backward(
    towers: nn.Module, images_B3SS: Tensor, tokens_BL: Tensor, kept_BK: Tensor | None, config: TrainConfig
) -> StepOutcome:
    """Add the gradients of a batch's loss to the parameters' own.

    With `grad_cache`, features come first, without what a backward pass needs; then the gradient of the loss by the
    features; then each part of the batch again, whose features get their gradient. The negatives are those of the whole
    batch, and so is the gradient. Source: Gao et al. 2021 (GradCache), section 3.

    Args:
        towers: the model, or DistributedDataParallel around it.
        kept_BK: see CLIP.encode_image.

    Returns:
        The loss and the hits of the whole batch.
    """
    rows = config.grad_cache or len(images_B3SS)
    parts = _parts(images_B3SS, tokens_BL, kept_BK, rows)
    autocast = torch.autocast(images_B3SS.device.type, torch.bfloat16, enabled=config.precision == "bf16")
    # DistributedDataParallel averages gradients; the loss is a sum over ranks already.
    ranks = distributed.world_size()
    if len(parts) == 1:
        with autocast:
            outputs: Outputs = towers(*parts[0])
        outcome = step_loss(outputs, config)
        (outcome.loss * ranks).backward()
        return outcome
    with torch.no_grad(), autocast:
        made = [Outputs(*towers(*part)) for part in parts]
    whole = Outputs(
        torch.cat([part.image_features_BD for part in made]).requires_grad_(),
        torch.cat([part.text_features_BD for part in made]).requires_grad_(),
        made[0].logit_scale.detach().requires_grad_(),
        None if made[0].logit_bias is None else made[0].logit_bias.detach().requires_grad_(),
    )
    outcome = step_loss(whole, config)
    (outcome.loss * ranks).backward()
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        share = towers.no_sync() if isinstance(towers, DistributedDataParallel) and not last else nullcontext()
        with share:
            with autocast:
                outputs = Outputs(*towers(*part))
            _pull(outputs, _gradients(whole, slice(number * rows, (number + 1) * rows), last=last))
    return outcome


def _parts(
    images_B3SS: Tensor, tokens_BL: Tensor, kept_BK: Tensor | None, rows: int
) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    return [
        (images_B3SS[i : i + rows], tokens_BL[i : i + rows], None if kept_BK is None else kept_BK[i : i + rows])
        for i in range(0, len(images_B3SS), rows)
    ]


def _gradients(whole: Outputs, part: slice, *, last: bool) -> list[Tensor | None]:
    """What the loss asks of a part's outputs; the temperature and bias, which all parts share, are the last one's."""
    image, text = whole.image_features_BD.grad, whole.text_features_BD.grad
    assert image is not None
    assert text is not None
    shared = [value.grad if last and value is not None else None for value in (whole.logit_scale, whole.logit_bias)]
    return [image[part], text[part], *shared]


def _pull(outputs: Outputs, gradients: list[Tensor | None]) -> None:
    asked = [
        (output, gradient)
        for output, gradient in zip(outputs, gradients, strict=True)
        if gradient is not None and output is not None and output.requires_grad
    ]
    torch.autograd.backward([output for output, _ in asked], [gradient for _, gradient in asked])
