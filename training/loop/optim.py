"""The parameter groups of the optimizer: those of the paper, and those with learning rates of their own."""

import math
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from dataops import plugins
from training.config import TrainConfig
from training.model.clip import CLIP
from training.step_hooks import used_step_hooks

MAX_LOGIT_SCALE = math.log(100)
"""Source: Radford et al. 2021, section 2.5: "clipped to prevent scaling the logits by more than 100"."""


def has_weight_decay(name: str, parameter: nn.Parameter) -> bool:
    """Return whether weight decay applies: a vector or scalar is a gain, a bias, the class token or logit_scale.

    Source: Radford et al. 2021, section 2.5: "all weights that are not gains or biases".
    """
    return parameter.ndim >= 2 and not name.endswith("bias")


def build_optimizer(model: CLIP, config: TrainConfig) -> Optimizer:
    """Build the optimizer over groups with and without decay, each in the order of the model's parameters.

    Parameters with another factor of the learning rate have such groups of their own, with the
    factor as `lr_scale`.

    Raises: ConfigError if torch has no such optimizer, or it cannot train this model.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    scales: dict[nn.Parameter, float] = {}
    for hook in used_step_hooks(config):
        for parameter, scale in hook.scale_rates(model, config).items():
            scales[parameter] = scale * scales.get(parameter, 1.0)

    def groups(accept: Callable[[str, nn.Parameter], bool]) -> list[dict[str, Any]]:
        found: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for scale in sorted({scales.get(p, 1.0) for _, p in named}):
            for decays in (True, False):
                found[scale, decays] = [
                    p
                    for n, p in named
                    if scales.get(p, 1.0) == scale and has_weight_decay(n, p) == decays and accept(n, p)
                ]
        return [
            {"params": parameters, "weight_decay": config.weight_decay if decays else 0.0}
            | ({"lr_scale": scale} if scale != 1 else {})
            for (scale, decays), parameters in found.items()
            if parameters
        ]

    return plugins.find("optimizers", config.optimizer).build(groups, config)
