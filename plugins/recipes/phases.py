"""The tables `[[train.phase]]`: image size, context length and batch size by share of a training."""

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

from training.hooks import TrainingHook
from training.model_config import FrozenModel, Phase

if TYPE_CHECKING:
    from training.config import TrainConfig


def _in_order(phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
    for number, (one, after) in enumerate(pairwise(phases), 1):
        if one.until >= after.until:
            raise ValueError(f"phase {number} ends at {one.until}, and phase {number + 1} at {after.until}; set more")
    if phases and phases[-1].until != 1:
        raise ValueError(f"the last phase ends at {phases[-1].until}; it must end at 1")
    return phases


class PhasesConfig(FrozenModel):
    """Settings of phases."""

    phase: Annotated[tuple[Phase, ...], AfterValidator(_in_order)] = ()
    """Parts of the training with an image size, context length and batch size of their own. Default: none."""


class _Phases(TrainingHook):
    config = PhasesConfig

    def phases(self, config: "TrainConfig") -> tuple[Phase, ...]:
        return self.settings(config).phase


PHASES = _Phases()
