"""The two sides of a comparison: the step that training.train takes, and that of open_clip_train/train.py 3.3.

Both return functions that launch a step and read nothing back.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from training.config import TrainConfig
from training.loop.inputs import StepInputs
from training.loop.training_run import build_learner
from training.model.clip import CLIP
from training.model_config import ModelConfig
from training.train import set_up_torch

OurStep = Callable[[StepInputs, float], Tensor]
"""Maps inputs on the device and a learning rate to StepValues as fp64 (V,); the loss is the first."""
PeerStep = Callable[[Tensor, Tensor, float], Tensor]
"""Maps normalised images (B, 3, S, S), tokens (B, L) and a learning rate to the loss."""


def make_our_step(
    config: TrainConfig, dimensions: ModelConfig, device: torch.device, pairs_of_ranks: list[int] | None = None
) -> tuple[CLIP, OurStep]:
    """Return a model on a device and its step, put together as training.train does, with its choice of kernels.

    Args:
        pairs_of_ranks: pairs of each rank; None: there is one.
    """
    set_up_torch(config, device)
    learner = build_learner(config, dimensions, 0, device)
    learner.model.train()

    def step(inputs: StepInputs, lr: float) -> Tensor:
        return learner.take_step(inputs, lr=lr, pairs_of_ranks=pairs_of_ranks)

    return learner.model, step


def make_open_clip_model(dimensions: ModelConfig) -> Any:
    """Return open_clip's model of these dimensions, with random weights."""
    from open_clip.model import CLIP as OpenClip

    torch.manual_seed(0)
    fields = dimensions.model_dump(include={"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"})
    return OpenClip(**fields, output_dict=True)


def make_open_clip_step(model: Any, config: TrainConfig, device: torch.device, *, fused: bool = False) -> PeerStep:
    """Return open_clip's step for a model of its own, with its loss, parameter groups and precision.

    Args:
        fused: update the weights in one kernel.
    """
    from open_clip import ClipLoss

    loss_of = ClipLoss()
    named = list(model.named_parameters())
    without_decay = [p for n, p in named if p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n or "logit_scale" in n]
    known = set(map(id, without_decay))
    rest = [p for _, p in named if id(p) not in known]
    optimizer = torch.optim.AdamW(
        [{"params": without_decay, "weight_decay": 0.0}, {"params": rest, "weight_decay": config.weight_decay}],
        lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=fused or None,
    )  # fmt: skip

    def step(images: Tensor, tokens: Tensor, lr: float) -> Tensor:
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            total = sum(loss_of(**model(images, tokens), output_dict=True).values())
        total.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        return total.detach()

    return step
