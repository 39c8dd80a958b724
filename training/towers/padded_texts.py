"""The texts of a batch for a pretrained tower: token ids with padding, or features that were computed before.

Legend: B texts, L tokens of the longest, X tokens or numbers of a feature.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class PaddedTexts(NamedTuple):
    """A tuple of tensors, as PackedTexts is, which DistributedDataParallel takes as it is."""

    rows_BX: Tensor
    """Token ids (B, L), padded with 0, or features (B, W)."""
    ends_B: Tensor
    """Number of tokens of each text, without padding; 0 for features."""
    slots_T: Tensor
    """Index of each token in the flattened batch; empty for features."""

    @property
    def token_count(self) -> int:
        """Number of tokens of all texts."""
        return len(self.slots_T)

    @property
    def padded_count(self) -> int:
        """Texts x squared length of the longest, to which attention is padded; 0 for features."""
        return 0 if self.rows_BX.is_floating_point() else self.rows_BX.numel() * self.rows_BX.shape[1]


def pad_chunks(rows_BX: Tensor, rows: int | None) -> list[PaddedTexts]:
    """Return `rows` texts at a time; None: all together.

    Args:
        rows_BX: token ids or features, on the CPU.
    """
    return [_pad_texts(chunk) for chunk in _split(rows_BX, rows)]


def _pad_texts(rows_BX: Tensor) -> PaddedTexts:
    if rows_BX.is_floating_point():
        return PaddedTexts(rows_BX, torch.zeros(len(rows_BX), dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    lengths_B = (rows_BX != 0).sum(dim=1)
    longest = max(int(((rows_BX != 0) * torch.arange(1, rows_BX.shape[1] + 1)).max()), 1) if rows_BX.numel() else 1
    cut_BL = rows_BX[:, :longest].contiguous()
    return PaddedTexts(cut_BL, lengths_B, (cut_BL != 0).flatten().nonzero()[:, 0])


def _split(rows_BX: Tensor, rows: int | None) -> Iterator[Tensor]:
    rows = rows or max(len(rows_BX), 1)
    for start in range(0, max(len(rows_BX), 1), rows):
        yield rows_BX[start : start + rows]
