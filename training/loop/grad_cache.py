"""The backward pass of a batch that memory does not hold: a few pairs at a time, with the gradient of the whole batch.

The features of all pairs come first, without a graph; then the gradient of the loss by the features; then each chunk of
the batch again, whose features receive their gradient. Source: Gao et al. 2021 (GradCache), section 3.

Legend: B pairs of this rank, L tokens, S side of an image, K kept patches, D embed_dim.
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
"""Images (B, 3, S, S), texts (B, L), and the indices of the kept patches (B, K) or None for all."""


def backward_by_chunks(
    forward: nn.Module,
    inputs: Inputs,
    rows: int,
    loss: Callable[[Outputs], StepOutcome],
    autocast: AbstractContextManager[object],
) -> StepOutcome:
    """Add the gradients of a batch's loss to the parameters' own, passing `rows` pairs at a time through the towers.

    Args:
        forward: the model, or DistributedDataParallel around it: the ranks' gradients are then averaged once.
        autocast: context of the towers' forward pass; entered again for each chunk.

    Returns: the loss and the hits of the whole batch.
    """
    chunks = [(slice(i, i + rows), _chunk(inputs, slice(i, i + rows))) for i in range(0, len(inputs[0]), rows)]
    with torch.no_grad(), autocast:
        whole = _leaves([Outputs(*forward(*chunk)) for _, chunk in chunks])
    outcome = loss(whole)
    # DistributedDataParallel averages gradients; the loss is a sum over ranks already.
    (outcome.loss * distributed.world_size()).backward()
    for span, chunk in chunks:
        last = chunk is chunks[-1][1]
        with forward.no_sync() if isinstance(forward, DistributedDataParallel) and not last else nullcontext():
            with autocast:
                outputs = Outputs(*forward(*chunk))
            _backward_chunk(outputs, whole, span, last=last)
    return outcome


def _chunk(inputs: Inputs, span: slice) -> Inputs:
    images_B3SS, tokens_BL, kept_BK = inputs
    return images_B3SS[span], tokens_BL[span], None if kept_BK is None else kept_BK[span]


def _leaves(chunks: list[Outputs]) -> Outputs:
    """Join the chunks' features, with the temperature and bias that they share, as tensors that collect gradients."""
    scale, bias = chunks[0].logit_scale, chunks[0].logit_bias
    return Outputs(
        torch.cat([chunk.image_features_BD for chunk in chunks]).requires_grad_(),
        torch.cat([chunk.text_features_BD for chunk in chunks]).requires_grad_(),
        scale.detach().requires_grad_(),
        None if bias is None else bias.detach().requires_grad_(),
    )


def _backward_chunk(outputs: Outputs, whole: Outputs, span: slice, *, last: bool) -> None:
    """Backpropagate through one chunk's towers; the temperature and bias, which all chunks share, with the last."""
    roots, gradients = [], []
    for name, output, leaf in zip(outputs._fields, outputs, whole, strict=True):
        if output is None or leaf is None or leaf.grad is None or not output.requires_grad:
            continue
        shared = name.startswith("logit_")
        if not shared or last:
            roots.append(output)
            gradients.append(leaf.grad if shared else leaf.grad[span])
    torch.autograd.backward(roots, gradients)
