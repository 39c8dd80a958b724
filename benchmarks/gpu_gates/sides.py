"""The two sides of a comparison: the step that training.train takes, and that of open_clip_train/train.py 3.3.

Both return functions that launch a step and read nothing back.
"""

import math

import torch

from training.loop.training_run import build_learner
from training.train import set_up_torch


def make_our_step(config, dimensions, device, pairs_of_ranks=None):
    """Return a model on a device and its step, put together as training.train does, with its choice of kernels.

    Args:
        pairs_of_ranks: pairs of each rank; None: there is one.
    """
    set_up_torch(config, device)
    learner = build_learner(config, dimensions, 0, device)
    learner.model.train()

    def step(inputs, lr):
        return learner.take_step(inputs, lr=lr, pairs_of_ranks=pairs_of_ranks)

    return learner.model, step


def make_open_clip_model(dimensions):
    """Return open_clip's model of these dimensions, with random weights."""
    from open_clip.model import CLIP as OpenClip

    torch.manual_seed(0)
    fields = dimensions.model_dump(include={"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"})
    return OpenClip(**fields, output_dict=True)


def make_open_clip_step(model, config, device, *, fused=False):
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

    def step(images, tokens, lr):
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
