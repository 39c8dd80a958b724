"""The contrastive losses over the pairs of all ranks, a few rows of the matrix of all pairings at a time.

Each rank computes its own rows against the features of all ranks, and gradients reach the ranks that the features came
from. The value and the gradient of a block of rows are computed together, so no block outlives its turn: memory is
R x G, where autograd would keep B x G several times over.

Legend: B pairs of this rank, G pairs of all ranks, D embed_dim, R rows of a block.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from training.distributed import gather_rows

Block = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""Maps logits (R, G) and the column of the first row's own pair to the sum of the losses and its gradient (R, G)."""


@dataclass(frozen=True)
class StepOutcome:
    """Sums over this rank's pairs, on the device; their totals over the ranks are the step's metrics."""

    loss: Tensor
    """Scalar with gradient: this rank's share of the mean loss over all G pairs."""
    image_hits: Tensor
    """Scalar, the number of images that are closest to their own text among G."""
    text_hits: Tensor
    """Scalar, the number of texts that are closest to their own image among G."""


def contrastive_loss(
    image_features_BD: Tensor,
    text_features_BD: Tensor,
    logit_scale: Tensor,
    label_smoothing: float = 0.0,
    rows: int = 4096,
    pairs_of_ranks: Sequence[int] | None = None,
) -> StepOutcome:
    """Compute the symmetric cross-entropy over all G x G pairings, each rank its own 2 B rows.

    Args:
        image_features_BD: not normalised; B may differ between ranks.
        text_features_BD: not normalised.
        logit_scale: scalar, log of the inverse temperature.
        label_smoothing: share of each target spread evenly over the G candidates, in [0, 1).
        rows: R, rows of the matrix that are in memory at a time.
        pairs_of_ranks: B of each rank; None: the ranks exchange them.

    Returns:
        This rank's share of the loss and hits; the loss sums over the ranks to that of one process.

    Raises:
        ValueError: the two shapes differ.

    Source: Radford et al. 2021, figure 3.
    """
    images_BD, texts_BD = _normalize(image_features_BD, text_features_BD)
    images_GD, first = gather_rows(images_BD, pairs_of_ranks)
    texts_GD, _ = gather_rows(texts_BD, pairs_of_ranks)
    scale = logit_scale.exp()
    block = partial(_softmax, smoothing=label_smoothing)
    image_loss, image_hits = _by_blocks(images_BD, texts_GD, scale, None, first, rows, block)
    text_loss, text_hits = _by_blocks(texts_BD, images_GD, scale, None, first, rows, block)
    return StepOutcome((image_loss + text_loss) / (2 * len(images_GD)), image_hits, text_hits)


def sigmoid_loss(
    image_features_BD: Tensor,
    text_features_BD: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    rows: int = 4096,
    pairs_of_ranks: Sequence[int] | None = None,
) -> StepOutcome:
    """Compute for each of the G x G pairings the binary loss of being a pair or not, each rank its own B rows.

    Args:
        image_features_BD: not normalised; B may differ between ranks.
        text_features_BD: not normalised.
        logit_scale: scalar, log of the inverse temperature.
        logit_bias: scalar, added to each logit.
        rows: R, rows of the matrix that are in memory at a time.
        pairs_of_ranks: B of each rank; None: the ranks exchange them.

    Returns:
        This rank's share of the loss and hits; the loss sums over the ranks to that of one process.

    Raises:
        ValueError: the two shapes differ.

    Source: Zhai et al. 2023 (SigLIP), equation 1 and algorithm 1.
    """
    images_BD, texts_BD = _normalize(image_features_BD, text_features_BD)
    texts_GD, first = gather_rows(texts_BD, pairs_of_ranks)
    loss, image_hits = _by_blocks(images_BD, texts_GD, logit_scale.exp(), logit_bias, first, rows, _sigmoid)
    with torch.no_grad():  # the loss has one direction only; the hits of the other are counted
        images_GD, _ = gather_rows(images_BD, pairs_of_ranks)
        hits = [_count_hits(texts_RD @ images_GD.T, first + start) for start, texts_RD in _split(texts_BD, rows)]
    return StepOutcome(loss / len(texts_GD), image_hits, torch.stack(hits).sum())


