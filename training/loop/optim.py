"""AdamW with the paper's parameter groups, and its learning-rate schedule."""

import math

from torch import nn
from torch.optim import AdamW

from training.config import TrainConfig

MAX_LOGIT_SCALE = math.log(100)
"""Source: Radford et al. 2021, section 2.5: "clipped to prevent scaling the logits by more than 100"."""


def has_weight_decay(name: str, parameter: nn.Parameter) -> bool:
    """Return whether weight decay applies: a vector or scalar is a gain, a bias, the class token or logit_scale.

    Source: Radford et al. 2021, section 2.5: "all weights that are not gains or biases".
    """
    return parameter.ndim >= 2 and not name.endswith("bias")


def build_optimizer(model: nn.Module, config: TrainConfig) -> AdamW:
    """Build AdamW over two groups, with and without decay, each in the order of the model's parameters."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for n, p in named if has_weight_decay(n, p)], "weight_decay": config.weight_decay},
        {"params": [p for n, p in named if not has_weight_decay(n, p)], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)


def learning_rate(step: int, total_steps: int, config: TrainConfig) -> float:
    """Return the learning rate of a step, from 1: linear from 0 to the peak, then half a cosine to 0 after the last."""
    warmup_steps = math.ceil(config.warmup * total_steps)
    if step <= warmup_steps:
        return config.lr * step / warmup_steps
    progress = (step - warmup_steps) / (total_steps - warmup_steps + 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))
