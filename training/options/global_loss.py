"""The table `[train.global_loss]`."""

import math
from typing import Annotated, Literal

from pydantic import Field

from training.model_config import FrozenModel
from training.options.bounds import NonNegative, Positive


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
