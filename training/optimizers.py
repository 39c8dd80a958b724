"""The seams of optimizers and of schedules of the learning rate, and the core's own. No torch is imported here."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dataops import plugins
from training.hooks import Extension

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from training.config import TrainConfig

    Groups = Callable[[Callable[[str, nn.Parameter], bool]], list[dict[str, Any]]]
    """Maps a condition on name and parameter to the parameter groups of those that meet it."""


class OptimizerBuilder(Extension):
    """Builds an optimizer over the parameter groups of a model."""

    def build(self, groups: "Groups", config: "TrainConfig") -> "Optimizer":
        """Return the optimizer. It takes no step where its `found_inf` is 1, as torch's fused ones.

        Raises: ConfigError if it cannot train this model, or torch has none.
        """
        raise NotImplementedError


class _AdamW(OptimizerBuilder):
    def build(self, groups: "Groups", config: "TrainConfig") -> "Optimizer":
        from torch.optim import AdamW

        found = groups(lambda *_: True)
        return AdamW(found, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)


class Schedule(Extension):
    """The learning rate after the warm-up."""

    def rate(self, step: int, total_steps: int, warmup_steps: int, config: "TrainConfig") -> float:
        """Return the learning rate of a step after the last one of the warm-up."""
        raise NotImplementedError


class _Cosine(Schedule):
    def rate(self, step: int, total_steps: int, warmup_steps: int, config: "TrainConfig") -> float:
        progress = (step - warmup_steps) / (total_steps - warmup_steps + 1)
        return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


class _Constant(Schedule):
    def rate(self, step: int, total_steps: int, warmup_steps: int, config: "TrainConfig") -> float:
        return config.lr


ADAMW, COSINE, CONSTANT = _AdamW(), _Cosine(), _Constant()


def count_warmup_steps(total_steps: int, config: "TrainConfig") -> int:
    """Return the number of steps in which the learning rate climbs."""
    return math.ceil(config.warmup * total_steps) if config.warmup_steps is None else config.warmup_steps


def learning_rate(step: int, total_steps: int, config: "TrainConfig") -> float:
    """Return the learning rate of a step, from 1: linear from 0 to the peak, then by the schedule of the config."""
    warmup_steps = count_warmup_steps(total_steps, config)
    if step <= warmup_steps:
        return config.lr * step / warmup_steps
    return plugins.find("schedules", config.schedule).rate(step, total_steps, warmup_steps, config)
