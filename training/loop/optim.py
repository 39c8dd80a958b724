"""AdamW with the paper's parameter groups, Muon for hidden matrices, and the schedules of the learning rate."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from dataops.errors import ConfigError
from training.config import TrainConfig
from training.model.clip import CLIP
from training.model.layer_groups import group_layers
from training.towers.towers import BackboneTower, PretrainedTextTower

MAX_LOGIT_SCALE = math.log(100)
"""Source: Radford et al. 2021, section 2.5: "clipped to prevent scaling the logits by more than 100"."""


def has_weight_decay(name: str, parameter: nn.Parameter) -> bool:
    """Return whether weight decay applies: a vector or scalar is a gain, a bias, the class token or logit_scale.

    Source: Radford et al. 2021, section 2.5: "all weights that are not gains or biases".
    """
    return parameter.ndim >= 2 and not name.endswith("bias")


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Return whether Muon applies: to the matrices of transformer blocks, and to no embedding or projection."""
    return parameter.ndim == 2 and ".resblocks." in f".{name}"


class MuonWithAdamW(Optimizer):
    """Muon for some parameters and AdamW for the others, as one optimizer with one state.

    Args:
        matrices, others: parameter groups.
    """

    def __init__(self, matrices: list[dict[str, Any]], others: list[dict[str, Any]], config: TrainConfig):
        if (muon := getattr(torch.optim, "Muon", None)) is None:
            raise ConfigError(f'optimizer = "muon": torch {torch.__version__} has no Muon; install torch 2.9 or newer')
        self.muon: Optimizer = muon(
            matrices, lr=config.lr, momentum=config.muon_momentum, adjust_lr_fn="match_rms_adamw"
        )
        self.adamw = _build_adamw(others, config)
        super().__init__([*self.muon.param_groups, *self.adamw.param_groups], {})
        self.param_groups = [*self.muon.param_groups, *self.adamw.param_groups]  # the same objects, whose lr is set
        self.muon.state = self.adamw.state = self.state
        self.found_inf: Tensor | None = None

    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take a step of both, or none where `found_inf` is 1, as for torch's fused optimizers."""
        self.adamw.found_inf = self.found_inf  # pyright: ignore[reportAttributeAccessIssue]
        self.adamw.step()
        if self.found_inf is None:
            self.muon.step()
            return
        # Muon has no such argument: it steps from its own momentum, which stays, and the weights are restored.
        is_bad, before = self.found_inf > 0, []
        for parameter in (p for group in self.muon.param_groups for p in group["params"] if p.grad is not None):
            slot = self.state[parameter]
            if "momentum_buffer" not in slot:
                slot["momentum_buffer"] = torch.zeros_like(parameter.grad)
            parameter.grad = torch.where(is_bad, slot["momentum_buffer"], parameter.grad)
            before.append((parameter, parameter.detach().clone()))
        self.muon.step()
        with torch.no_grad():
            for parameter, old in before:
                parameter.copy_(torch.where(is_bad, old, parameter))


def build_optimizer(model: nn.Module, config: TrainConfig) -> Optimizer:
    """Build the optimizer over groups with and without decay, each in the order of the model's parameters.

    With `layer_decay` or a table's `lr_scale`, each group of layers has such groups with a factor of the learning rate,
    `lr_scale`.

    Raises: ConfigError if torch has no such optimizer.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    scales = _layer_scales(model, config.layer_decay) if config.layer_decay != 1 else {}
    scales |= _encoder_scales(model, config, scales)

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

    if config.optimizer == "adamw":
        return _build_adamw(groups(lambda *_: True), config)
    matrices = groups(is_hidden_matrix)
    if not matrices:
        raise ConfigError('optimizer = "muon": the model trains no matrix of a transformer block; set "adamw"')
    return MuonWithAdamW(matrices, groups(lambda n, p: not is_hidden_matrix(n, p)), config)


def _build_adamw(groups: list[dict[str, Any]], config: TrainConfig) -> AdamW:
    return AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)


def _layer_scales(model: nn.Module, decay: float) -> dict[nn.Parameter, float]:
    """Return the factor of the learning rate of each parameter of a tower: 1 for the last group, and less before it."""
    assert isinstance(model, CLIP)
    scales = {}
    for tower in group_layers(model):
        for depth, parameters in enumerate(reversed(tower)):
            scales |= dict.fromkeys(parameters, decay**depth)
    return scales


def _encoder_scales(
    model: nn.Module, config: TrainConfig, scales: dict[nn.Parameter, float]
) -> dict[nn.Parameter, float]:
    """Return the factor of the learning rate of each weight that a table loads: the table's, times that of its layer."""
    found: dict[nn.Parameter, float] = {}
    for tower, init in (
        (getattr(model, "visual", None), config.image_init),
        (getattr(model, "text", None), config.text_init),
    ):
        if init is not None and init.lr_scale != 1 and isinstance(tower, BackboneTower | PretrainedTextTower):
            found |= {p: init.lr_scale * scales.get(p, 1.0) for p in tower.encoder.parameters()}
    return found


def count_warmup_steps(total_steps: int, config: TrainConfig) -> int:
    """Return the number of steps in which the learning rate climbs."""
    return math.ceil(config.warmup * total_steps) if config.warmup_steps is None else config.warmup_steps


def learning_rate(step: int, total_steps: int, config: TrainConfig) -> float:
    """Return the learning rate of a step, from 1: linear from 0 to the peak, then by the schedule of the config."""
    warmup_steps = count_warmup_steps(total_steps, config)
    rate = config.lr
    if step <= warmup_steps:
        rate = config.lr * step / warmup_steps
    elif config.schedule == "cosine":
        progress = (step - warmup_steps) / (total_steps - warmup_steps + 1)
        return config.lr * 0.5 * (1 + math.cos(math.pi * progress))
    elif config.schedule == "rsqrt":
        rate = config.lr / math.sqrt(1 + (step - warmup_steps) / config.rsqrt_steps)
    return rate * _cooldown(step, total_steps, config)


def _cooldown(step: int, total_steps: int, config: TrainConfig) -> float:
    """Return the factor of the learning rate in the last steps: from 1 at the first of them towards 0 after the last."""
    steps = math.ceil(config.cooldown_share * total_steps)
    passed = step - 1 - (total_steps - steps)
    if passed <= 0:
        return 1.0
    return 1 - (passed / steps) ** (0.5 if config.cooldown_shape == "sqrt" else 1)
