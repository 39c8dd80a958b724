"""The loss that a config names."""

from collections.abc import Sequence

from training.config import TrainConfig
from training.losses.contrastive import StepOutcome, contrastive_loss, sigmoid_loss
from training.losses.global_loss import Denominators, global_loss
from training.losses.inputs import LossInputs
from training.losses.positives import Positives
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
    of_pairs = images_BD, texts_BD, logit_scale
    if config.loss == "sigmoid":
        assert logit_bias is not None
        return sigmoid_loss(*of_pairs, logit_bias, config.loss_rows, pairs_of_ranks, positives)
    if config.loss == "global":
        assert inputs is not None
        assert denominators is not None
        settings = config.global_loss, config.loss_rows, pairs_of_ranks, positives
        return global_loss(*of_pairs, inputs, denominators, *settings)
    return contrastive_loss(*of_pairs, config.label_smoothing, config.loss_rows, pairs_of_ranks, positives)
