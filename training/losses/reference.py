"""A reference model, whose similarities are subtracted from those of the model that is trained.

The softmax and the global loss depend on differences of similarities only, so the loss of a pair becomes its excess over
the reference: negatives that the reference finds hard too count less. Source: Wei et al. 2025 (DRRho-CLIP), section 5.

Legend: B pairs of this rank, G pairs of all ranks, R rows of a block, T width of the reference's features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.distributed import gather_rows
from training.losses.blocks import Shift


def make_shifts(reference_B2T: Tensor, pairs_of_ranks: Sequence[int] | None) -> tuple[Shift, Shift]:
    """Return the reference's cosines of images with captions, and of captions with images; all ranks together.

    Args:
        reference_B2T: its features of images and captions, of unit norm.
    """
    images_BT, texts_BT = (features_BT.contiguous() for features_BT in reference_B2T.unbind(1))
    with torch.no_grad():
        images_GT, _ = gather_rows(images_BT, pairs_of_ranks)
        texts_GT, _ = gather_rows(texts_BT, pairs_of_ranks)
    return lambda a, b: images_BT[a:b] @ texts_GT.T, lambda a, b: texts_BT[a:b] @ images_GT.T
