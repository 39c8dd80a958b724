"""Bad steps: their update is skipped on the device, and after several in a row the training rolls back to a checkpoint.

A step is bad if its loss or gradient norm is not finite, or exceeds a multiple of its mean over the good steps before it.
Source: the loss spikes of Chowdhery et al. 2022 (PaLM), section 5.1, who went back to a checkpoint and left out the data.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from training.config import TrainConfig

WINDOW = 100
"""Good steps over which the means of loss and gradient norm extend, and before which no value counts as too large."""


class StepGuard:
    """The decision whether a step is bad, on the device: the host does not wait for it.

    Args:
        device: of the model.
    """

    def __init__(self, config: TrainConfig, device: torch.device):
        limits = [limit or float("inf") for limit in (config.bad_loss, config.bad_grad_norm)]
        self._limits_2 = torch.tensor(limits, dtype=torch.float64, device=device)
        self._means_2 = torch.zeros(2, dtype=torch.float64, device=device)
        self._count = torch.zeros((), dtype=torch.float64, device=device)

    def decide(self, loss: Tensor, grad_norm: Tensor) -> Tensor:
        """Return whether a step is bad, as a bool on the device, and add a good one to the means."""
        values_2 = torch.stack([loss.double(), grad_norm.double()])
        is_high = (self._count >= WINDOW) & (values_2 > self._limits_2 * self._means_2).any()
        is_bad = ~values_2.isfinite().all() | is_high
        weight = 1 / (self._count + 1).clamp(max=WINDOW)
        self._means_2.copy_(torch.where(is_bad, self._means_2, self._means_2 + weight * (values_2 - self._means_2)))
        self._count.add_(~is_bad)
        return is_bad

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint holds of it, by name."""
        return {"guard/means": self._means_2, "guard/count": self._count}


class KeptStatistics:
    """The statistics of batch norms before a step, which its forward pass changes."""

    def __init__(self, model: nn.Module):
        self._kept = [(buffer, buffer.clone()) for buffer in model.buffers()]

    def restore_where(self, is_bad: Tensor) -> None:
        """Restore them if a step is bad."""
        for buffer, before in self._kept:
            buffer.copy_(torch.where(is_bad, before, buffer))


@dataclass
class BadSteps:
    """The bad steps of a run, as the host has read them; equal on all ranks."""

    limit: int
    """Bad steps in a row after which the training rolls back, or fails."""
    max_rollbacks: int
    """Maximum number of rollbacks."""
    skipped: int = 0
    """Bad steps so far."""
    in_row: int = 0
    """Bad steps up to the last one that was read."""
    rollbacks: list[dict[str, int]] = field(default_factory=list)
    """Each rollback: the step `to` whose weights came back, and the last step `after` whose data was left out."""
    due: int | None = None
    """Last bad step before a rollback that has not been done yet."""

    def record(self, step: int, *, is_bad: bool) -> str | None:
        """Count a step, and return what is wrong if the training cannot go on."""
        self.in_row = self.in_row + 1 if is_bad else 0
        self.skipped += is_bad
        if self.in_row < self.limit or self.due is not None:
            return None
        if len(self.rollbacks) >= self.max_rollbacks:
            return f"{self.in_row} bad steps in a row, and {len(self.rollbacks)} rollbacks before them"
        self.due = step
        return None

    def end_rollback(self, to: int, after: int) -> None:
        """Count a rollback that is done."""
        self.rollbacks.append({"to": to, "after": after})
        self.in_row, self.due = 0, None

    def dump(self) -> dict[str, Any]:
        """Return what a checkpoint holds of it."""
        return {name: value for name, value in asdict(self).items() if name not in ("limit", "max_rollbacks")}

    def restore(self, state: dict[str, object]) -> None:
        """Restore it from a checkpoint."""
        for name, value in state.items():
            setattr(self, name, value)
