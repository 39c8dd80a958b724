"""The contrastive losses over the pairs of all ranks, a few rows of the matrix of all pairings at a time.

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
from training.model.clip import compile_function

# A loss of all pairings, summed over a few rows of their matrix at a time ---------------------------------------------
# Each rank computes its own rows against the features of all ranks, and gradients reach the ranks that the features came
# from. The value and the gradient of a block of rows are computed together, so no block outlives its turn: memory is
# R x G, where autograd would keep B x G several times over.
#
# Legend: B pairs of this rank, G pairs of all ranks, D embed_dim, R rows of a block.


class Positives:
    """The positive pairings of a step.

    Pairs i and j are positives of each other if they have the same image or the same caption: caption j is then known
    to describe image i. The relation is symmetric, so the rows of images and of captions have the same one.

    Args:
        identities_B2: int64, hashes of each pair's image and caption (training/data/identity.py).
        pairs_of_ranks: B of each rank; None: the ranks exchange them.
        shares: positives share the target of a row; False: all but a row's own pair are left out of its candidates.
    """

    def __init__(self, identities_B2: Tensor, pairs_of_ranks: Sequence[int] | None, *, shares: bool):
        self.shares = shares
        self._own_B2 = identities_B2
        with torch.no_grad():
            self._all_G2, _ = gather_rows(identities_B2, pairs_of_ranks)

    def find(self, start: int, stop: int) -> Tensor:
        """Return whether the pairs from `start` to before `stop` are positives of each pair of all ranks (R, G), bool."""
        images_R, captions_R = self._own_B2[start:stop].unbind(1)
        images_G, captions_G = self._all_G2.unbind(1)
        return (images_R[:, None] == images_G) | (captions_R[:, None] == captions_G)


Block = Callable[[Tensor, int, Tensor | None], tuple[Tensor, Tensor]]
"""Maps logits (R, G), the column of the first row's own pair and the positives (R, G) to the sum of the losses and its
gradient (R, G)."""


def split_rows(rows_BD: Tensor, rows: int) -> Iterator[tuple[int, Tensor]]:
    """Yield the rows in blocks of at most `rows`, with the number of each block's first row."""
    for start in range(0, len(rows_BD), rows):
        yield start, rows_BD[start : start + rows]


def count_hits(logits_RG: Tensor, first: int, positives_RG: Tensor | None = None) -> Tensor:
    """Count rows whose greatest logit is that of a positive, or where these are None of their own pair.

    Args:
        first: column of the first row's own pair.
    """
    greatest_R = logits_RG.argmax(1)
    if positives_RG is not None:
        return positives_RG.gather(1, greatest_R[:, None]).sum()
    return (greatest_R == torch.arange(first, first + len(logits_RG), device=logits_RG.device)).sum()


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
        positives: Positives | None,
    ) -> tuple[Tensor, Tensor]:
        by_queries_BD, by_keys_GD = torch.empty_like(queries_BD), torch.zeros_like(keys_GD)
        loss, by_scale, by_bias = (torch.zeros_like(scale) for _ in range(3))
        hits = torch.zeros((), dtype=torch.int64, device=scale.device)
        for start, queries_RD in split_rows(queries_BD, rows):
            positives_RG = None if positives is None else positives.find(start, start + len(queries_RD))
            dots_RG = queries_RD @ keys_GD.T
            hits += count_hits(dots_RG, first + start, positives_RG)
            logits_RG = dots_RG * scale
            if bias is not None:
                logits_RG += bias
            block_loss, by_logits_RG = block(logits_RG, first + start, positives_RG)
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
        by_bias = by_bias if ctx.needs_input_grad[3] else None
        return by_queries_BD, by_keys_GD, by_scale, by_bias, None, None, None, None


