"""The loss of distillation from a teacher.

Legend: B pairs of this rank, G pairs of all ranks, R rows of a block, D embed_dim, T width of the teacher's features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.distributed import gather_rows
from training.losses.contrastive import Block, normalize_both, sum_by_blocks


def distillation_loss(
    image_features_BD: Tensor,
    text_features_BD: Tensor,
    logit_scale: Tensor,
    teacher_B2T: Tensor,
    teacher_scale: Tensor,
    rows: int = 4096,
    pairs_of_ranks: Sequence[int] | None = None,
) -> Tensor:
    """Compute the mean KL divergence of the student's softmax over G captions, or images, from the teacher's.

    Args:
        image_features_BD, text_features_BD, logit_scale, rows, pairs_of_ranks: see contrastive_loss.
        teacher_B2T: the teacher's features of images and captions, of unit norm.
        teacher_scale: scalar, the factor of the teacher's cosines.

    Returns: this rank's share, which sums over the ranks to the loss of one process.

    Source: Vasu et al. 2024 (MobileCLIP), equation 2 with one teacher.
    """
    images_BD, texts_BD = normalize_both(image_features_BD, text_features_BD)
    images_GD, first = gather_rows(images_BD, pairs_of_ranks)
    texts_GD, _ = gather_rows(texts_BD, pairs_of_ranks)
    teacher_images_BT, teacher_texts_BT = (features_BT.contiguous() for features_BT in teacher_B2T.unbind(1))
    with torch.no_grad():
        teacher_images_GT, _ = gather_rows(teacher_images_BT, pairs_of_ranks)
        teacher_texts_GT, _ = gather_rows(teacher_texts_BT, pairs_of_ranks)
    scale = logit_scale.exp()
    of_images = _make_block(teacher_images_BT, teacher_texts_GT, teacher_scale, first)
    of_texts = _make_block(teacher_texts_BT, teacher_images_GT, teacher_scale, first)
    image_loss, _ = sum_by_blocks(images_BD, texts_GD, scale, None, first, rows, of_images)
    text_loss, _ = sum_by_blocks(texts_BD, images_GD, scale, None, first, rows, of_texts)
    return (image_loss + text_loss) / (2 * len(images_GD))


def _make_block(queries_BT: Tensor, keys_GT: Tensor, scale: Tensor, offset: int) -> Block:
    """Return the block of one direction.

    Args:
        offset: number of this rank's first pair among all.
    """

    def block(logits_RG: Tensor, first: int, positives_RG: Tensor | None) -> tuple[Tensor, Tensor]:
        start = first - offset
        teacher_RG = (scale * queries_BT[start : start + len(logits_RG)] @ keys_GT.T).log_softmax(1)
        student_RG = logits_RG.log_softmax(1)
        targets_RG = teacher_RG.exp()
        loss = (targets_RG * (teacher_RG - student_RG)).sum()
        return loss, student_RG.exp_().sub_(targets_RG)

    return block
