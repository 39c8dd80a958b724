"""The symmetric contrastive loss over the pairs of all ranks.

Legend: B pairs of this rank, G pairs of all ranks, D embed_dim.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from training.distributed import gather_rows


@dataclass(frozen=True)
class StepOutcome:
    """Sums over this rank's pairs; their totals over the ranks, divided by `pairs`, are the step's metrics."""

    loss: Tensor
    """Scalar with gradient: this rank's share of the mean loss over all G pairs."""
    image_hits: Tensor
    """Pictures that are closest to their own text among G."""
    text_hits: Tensor
    """Texts that are closest to their own picture among G."""
    pairs: int
    """G."""


def contrastive_loss(
    image_features_BD: Tensor, text_features_BD: Tensor, logit_scale: Tensor, label_smoothing: float = 0.0
) -> StepOutcome:
    """Symmetric cross-entropy over all G x G pairings; each rank works out its own 2 B rows of it.

    Args:
        image_features_BD: not normalised; B may differ between ranks.
        text_features_BD: not normalised.
        logit_scale: log of the inverse temperature.
        label_smoothing: share of each target spread evenly over the G candidates.

    Raises:
        ValueError: the two shapes differ.

    Source: Radford et al. 2021, figure 3.
    """
    if image_features_BD.shape != text_features_BD.shape:
        raise ValueError(f"{tuple(image_features_BD.shape)} pictures, {tuple(text_features_BD.shape)} texts")
    images_BD = F.normalize(image_features_BD.float(), dim=1)
    texts_BD = F.normalize(text_features_BD.float(), dim=1)
    images_GD, first = gather_rows(images_BD)
    texts_GD, _ = gather_rows(texts_BD)
    scale = logit_scale.exp()
    image_logits_BG = scale * images_BD @ texts_GD.T
    text_logits_BG = scale * texts_BD @ images_GD.T
    targets_B = torch.arange(first, first + len(images_BD), device=images_BD.device)
    total = sum(
        F.cross_entropy(logits, targets_B, reduction="sum", label_smoothing=label_smoothing)
        for logits in (image_logits_BG, text_logits_BG)
    )
    assert isinstance(total, Tensor)
    return StepOutcome(
        loss=total / (2 * len(images_GD)),
        image_hits=(image_logits_BG.argmax(1) == targets_B).sum(),
        text_hits=(text_logits_BG.argmax(1) == targets_B).sum(),
        pairs=len(images_GD),
    )