def _normalize(image_features_BD: Tensor, text_features_BD: Tensor) -> tuple[Tensor, Tensor]:
    if image_features_BD.shape != text_features_BD.shape:
        shapes = f"images {tuple(image_features_BD.shape)}, texts {tuple(text_features_BD.shape)}"
        raise ValueError(f"the shapes of the features differ: {shapes}")
    return F.normalize(image_features_BD.float(), dim=1), F.normalize(text_features_BD.float(), dim=1)


def _split(rows_BD: Tensor, rows: int) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(rows_BD), rows):
        yield start, rows_BD[start : start + rows]


def _count_hits(logits_RG: Tensor, first: int) -> Tensor:
    """Count rows whose greatest logit is that of their own pair; the first row's own pair is in column `first`."""
    own_R = torch.arange(first, first + len(logits_RG), device=logits_RG.device)
    return (logits_RG.argmax(1) == own_R).sum()


# A `Block` may write its gradient into the memory of the logits ------------------------------------------------------


def _softmax(logits_RG: Tensor, first: int, smoothing: float) -> tuple[Tensor, Tensor]:
    spread = smoothing / logits_RG.shape[1]
    normaliser_R1 = logits_RG.logsumexp(1, keepdim=True)
    loss = normaliser_R1.sum() - (1 - smoothing) * logits_RG.diagonal(first).sum()
    if smoothing:
        loss = loss - spread * logits_RG.sum()
    gradient_RG = logits_RG.sub_(normaliser_R1).exp_()
    if smoothing:
        gradient_RG.sub_(spread)
    gradient_RG.diagonal(first).sub_(1 - smoothing)
    return loss, gradient_RG


def _sigmoid(logits_RG: Tensor, first: int) -> tuple[Tensor, Tensor]:
    loss = F.softplus(logits_RG).sum() - logits_RG.diagonal(first).sum()
    gradient_RG = logits_RG.sigmoid_()
    gradient_RG.diagonal(first).sub_(1)
    return loss, gradient_RG


class _ByBlocks(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        queries_BD: Tensor,
        keys_GD: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        first: int,
        rows: int,
        block: Block,
    ) -> tuple[Tensor, Tensor]:
        by_queries_BD, by_keys_GD = torch.empty_like(queries_BD), torch.zeros_like(keys_GD)
        loss, by_scale, by_bias = (torch.zeros_like(scale) for _ in range(3))
        hits = torch.zeros((), dtype=torch.int64, device=scale.device)
        for start, queries_RD in _split(queries_BD, rows):
            dots_RG = queries_RD @ keys_GD.T
            hits += _count_hits(dots_RG, first + start)
            logits_RG = dots_RG * scale
            if bias is not None:
                logits_RG += bias
            block_loss, by_logits_RG = block(logits_RG, first + start)
            loss += block_loss
            by_scale += torch.dot(by_logits_RG.flatten(), dots_RG.flatten())
            by_bias += by_logits_RG.sum()
            torch.mm(by_logits_RG, keys_GD, out=by_queries_BD[start : start + rows])
            by_keys_GD.addmm_(by_logits_RG.T, queries_RD)
        ctx.save_for_backward(by_queries_BD.mul_(scale), by_keys_GD.mul_(scale), by_scale, by_bias)
        ctx.mark_non_differentiable(hits)
        return loss, hits

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        by_queries_BD, by_keys_GD, by_scale, by_bias = (saved * gradients[0] for saved in ctx.saved_tensors)
        return by_queries_BD, by_keys_GD, by_scale, by_bias if ctx.needs_input_grad[3] else None, None, None, None


def _by_blocks(
    queries_BD: Tensor, keys_GD: Tensor, scale: Tensor, bias: Tensor | None, first: int, rows: int, block: Block
) -> tuple[Tensor, Tensor]:
    """Sum the losses of all queries against all keys, and count the queries that match their own key (`first` on)."""
    return _ByBlocks.apply(queries_BD, keys_GD, scale, bias, first, rows, block)  # pyright: ignore[reportReturnType]
