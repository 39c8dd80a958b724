"""A loss of all pairings, summed over a few rows of their matrix at a time.

Each rank computes its own rows against the features of all ranks, and gradients reach the ranks that the features came
from. The value and the gradient of a block of rows are computed together, so no block outlives its turn: memory is
R x G, where autograd would keep B x G several times over.

Legend: B pairs of this rank, G pairs of all ranks, D embed_dim, R rows of a block.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from training.distributed import gather_rows


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