def sum_by_blocks(
    queries_BD: Tensor,
    keys_GD: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    first: int,
    rows: int,
    block: Block,
    positives: Positives | None = None,
) -> tuple[Tensor, Tensor]:
    """Sum the losses of all queries against all keys, and count the queries that match a positive.

    Args:
        first: number of the key that belongs to the first query.
        rows: R.
        positives: None: each query matches the key that belongs to it.
    """
    return _ByBlocks.apply(queries_BD, keys_GD, scale, bias, first, rows, block, positives)  # pyright: ignore[reportReturnType]


@dataclass(frozen=True)
class StepOutcome:
    """Sums over this rank's pairs, on the device; their totals over the ranks are the step's metrics."""

    loss: Tensor
    """Scalar with gradient: this rank's share of the mean loss over all G pairs."""
    image_hits: Tensor
    """Scalar, the number of images whose closest text among G is their own, or with `Positives` one of theirs."""
    text_hits: Tensor
    """Scalar, the same for texts."""


def contrastive_loss(
    image_features_BD: Tensor,
    text_features_BD: Tensor,
    logit_scale: Tensor,
    label_smoothing: float = 0.0,
    rows: int = 4096,
    pairs_of_ranks: Sequence[int] | None = None,
    positives: Positives | None = None,
    is_compiled: bool = False,
) -> StepOutcome:
    """Compute the symmetric cross-entropy over all G x G pairings, each rank its own 2 B rows.

    Args:
        image_features_BD: not normalised; B may differ between ranks.
        text_features_BD: not normalised.
        logit_scale: scalar, log of the inverse temperature.
        label_smoothing: share of each target spread evenly over the G candidates, in [0, 1).
        rows: R, rows of the matrix that are in memory at a time.
        pairs_of_ranks: B of each rank; None: the ranks exchange them.
        positives: pairings that are no negatives; None: only each pair itself.
        is_compiled: compute the blocks by torch.compile.

    Returns:
        This rank's share of the loss and hits; the loss sums over the ranks to that of one process.

    Raises:
        ValueError: the two shapes differ.

    Source: Radford et al. 2021, figure 3; for the shared targets of `positives` Yang et al. 2022 (UniCL), equations 2-4.
    """
    images_BD, texts_BD = normalize_both(image_features_BD, text_features_BD)
    images_GD, first = gather_rows(images_BD, pairs_of_ranks)
    texts_GD, _ = gather_rows(texts_BD, pairs_of_ranks)
    scale = logit_scale.exp()
    compute = partial(_run_compiled, _softmax) if is_compiled else _softmax
    block = partial(compute, smoothing=label_smoothing, shares=positives is not None and positives.shares)
    image_loss, image_hits = sum_by_blocks(images_BD, texts_GD, scale, None, first, rows, block, positives)
    text_loss, text_hits = sum_by_blocks(texts_BD, images_GD, scale, None, first, rows, block, positives)
    return StepOutcome((image_loss + text_loss) / (2 * len(images_GD)), image_hits, text_hits)


def sigmoid_loss(
    image_features_BD: Tensor,
    text_features_BD: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    rows: int = 4096,
    pairs_of_ranks: Sequence[int] | None = None,
    positives: Positives | None = None,
    is_compiled: bool = False,
) -> StepOutcome:
    """Compute for each of the G x G pairings the binary loss of being a pair or not, each rank its own B rows.

    Args:
        image_features_BD: not normalised; B may differ between ranks.
        text_features_BD: not normalised.
        logit_scale: scalar, log of the inverse temperature.
        logit_bias: scalar, added to each logit.
        rows: R, rows of the matrix that are in memory at a time.
        pairs_of_ranks: B of each rank; None: the ranks exchange them.
        positives: pairings that are no negatives; None: only each pair itself.
        is_compiled: compute the blocks by torch.compile.

    Returns:
        This rank's share of the loss and hits; the loss sums over the ranks to that of one process.

    Raises:
        ValueError: the two shapes differ.

    Source: Zhai et al. 2023 (SigLIP), equation 1 and algorithm 1.
    """
    images_BD, texts_BD = normalize_both(image_features_BD, text_features_BD)
    texts_GD, first = gather_rows(texts_BD, pairs_of_ranks)
    compute = partial(_run_compiled, _sigmoid) if is_compiled else _sigmoid
    block = partial(compute, shares=positives is not None and positives.shares)
    loss, image_hits = sum_by_blocks(images_BD, texts_GD, logit_scale.exp(), logit_bias, first, rows, block, positives)
    with torch.no_grad():  # the loss has one direction only; the hits of the other are counted
        images_GD, _ = gather_rows(images_BD, pairs_of_ranks)
        hits = [
            count_hits(
                texts_RD @ images_GD.T,
                first + start,
                None if positives is None else positives.find(start, start + len(texts_RD)),
            )
            for start, texts_RD in split_rows(texts_BD, rows)
        ]
    return StepOutcome(loss / len(texts_GD), image_hits, torch.stack(hits).sum())


