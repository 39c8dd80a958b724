"""The loss that a config names."""

from collections.abc import Sequence
from dataclasses import replace

from training.config import TrainConfig
from training.losses.contrastive import StepOutcome, contrastive_loss, sigmoid_loss
from training.losses.distillation import distillation_loss
from training.losses.global_loss import Denominators, global_loss
from training.losses.inputs import LossInputs
from training.losses.positives import Positives
from training.losses.reference import make_shifts
from training.model.clip import Outputs


def compute_loss(
    outputs: Outputs,
    config: TrainConfig,
    pairs_of_ranks: Sequence[int] | None = None,
    inputs: LossInputs | None = None,
    denominators: Denominators | None = None,
) -> StepOutcome:
    """Compute the loss that the config names.

    Args:
        pairs_of_ranks: pairs of the step on each rank; None: the ranks exchange them.
        inputs: what the config needs beside the features; None: nothing.
        denominators: of the global loss, which proposes new ones.
    """
    images_BD, texts_BD, logit_scale, logit_bias = outputs
    positives = None
    if config.multi_positive != "off":
        assert inputs is not None
        assert inputs.identities_B2 is not None
        positives = Positives(inputs.identities_B2, pairs_of_ranks, shares=config.multi_positive == "share")
    if inputs is not None and inputs.reference_B2T is not None:
        shifts = make_shifts(inputs.reference_B2T, pairs_of_ranks)
    else:
        shifts = None, None
    of_pairs, of_ranks = (images_BD, texts_BD, logit_scale), (config.loss_rows, pairs_of_ranks)
    if config.loss == "sigmoid":
        assert logit_bias is not None
        outcome = sigmoid_loss(*of_pairs, logit_bias, *of_ranks, positives)
    elif config.loss == "global":
        assert inputs is not None
        assert denominators is not None
        outcome = global_loss(*of_pairs, inputs, denominators, config.global_loss, *of_ranks, positives, shifts)
    else:
        outcome = contrastive_loss(*of_pairs, config.label_smoothing, *of_ranks, positives, shifts)
    if config.distill is None:
        return outcome
    assert inputs is not None
    assert inputs.teacher_B2T is not None
    assert inputs.teacher_scale is not None
    divergence = distillation_loss(*of_pairs, inputs.teacher_B2T, inputs.teacher_scale, *of_ranks)
    weight = config.distill.weight
    return replace(outcome, loss=(1 - weight) * outcome.loss + weight * divergence)
