"""The schedules rsqrt and wsd, and the cool-down of any schedule but the cosine."""

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from training.hooks import TrainingHook
from training.model_config import FrozenModel, Share
from training.optimizers import Schedule

if TYPE_CHECKING:
    from training.config import TrainConfig


class RsqrtConfig(FrozenModel):
    """Settings of `schedule = "rsqrt"`."""

    rsqrt_steps: Annotated[int, Field(ge=1)] = 10_000
    """Time scale of `schedule = "rsqrt"`, in steps: the rate is the peak / sqrt(1 + steps after the warm-up / this)."""


class CooldownConfig(FrozenModel):
    """Settings of the cool-down."""

    cooldown: Share | None = None
    """Share of all steps, the last ones, in which the learning rate falls to 0; None: 0.2 with wsd, else 0. cosine has
    none."""
    cooldown_shape: Literal["linear", "sqrt"] = "linear"
    """Factor of the learning rate in a cool-down of which a share s has passed: 1 - s, or 1 - sqrt(s)."""


class _Rsqrt(Schedule):
    config = RsqrtConfig

    def rate(self, step: int, total_steps: int, warmup_steps: int, config: "TrainConfig") -> float:
        return config.lr / math.sqrt(1 + (step - warmup_steps) / self.settings(config).rsqrt_steps)


class _Wsd(Schedule):
    """Warm-up, stable, decay: the peak, then the cool-down."""

    def rate(self, step: int, total_steps: int, warmup_steps: int, config: "TrainConfig") -> float:
        return config.lr


class _Cooldown(TrainingHook):
    config = CooldownConfig

    def is_used(self, config: "TrainConfig") -> bool:
        return config.schedule == "wsd" or super().is_used(config)

    def check(self, config: "TrainConfig") -> None:
        cooldown = self.settings(config).cooldown
        if config.schedule == "cosine" and cooldown:
            raise ValueError('cooldown: the cosine falls to 0 itself; set schedule to "constant", "rsqrt" or "wsd"')
        if config.schedule == "wsd" and cooldown == 0:
            raise ValueError('cooldown: wsd ends in one; set more than 0, or schedule = "constant"')

    def rate(self, rate: float, step: int, total_steps: int, config: "TrainConfig") -> float:
        """Multiply the rate by a factor from 1 at the first of the last steps towards 0 after the last."""
        values = self.settings(config)
        share = values.cooldown if values.cooldown is not None else 0.2 if config.schedule == "wsd" else 0.0
        steps = math.ceil(share * total_steps)
        passed = step - 1 - (total_steps - steps)
        if passed <= 0:
            return rate
        return rate * (1 - (passed / steps) ** (0.5 if values.cooldown_shape == "sqrt" else 1))


RSQRT, WSD, COOLDOWN = _Rsqrt(), _Wsd(), _Cooldown()
