"""The backward pass of a batch that memory does not hold: a few pairs at a time, with the gradient of the whole batch.

Features come first, without what a backward pass needs; then the gradient of the loss by the features; then each part of
the batch again, whose features get their gradient. Source: Gao et al. 2021 (GradCache), section 3.

Legend: B pairs of this rank, L tokens, S side of the picture, K kept patches, D embed_dim.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training import distributed
from training.loop.loss import StepOutcome
from training.model.clip import Outputs

Inputs = tuple[Tensor, Tensor, Tensor | None]
"""Pictures (B, 3, S, S), texts (B, L), and where not all of their patches count, which (B, K)."""


def backward_by_parts(
    forward: nn.Module,
    inputs: Inputs,
    rows: int,
    loss: Callable[[Outputs], StepOutcome],
    autocast: AbstractContextManager[object],
) -> StepOutcome:
    """Add the gradients of a batch's loss to the parameters' own, with the towers at work on `rows` pairs at a time.

    Args:
        forward: the model, or DistributedDataParallel around it: the ranks' gradients are then averaged once.
        autocast: within which the towers run; entered again for each part.

    Returns: the loss and the hits of the whole batch.
    """
    parts = [(slice(i, i + rows), _part(inputs, slice(i, i + rows))) for i in range(0, len(inputs[0]), rows)]
    with torch.no_grad(), autocast:
        whole = _leaves([Outputs(*forward(*part)) for _, part in parts])
    outcome = loss(whole)
    # DistributedDataParallel averages gradients; the loss is a sum over ranks already.
    (outcome.loss * distributed.world_size()).backward()
    for place, part in parts:
        last = part is parts[-1][1]
        with forward.no_sync() if isinstance(forward, DistributedDataParallel) and not last else nullcontext():
            with autocast:
                outputs = Outputs(*forward(*part))
            _pull(outputs, whole, place, last=last)
    return outcome


def _part(inputs: Inputs, place: slice) -> Inputs:
    images_B3SS, tokens_BL, kept_BK = inputs
    return images_B3SS[place], tokens_BL[place], None if kept_BK is None else kept_BK[place]


def _leaves(made: list[Outputs]) -> Outputs:
    """The features of all parts, and the temperature and bias that they share, as tensors that collect gradients."""
    scale, bias = made[0].logit_scale, made[0].logit_bias
    return Outputs(
        torch.cat([part.image_features_BD for part in made]).requires_grad_(),
        torch.cat([part.text_features_BD for part in made]).requires_grad_(),
        scale.detach().requires_grad_(),
        None if bias is None else bias.detach().requires_grad_(),
    )


def _pull(outputs: Outputs, whole: Outputs, place: slice, *, last: bool) -> None:
    """Pass the gradients on through a part's towers; the temperature and bias, which all parts share, with the last."""
    asked, gradients = [], []
    for name, output, leaf in zip(outputs._fields, outputs, whole, strict=True):
        if output is None or leaf is None or leaf.grad is None or not output.requires_grad:
            continue
        shared = name.startswith("logit_")
        if not shared or last:
            asked.append(output)
            gradients.append(leaf.grad if shared else leaf.grad[place])
    torch.autograd.backward(asked, gradients)
