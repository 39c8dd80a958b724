"""A contrastive loss over all pairs of the dataset, of which a batch holds few.

The softmax of a batch compares a pair with the others of the batch only, so its loss depends on the size of the batch.
This loss compares it with the whole dataset: a moving average for each sample estimates the mean exponential over all its
negatives. Its objective, with temperature t, cosines s and n samples, is

    F = t / (2 n) x sum over i of [log(eps + g1_i) + log(eps + g2_i)] + rho x t
    g1_i = mean over j != i of exp((s(image i, text j) - s(image i, text i)) / t), and g2_i with the two exchanged.

Source: Wei et al. 2024 (FastCLIP), version 3, equation RGCL-g and algorithm 1, of which this is half; the estimator is that
of Yuan et al. 2022 (SogCLR).

Legend: B pairs of this rank, G pairs of all ranks, R rows of a block, S samples of the dataset, D embed_dim.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from training.losses.loss import Loss, LossStep
from training.model_config import FrozenModel, NonNegative, Positive

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from training.config import TrainConfig
    from training.data.loader import Batch
    from training.losses.blocks import Block, Positives, Shift
    from training.losses.contrastive import StepOutcome
    from training.model.clip import Outputs


class GlobalLossConfig(FrozenModel):
    """Settings of `loss = "global"`. The defaults are those of FastCLIP-v3 for 2.7 million pairs."""

    gamma: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of the batch in the moving average of a denominator, in the last epochs."""
    gamma_schedule: Literal["cosine", "constant"] = "cosine"
    """cosine: from 1 in the first epoch to `gamma` by half a cosine. constant: `gamma`."""
    gamma_epochs: Annotated[int, Field(ge=1)] | None = None
    """Epochs in which the cosine falls; None: half of all, rounded up."""
    rho: NonNegative = 6.5
    """Weight of the temperature in the loss: the greater, the smaller is the temperature that is learnt."""
    eps: Positive = 1e-14
    """Added to each denominator."""

    def gamma_at(self, epoch: int, epochs: int) -> float:
        """Return the share of the batch in an epoch, from 0. Source: Wei et al. 2024 (FastCLIP), section 4."""
        falling = self.gamma_epochs or -(-epochs // 2)
        if self.gamma_schedule == "constant" or epoch >= falling:
            return self.gamma
        return 0.5 * (1 + math.cos(math.pi * epoch / falling)) * (1 - self.gamma) + self.gamma


class Denominators:
    """The log of the moving average of each sample's mean exponential over its negatives.

    It is equal on all ranks, each of which holds all of it: 8 bytes a sample, in memory and in a checkpoint.

    Args:
        samples: S.
    """

    def __init__(self, samples: int, device: "torch.device"):
        import torch

        self.log_averages_S2 = torch.full((samples, 2), -torch.inf, device=device)
        """Column 0: of images among texts; 1: of texts among images. -inf: the sample has not been seen."""
        self._pending: tuple[Tensor, Tensor] | None = None

    def read(self, samples_B: "Tensor") -> "Tensor":
        """Return the averages (B, 2) of some samples, whose numbers may count repeats (see Plan.batch)."""
        return self.log_averages_S2[samples_B % len(self.log_averages_S2)]

    def propose(self, samples_B: "Tensor", log_averages_B2: "Tensor", pairs_of_ranks: Sequence[int] | None) -> None:
        """Keep the new averages of this rank's samples until the step counts; all ranks together."""
        from training.distributed import gather_rows

        samples_G1, _ = gather_rows(samples_B[:, None] % len(self.log_averages_S2), pairs_of_ranks)
        self._pending = samples_G1[:, 0], gather_rows(log_averages_B2, pairs_of_ranks)[0]

    def update(self, is_bad: "Tensor | None") -> None:
        """Write the new averages of the last step, unless it was bad."""
        import torch

        assert self._pending is not None
        (samples_G, new_G2), self._pending = self._pending, None
        if is_bad is not None:
            new_G2 = torch.where(is_bad, self.log_averages_S2[samples_G], new_G2)
        self.log_averages_S2[samples_G] = new_G2

    def tensors(self) -> "dict[str, Tensor]":
        """Return what a checkpoint holds of it, by name."""
        return {"denominators": self.log_averages_S2}


def global_loss(
    image_features_BD: "Tensor",
    text_features_BD: "Tensor",
    logit_scale: "Tensor",
    samples_B: "Tensor",
    gamma: "Tensor",
    denominators: Denominators,
    config: GlobalLossConfig,
    rows: int = 4096,
    pairs_of_ranks: Sequence[int] | None = None,
    positives: "Positives | None" = None,
    shifts: "tuple[Shift | None, Shift | None]" = (None, None),
) -> "StepOutcome":
    """Estimate the gradient of the global loss, and propose new averages.

    Args:
        image_features_BD, text_features_BD, logit_scale, rows, pairs_of_ranks: see contrastive_loss.
        samples_B: numbers of the samples, as EpochPlan.batch returns them.
        gamma: scalar, the share of the batch in the moving averages of the denominators.
        positives: pairings that are left out of the denominators; None: only each pair itself.
        shifts: see contrastive_loss.

    Returns:
        This rank's share. The gradient is that of F. The value is the softmax loss with the averages in place of the
        batch's own denominators: the mean of log(1 + N u), where N is the number of negatives in the batch. So it is
        comparable with the loss of `softmax`, and equal to it where gamma is 1.
    """
    import torch

    from training.distributed import gather_rows
    from training.losses.blocks import sum_by_blocks
    from training.losses.contrastive import StepOutcome, normalize_both

    images_BD, texts_BD = normalize_both(image_features_BD, text_features_BD)
    images_GD, first = gather_rows(images_BD, pairs_of_ranks)
    texts_GD, _ = gather_rows(texts_BD, pairs_of_ranks)
    scale, total = logit_scale.exp(), 2 * len(images_GD)
    averages_B2 = denominators.read(samples_B)
    image_block, text_block = (
        _make_block(averages_B, first, gamma, 1 / scale.detach(), config.eps) for averages_B in averages_B2.unbind(1)
    )
    image_loss, image_hits = sum_by_blocks(
        images_BD, texts_GD, scale, None, first, rows, image_block, positives, shifts[0]
    )
    text_loss, text_hits = sum_by_blocks(
        texts_BD, images_GD, scale, None, first, rows, text_block, positives, shifts[1]
    )
    denominators.propose(samples_B, averages_B2, pairs_of_ranks)
    logs = torch.logaddexp(averages_B2, torch.full_like(averages_B2, math.log(config.eps))).sum()
    # F also depends on the temperature by the factor before its logs.
    factor = (logs / total + config.rho * len(images_BD) / len(images_GD)) * (-logit_scale).exp()
    return StepOutcome((image_loss + text_loss) / total + factor - factor.detach(), image_hits, text_hits)


def _make_block(averages_B: "Tensor", offset: int, gamma: "Tensor", temperature: "Tensor", eps: float) -> "Block":
    """Return the block of one direction, which replaces the averages by the new ones.

    Args:
        averages_B: logs; those of the rows of a block are replaced when it is computed.
        offset: number of this rank's first pair among all.
    """
    import torch
    from torch import Tensor
    from torch.nn import functional as F

    def block(logits_RG: Tensor, first: int, positives_RG: Tensor | None) -> tuple[Tensor, Tensor]:
        is_left_out_RG = torch.zeros_like(logits_RG, dtype=torch.bool) if positives_RG is None else positives_RG
        is_left_out_RG.diagonal(first).fill_(True)
        negatives_R = logits_RG.shape[1] - is_left_out_RG.sum(1)
        has_some_R = negatives_R > 0
        own_R1 = logits_RG.diagonal(first).unsqueeze(1).clone()
        differences_RG = logits_RG.sub_(own_R1).masked_fill_(is_left_out_RG, -torch.inf)
        log_sum_R = differences_RG.logsumexp(1)
        log_mean_R = log_sum_R - negatives_R.clamp(min=1).log()
        kept_R = averages_B[first - offset : first - offset + len(logits_RG)]
        mixed_R = torch.logaddexp(kept_R + (-gamma).log1p(), log_mean_R + gamma.log())
        kept_R.copy_(torch.where(has_some_R, torch.where(kept_R.isneginf(), log_mean_R, mixed_R), kept_R))
        log_averages_R = torch.logaddexp(kept_R, torch.full_like(kept_R, math.log(eps)))
        weights_R1 = (temperature * (log_mean_R - log_averages_R).exp()).unsqueeze(1)
        gradient_RG = differences_RG.sub_(log_sum_R.where(has_some_R, log_sum_R.new_zeros(())).unsqueeze(1)).exp_()
        gradient_RG.mul_(weights_R1)
        gradient_RG.diagonal(first).copy_(-weights_R1[:, 0])
        return F.softplus(negatives_R.log() + kept_R).where(has_some_R, kept_R.new_zeros(())).sum(), gradient_RG

    return block


class _GlobalLoss(Loss):
    config, table = GlobalLossConfig, "global_loss"

    def check(self, config: "TrainConfig") -> None:
        if config.label_smoothing or config.multi_positive == "share":
            raise ValueError(
                'loss = "global" has no targets to share: set label_smoothing = 0, multi_positive = "mask"'
            )

    def make_inputs(self, batch: "Batch", config: "TrainConfig") -> "dict[str, Tensor]":
        import torch

        gamma = self.settings(config).gamma_at(batch.epoch, config.epochs)
        return {"samples_B": torch.from_numpy(batch.samples), "gamma": torch.tensor(gamma)}

    def make_state(self, config: "TrainConfig", samples: int, device: "torch.device") -> Denominators:
        return Denominators(samples, device)

    def __call__(self, outputs: "Outputs", step: LossStep) -> "StepOutcome":
        assert isinstance(step.state, Denominators)
        return global_loss(
            *outputs[:3],
            step.inputs["samples_B"],
            step.inputs["gamma"],
            step.state,
            self.settings(step.config),
            step.config.loss_rows,
            step.pairs_of_ranks,
            step.positives,
            step.shifts,
        )


LOSS = _GlobalLoss()
