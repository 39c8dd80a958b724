"""The backward pass of a batch that memory does not hold: a few pairs at a time, with the gradient of the whole batch.

The features of all pairs come first, without a graph; then the gradient of the loss by the
features; then each chunk of the batch again, whose features receive their gradient. Source: Gao et
al. 2021 (GradCache), section 3.

Legend: B pairs of this rank, S side of an image, K kept patches, D embed_dim.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training.losses.contrastive import StepOutcome
from training.model.clip import Outputs
from training.model.packing import PackedTexts
from training.model.towers import PaddedTexts
from training.sharding import is_sharded


def backward_by_chunks(
    forward: nn.Module,
    images_B3SS: Tensor,
    texts: Sequence[PackedTexts] | Sequence[PaddedTexts],
    kept_BK: Tensor | None,
    loss: Callable[[Outputs], StepOutcome],
    autocast: AbstractContextManager[object],
    turns: int,
    factor: Tensor | float = 1.0,
) -> tuple[StepOutcome, Outputs]:
    """Add the gradients of a batch's loss to the parameters' own, passing a chunk at a time through the towers.

    Args:
        forward: the model, or DistributedDataParallel around it: the ranks' gradients are then averaged once.
        texts: those of each chunk, which the images are cut alike.
        kept_BK: see CLIP.encode_image.
        autocast: context of the towers' forward pass; entered again for each chunk.
        turns: chunks of the rank with most of them. The others repeat their last one, without a gradient from it, since
            the ranks of a sharded model gather its weights together.
        factor: of the loss in the backward pass.

    Returns: the loss and the hits of the whole batch, and the features of the whole batch.
    """
    ends = list(accumulate(len(of_chunk.ends_B) for of_chunk in texts))
    repeats = turns - len(ends) if any(map(is_sharded, forward.parameters())) else 0
    spans = [slice(end - len(of_chunk.ends_B), end) for end, of_chunk in zip(ends, texts, strict=True)]

    def encode(span: slice, of_chunk: PackedTexts | PaddedTexts) -> Outputs:
        with autocast:
            return Outputs(*forward(images_B3SS[span], of_chunk, None if kept_BK is None else kept_BK[span]))

    with torch.no_grad():
        whole = _leaves([encode(*chunk) for chunk in zip(spans, texts, strict=True)])
        for _ in range(repeats):
            encode(spans[-1], texts[-1])
    outcome = loss(whole)
    (outcome.loss * factor).backward()
    for span, of_chunk in zip(spans, texts, strict=True):
        last = span is spans[-1]
        with forward.no_sync() if isinstance(forward, DistributedDataParallel) and not last else nullcontext():
            _backward_chunk(encode(span, of_chunk), whole, span, last=last)
    for _ in range(repeats):
        outputs = encode(spans[-1], texts[-1])
        roots = [features for features in outputs[:2] if features.requires_grad]
        torch.autograd.backward(roots, [torch.zeros_like(features) for features in roots])
    return outcome, whole


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
