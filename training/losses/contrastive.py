"""The contrastive losses over the pairs of all ranks, a few rows of the matrix of all pairings at a time.

Legend: B pairs of this rank, G pairs of all ranks, D embed_dim, R rows of a block.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from training.distributed import gather_rows
from training.losses.blocks import Positives, count_hits, split_rows, sum_by_blocks


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
    block = partial(_softmax, smoothing=label_smoothing, shares=positives is not None and positives.shares)
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

    Returns:
        This rank's share of the loss and hits; the loss sums over the ranks to that of one process.

    Raises:
        ValueError: the two shapes differ.

    Source: Zhai et al. 2023 (SigLIP), equation 1 and algorithm 1.
    """
    images_BD, texts_BD = normalize_both(image_features_BD, text_features_BD)
    texts_GD, first = gather_rows(texts_BD, pairs_of_ranks)
    block = partial(_sigmoid, shares=positives is not None and positives.shares)
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
    if shares:
        targets_RG = positives_RG / positives_RG.sum(1, keepdim=True)
        candidates_RG = torch.ones_like(positives_RG)
    else:
        targets_RG = torch.zeros_like(logits_RG)
        targets_RG.diagonal(first).fill_(1)
        candidates_RG = targets_RG.bool() | ~positives_RG
    targets_RG = (1 - smoothing) * targets_RG + smoothing * candidates_RG / candidates_RG.sum(1, keepdim=True)
    normaliser_R1 = logits_RG.masked_fill(~candidates_RG, -torch.inf).logsumexp(1, keepdim=True)
    loss = normaliser_R1.sum() - torch.dot(targets_RG.flatten(), logits_RG.flatten())
    # A logit that is left out may exceed the normaliser, and its exponential overflow.
    gradient_RG = logits_RG.sub_(normaliser_R1).exp_().masked_fill_(~candidates_RG, 0).sub_(targets_RG)
    return loss, gradient_RG


def _sigmoid(logits_RG: Tensor, first: int, positives_RG: Tensor | None, *, shares: bool) -> tuple[Tensor, Tensor]:
    if positives_RG is None:
        loss = F.softplus(logits_RG).sum() - logits_RG.diagonal(first).sum()
        gradient_RG = logits_RG.sigmoid_()
        gradient_RG.diagonal(first).sub_(1)
        return loss, gradient_RG
    if shares:
        loss = F.softplus(logits_RG).sum() - (logits_RG * positives_RG).sum()
        return loss, logits_RG.sigmoid_().sub_(positives_RG.to(logits_RG.dtype))
    is_own_RG = torch.zeros_like(positives_RG)
    is_own_RG.diagonal(first).fill_(True)
    logits_RG.masked_fill_(positives_RG & ~is_own_RG, -torch.inf)  # its softplus and its sigmoid are 0
    loss = F.softplus(logits_RG).sum() - logits_RG.diagonal(first).sum()
    return loss, logits_RG.sigmoid_().sub_(is_own_RG.to(logits_RG.dtype))
