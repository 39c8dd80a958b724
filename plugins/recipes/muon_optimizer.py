"""Muon for hidden matrices and AdamW for all other parameters, as one optimizer."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dataops.errors import ConfigError
from training.config import TrainConfig
from training.optimizers import ADAMW


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Return whether Muon applies: to the matrices of transformer blocks, and to no embedding or projection."""
    return parameter.ndim == 2 and ".resblocks." in f".{name}"


class MuonWithAdamW(Optimizer):
    """Muon for some parameters and AdamW for the others, as one optimizer with one state.

    Args:
        matrices, others: parameter groups.
        momentum: of Muon.
    """

    def __init__(
        self, matrices: list[dict[str, Any]], others: list[dict[str, Any]], config: TrainConfig, momentum: float
    ):
        if (muon := getattr(torch.optim, "Muon", None)) is None:
            raise ConfigError(f'optimizer = "muon": torch {torch.__version__} has no Muon; install torch 2.9 or newer')
        self.muon: Optimizer = muon(matrices, lr=config.lr, momentum=momentum, adjust_lr_fn="match_rms_adamw")
        self.adamw = ADAMW.build(lambda _: others, config)
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
