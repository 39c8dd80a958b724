"""`train.ema`: an average of the weights, which is evaluated and saved in their place."""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from training.hooks import TrainingHook
from training.model_config import FrozenModel

if TYPE_CHECKING:
    from torch import nn

    from training.config import TrainConfig


class AverageConfig(FrozenModel):
    """Settings of the average."""

    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of an exponential moving average of the weights, such as 0.9999, which is evaluated and saved as the model in
    their place; 0: none."""


class _Average(TrainingHook):
    config = AverageConfig

    def average(self, model: "nn.Module", config: "TrainConfig", total_steps: int) -> Any:
        from plugins.recipes.weight_average import MovingAverage

        return MovingAverage(model, self.settings(config).ema)


AVERAGE = _Average()