def normalize_both(image_features_BD: Tensor, text_features_BD: Tensor) -> tuple[Tensor, Tensor]:
    """Return both features in fp32 with rows of unit norm. Raises: ValueError: the two shapes differ."""
    if image_features_BD.shape != text_features_BD.shape:
        shapes = f"images {tuple(image_features_BD.shape)}, texts {tuple(text_features_BD.shape)}"
        raise ValueError(f"the shapes of the features differ: {shapes}")
    return F.normalize(image_features_BD.float(), dim=1), F.normalize(text_features_BD.float(), dim=1)


def _run_compiled(function: Callable[..., Any], logits_RG: Tensor, *arguments: Any, **options: Any) -> Any:
    torch._dynamo.maybe_mark_dynamic(logits_RG, [0, 1])
    return compile_function(function)(logits_RG, *arguments, **options)


# A `Block` may write its gradient into the memory of the logits ------------------------------------------------------


def _softmax(
    logits_RG: Tensor, first: int, positives_RG: Tensor | None, smoothing: float, *, shares: bool
) -> tuple[Tensor, Tensor]:
    if positives_RG is not None:
        return _softmax_of_positives(logits_RG, first, positives_RG, smoothing, shares=shares)
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


def _softmax_of_positives(
    logits_RG: Tensor, first: int, positives_RG: Tensor, smoothing: float, *, shares: bool
) -> tuple[Tensor, Tensor]:
    """Share each row's target among its positives, or leave all of them but its own pair out of its candidates."""
    least = torch.finfo(logits_RG.dtype).min  # finite: its product with a target of 0 is 0, and so is its exponential
    if shares:
        targets_RG = F.normalize(positives_RG.to(logits_RG.dtype), p=1, dim=1)
    else:
        targets_RG = torch.zeros_like(logits_RG)
        targets_RG.diagonal(first).fill_(1)
        logits_RG.masked_fill_(positives_RG & (targets_RG == 0), least)
    if smoothing:
        candidates_RG = logits_RG > least
        targets_RG = (1 - smoothing) * targets_RG + smoothing * candidates_RG / candidates_RG.sum(1, keepdim=True)
    normaliser_R1 = logits_RG.logsumexp(1, keepdim=True)
    loss = normaliser_R1.sum() - torch.dot(targets_RG.flatten(), logits_RG.flatten())
    return loss, logits_RG.sub_(normaliser_R1).exp_().sub_(targets_RG)


def _sigmoid(logits_RG: Tensor, first: int, positives_RG: Tensor | None, *, shares: bool) -> tuple[Tensor, Tensor]:
    if positives_RG is not None:
        if shares:
            loss = F.softplus(logits_RG).sum() - (logits_RG * positives_RG).sum()
            return loss, logits_RG.sigmoid_().sub_(positives_RG.to(logits_RG.dtype))
        others_RG = positives_RG.clone()
        others_RG.diagonal(first).fill_(False)
        logits_RG.masked_fill_(others_RG, -torch.inf)  # its softplus and its sigmoid are 0
    loss = F.softplus(logits_RG).sum() - logits_RG.diagonal(first).sum()
    gradient_RG = logits_RG.sigmoid_()
    gradient_RG.diagonal(first).sub_(1)
    return loss, gradient_RG
