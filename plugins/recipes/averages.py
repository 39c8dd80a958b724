"""Averages of the weights: of all steps (`ema`), or of the last points of a training (`average_last`)."""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from dataops.errors import ConfigError
from training.hooks import TrainingHook
from training.model_config import FrozenModel

if TYPE_CHECKING:
    from torch import nn

    from training.config import TrainConfig


class AverageConfig(FrozenModel):
    """Settings of the averages."""

    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of an exponential moving average of the weights, such as 0.9999, which is evaluated and saved as the model in
    their place; 0: none."""
    average_last: Annotated[int, Field(ge=0)] = 0
    """Number of the last points of the training whose weights are averaged, evaluated and saved as the model; 0: none."""
    average_every: Annotated[int, Field(ge=1)] = 100
    """Steps between these points; the last one is the last step."""


class _Averages(TrainingHook):
    config = AverageConfig

    def check(self, config: "TrainConfig") -> None:
        settings = self.settings(config)
        if settings.ema and settings.average_last:
            raise ValueError("ema and average_last: a model has one kind of average; set one of them to 0")

    def average(self, model: "nn.Module", config: "TrainConfig", total_steps: int) -> Any:
        from plugins.recipes.weight_average import LastAverage, MovingAverage

        settings = self.settings(config)
        if settings.ema:
            return MovingAverage(model, settings.ema)
        if not settings.average_last:
            return None
        points, every = settings.average_last, settings.average_every
        if total_steps - every * (points - 1) < 1:
            raise ConfigError(
                f"average_last: {points} points every {every} steps need more than the {total_steps} steps of this "
                "training; lower average_last or average_every"
            )
        return LastAverage(model, points, every, total_steps)


AVERAGES = _Averages()
