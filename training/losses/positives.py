"""Pairings of a step that are no negatives: an image and the caption of another pair that has the same image or caption.

Legend: B pairs of this rank, G pairs of all ranks, R rows of a block.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

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
