"""A model with all that a step changes, put together once for training jobs and for benchmarks."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from training import distributed
from training.config import TrainConfig
from training.loop.bad_steps import StepGuard
from training.loop.initial_model import build_initial_model
from training.loop.inputs import StepInputs
from training.loop.optim import build_optimizer
from training.loop.step import take_step
from training.loop.weight_average import WeightAverage
from training.model.clip import CLIP
from training.model_config import ModelConfig
from training.placement import place_model


@dataclass
class Learner:
    """A model, or this rank's part of it, and what belongs to its training."""

    config: TrainConfig
    """With its precision resolved."""
    model: CLIP
    forward: nn.Module
    """The model, or DistributedDataParallel around it."""
    optimizer: Optimizer
    average: WeightAverage | None
    """None without `ema`."""
    guard: StepGuard | None
    """None if the first bad step ends the job."""

    def take_step(
        self, number: int, inputs: StepInputs, *, lr: float, pairs_of_ranks: Sequence[int] | None = None
    ) -> Tensor:
        """Take one step, from 1; on a GPU this only launches it. For arguments and result, see take_step."""
        values_V = take_step(
            self.model,
            self.forward,
            self.optimizer,
            self.config,
            inputs,
            lr=lr,
            pairs_of_ranks=pairs_of_ranks,
            guard=self.guard,
        )
        if self.average is not None:
            self.average.update(number)
        return values_V


def build_learner(config: TrainConfig, dimensions: ModelConfig, seed: int, device: torch.device) -> Learner:
    """Build a model on its device, as it is before the first step, and its optimizer; all ranks together.

    Raises: ConfigError as build_initial_model.
    """
    torch.manual_seed(seed)  # decides the first weights; nothing after them draws from torch's generator
    model = build_initial_model(config, dimensions)
    distributed.synchronize_batch_norm(model, device)
    forward = place_model(model, device, config)
    return Learner(
        config=config,
        model=model,
        forward=forward,
        optimizer=build_optimizer(model, config),
        average=WeightAverage(model, config.ema) if config.ema else None,
        guard=StepGuard(config, device) if config.max_bad_steps else None,
    )
