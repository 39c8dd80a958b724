"""The seam of losses, and the core's own: softmax and sigmoid. No torch is imported here (training/hooks.py)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dataops import plugins
from training.hooks import Extension

if TYPE_CHECKING:
    from torch import Tensor

    from training.config import TrainConfig
    from training.data.loader import Batch
    from training.losses.contrastive import Positives, StepOutcome
    from training.model.clip import Outputs
    from training.model_config import ModelConfig


@dataclass(frozen=True)
class LossStep:
    """What a loss takes beside the features of a step."""

    config: "TrainConfig"
    pairs_of_ranks: Sequence[int] | None = None
    """Pairs of the step on each rank; None: the ranks exchange them."""
    inputs: "Mapping[str, Tensor]" = field(default_factory=dict)
    """Tensors that `Loss.make_inputs` and the hooks made, on the model's device, by name."""
    positives: "Positives | None" = None
    """Pairings that are no negatives; None: only each pair itself."""


class Loss(Extension):
    """A loss over the pairs of all ranks."""

    has_bias: bool = False
    """Whether it adds the model's `logit_bias` to each logit."""

    def dimensions(self, dimensions: "ModelConfig") -> "ModelConfig":
        """Return the dimensions of a model for this loss: its first temperature and bias."""
        return dimensions

    def make_inputs(self, batch: "Batch", config: "TrainConfig") -> "dict[str, Tensor]":
        """Return tensors of a batch by name, on the CPU, in a thread of the loader."""
        return {}

    def __call__(self, outputs: "Outputs", step: LossStep) -> "StepOutcome":
        """Return this rank's share of the loss, and the hits."""
        raise NotImplementedError


class _Softmax(Loss):
    def __call__(self, outputs: "Outputs", step: LossStep) -> "StepOutcome":
        from training.losses.contrastive import contrastive_loss

        return contrastive_loss(
            *outputs[:3],
            step.config.label_smoothing,
            step.config.loss_rows,
            step.pairs_of_ranks,
            step.positives,
            step.config.compile,
        )


class _Sigmoid(Loss):
    has_bias = True

    def dimensions(self, dimensions: "ModelConfig") -> "ModelConfig":
        return dimensions.for_sigmoid_loss()

    def __call__(self, outputs: "Outputs", step: LossStep) -> "StepOutcome":
        from training.losses.contrastive import sigmoid_loss

        assert outputs.logit_bias is not None
        return sigmoid_loss(
            *outputs[:3],
            outputs.logit_bias,
            step.config.loss_rows,
            step.pairs_of_ranks,
            step.positives,
            step.config.compile,
        )


SOFTMAX, SIGMOID = _Softmax(), _Sigmoid()


def find_loss(config: "TrainConfig") -> Loss:
    """Return the loss that a config names."""
    return plugins.find("losses", config.loss)


def compute_loss(
    outputs: "Outputs",
    config: "TrainConfig",
    pairs_of_ranks: Sequence[int] | None = None,
    inputs: "Mapping[str, Tensor] | None" = None,
) -> "StepOutcome":
    """Compute the loss that a config names.

    Args:
        pairs_of_ranks: pairs of the step on each rank; None: the ranks exchange them.
        inputs: what the config needs beside the features, by name; None: nothing.
    """
    from training.losses.contrastive import Positives

    inputs = inputs or {}
    positives = None
    if config.multi_positive != "off":
        positives = Positives(inputs["identities_B2"], pairs_of_ranks, shares=config.multi_positive == "share")
    return find_loss(config)(outputs, LossStep(config, pairs_of_ranks, inputs, positives))
