"""The cool-down of a schedule: the learning rate falls to 0 in the last steps."""

import math
from typing import TYPE_CHECKING, Literal

from training.hooks import TrainingHook
from training.model_config import FrozenModel, Share

if TYPE_CHECKING:
    from training.config import TrainConfig


class CooldownConfig(FrozenModel):
    """Settings of the cool-down."""

    cooldown: Share = 0.0
    """Share of all steps, the last ones, in which the learning rate falls to 0. cosine has none."""
    cooldown_shape: Literal["linear", "sqrt"] = "linear"
    """Factor of the learning rate in a cool-down of which a share s has passed: 1 - s, or 1 - sqrt(s)."""


class _Cooldown(TrainingHook):
    config = CooldownConfig

    def check(self, config: "TrainConfig") -> None:
        if config.schedule == "cosine" and self.settings(config).cooldown:
            raise ValueError('cooldown: the cosine falls to 0 itself; set schedule = "constant"')

    def rate(self, rate: float, step: int, total_steps: int, config: "TrainConfig") -> float:
        """Multiply the rate by a factor from 1 at the first of the last steps towards 0 after the last."""
        values = self.settings(config)
        steps = math.ceil(values.cooldown * total_steps)
        passed = step - 1 - (total_steps - steps)
        if passed <= 0:
            return rate
        return rate * (1 - (passed / steps) ** (0.5 if values.cooldown_shape == "sqrt" else 1))


COOLDOWN = _Cooldown()
