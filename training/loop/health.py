"""Checks for a training that no longer learns: a dead temperature, collapsed features, a spike of the loss, or a loss on
held-out pairs that rises.

Legend: B pairs of this rank, D embed_dim.
"""

import logging
import math
import statistics
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dataops.errors import ConfigError
from training import distributed
from training.config import TrainConfig

logger = logging.getLogger(__name__)

# Bad steps: their update is skipped on the device, and after several in a row the training rolls back -----------------
# A step is bad if its loss or gradient norm is not finite, or exceeds a multiple of its mean over the good steps before it.
# Source: the loss spikes of Chowdhery et al. 2022 (PaLM), section 5.1, who went back to a checkpoint and left out the data.

NORM_WINDOW = 100
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
        is_high = (self._count >= NORM_WINDOW) & (values_2 > self._limits_2 * self._means_2).any()
        is_bad = ~values_2.isfinite().all() | is_high
        weight = 1 / (self._count + 1).clamp(max=NORM_WINDOW)
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


class LossScale:
    """The factor of the loss in fp16, so that small gradients are no zeros; on the device, as torch's GradScaler has it.

    It doubles after `interval` steps whose gradients are finite, and is halved by any other, whose
    update a StepGuard skips. Source: Micikevicius et al. 2018, section 3.2.

    Args:
        device: of the model.
        interval: steps before it doubles.
    """

    def __init__(self, device: torch.device, interval: int = 2000):
        self.value = torch.tensor(65536.0, device=device)
        self._good = torch.zeros((), device=device)
        self._interval = interval

    def unscale(self, gradients: list[Tensor]) -> None:
        """Divide gradients, or this rank's part of them, by it."""
        torch._foreach_mul_(gradients, self.value.reciprocal())  # pyright: ignore[reportPrivateImportUsage]

    def update(self, grad_norm: Tensor) -> None:
        """Adapt it by the norm of the gradients of a step, divided by it."""
        is_good = grad_norm.isfinite()
        is_due = self._good + 1 >= self._interval
        self.value.mul_(torch.where(is_good, torch.where(is_due, 2.0, 1.0), 0.5))
        self._good.copy_(torch.where(is_good & ~is_due, self._good + 1, 0.0))

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint holds of it, by name."""
        return {"scale/value": self.value, "scale/good": self._good}


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


# The error for a batch that does not fit into memory ------------------------------------------------------------------


def describe_out_of_memory(
    error: BaseException, config: TrainConfig, step: int, pairs: int, *, is_resnet: bool
) -> ConfigError:
    """Return the error to raise: the batch, and the settings of the config that lower its memory.

    Args:
        pairs: pairs of the step on this rank.
    """
    remedies = []
    if config.grad_cache is not None:
        remedies.append(f"lower grad_cache, now {min(config.grad_cache, pairs)}")
    elif not is_resnet:
        remedies.append(f"set grad_cache to less than {pairs}")
    if not config.grad_checkpointing and not is_resnet:
        remedies.append("set grad_checkpointing = true")
    if config.sharding == "none" and distributed.world_size() > 1 and not is_resnet:
        remedies.append('set sharding = "full"')
    if config.precision == "fp32":
        remedies.append('set precision = "auto"')
    remedies.append(f"lower batch_size, now {config.batch_size}, which changes the result")
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return ConfigError(
        f"step {step}: memory does not hold the step of {pairs} pairs on rank {distributed.rank()} of "
        f"{distributed.world_size()} ({reason}): {', or '.join(remedies)}"
    )


PATIENCE = 100
"""Steps in a row that a temperature or features must be dead."""
WINDOW, SPIKE = 100, 10
"""Steps of a spike: the mean loss of the last SPIKE steps is compared with the median of the WINDOW before them."""
COLLAPSED = 0.995
"""Mean cosine of all pairs of a batch's images, or texts, above which they count as one point."""


class HealthMonitor:
    """Check the rows of a model's metrics.

    It starts empty when a job is resumed.

    Args:
        max_spike: maximum ratio of the loss to what it was; 0: no limit.
        after: last step of the warm-up; before it, features of new models lie in a narrow cone.
        patience: steps in a row that a temperature or features must be dead.
    """

    def __init__(self, max_spike: float, after: int, patience: int = PATIENCE):
        self.max_spike, self.after, self.patience = max_spike, after, patience
        self._losses: deque[float] = deque(maxlen=WINDOW + SPIKE)
        self._steps = {"logit_scale": 0, "image": 0, "text": 0}

    def find_problem(self, row: dict[str, Any], pairs: int) -> str | None:
        """Return what is wrong after a step, or None.

        Args:
            row: the step's loss, logit_scale, image_mean_cosine and text_mean_cosine.
            pairs: pairs of the step, on all ranks.
        """
        self._losses.append(row["loss"])
        late = row["step"] > self.after
        dead = {
            "logit_scale": row["logit_scale"] <= 0,
            "image": late and row["image_mean_cosine"] > COLLAPSED,
            "text": late and row["text_mean_cosine"] > COLLAPSED,
        }
        self._steps = {name: self._steps[name] + 1 if is_so else 0 for name, is_so in dead.items()}
        if self._steps["logit_scale"] >= self.patience:
            return f"the logit scale has been dead (1, its minimum) for {self.patience} steps"
        for tower, items in (("image", "images"), ("text", "texts")):
            if self._steps[tower] >= self.patience:
                cosine = row[f"{tower}_mean_cosine"]
                return f"features have collapsed: the {items} of a batch have had a mean cosine of {cosine:.4f}"
        return self._spike(math.log(max(pairs, 2))) if late else None

    def _spike(self, chance: float) -> str | None:
        if not self.max_spike or len(self._losses) < WINDOW + SPIKE:
            return None
        losses = list(self._losses)
        before, now = statistics.median(losses[:WINDOW]), statistics.fmean(losses[WINDOW:])
        # The small losses of a learnt dataset are noisy: a loss far below that of chance is no spike.
        if now > self.max_spike * before and now > 0.5 * chance:
            return f"the loss has gone from {before:.3f} to {now:.3f} in {SPIKE} steps"
        return None


def mean_cosine(features_BD: Tensor) -> Tensor:
    """Return the mean cosine of all pairs of different rows, a scalar in fp64; 0 if there are fewer than two."""
    count = len(features_BD)
    if count < 2:
        return torch.zeros((), dtype=torch.float64, device=features_BD.device)
    total = F.normalize(features_BD.float(), dim=1).sum(dim=0).square().sum().double()
    return (total - count) / (count * (count - 1))


# Hold-out: the curve of pairs that are never trained on, and what follows from it -------------------------------------
# Which pairs are held out is part of the index of the samples (training/data/sample_index.py). The curve is part of each
# checkpoint, so that a resumed job decides as an undisturbed one.

MEASUREMENTS = 20
"""Measurements of a training whose config does not say how often."""
TURN = 3
"""Measurements in a row above the lowest loss after which the curve counts as turned."""
TABLE_ROWS = 20
LOSS, RECALL = "holdout_loss", "holdout_mean_R_at_1"


@dataclass
class HoldOut:
    """The held-out pairs of a training, and what it has measured on them."""

    samples: np.ndarray
    """(N,) numbers in the index."""
    config: TrainConfig
    total_steps: int
    curve: list[dict[str, float]] = field(default_factory=list)
    """A row for each measurement: step, loss, mean of R@1 both ways."""

    def is_due(self, step: int) -> bool:
        """Return whether the model is measured after a step that was not measured yet."""
        every = self.config.evaluate_every or -(-self.total_steps // MEASUREMENTS)
        is_new = not self.curve or self.curve[-1]["step"] < step
        return is_new and step > 0 and (step % every == 0 or step == self.total_steps)

    @property
    def best(self) -> dict[str, float] | None:
        """The first row with the lowest loss."""
        return min(self.curve, key=lambda row: row[LOSS], default=None)

    @property
    def since_best(self) -> int:
        """Number of measurements after the lowest loss."""
        return 0 if self.best is None else len(self.curve) - 1 - self.curve.index(self.best)

    @property
    def has_ended(self) -> bool:
        """Whether the training ends early."""
        return self.config.patience is not None and self.since_best >= self.config.patience

    def add(self, step: int, loss: float, recall: float) -> None:
        """Add a measurement; rank 0 logs it, and warns once the curve has turned."""
        self.curve.append({"step": step, LOSS: loss, RECALL: recall})
        if distributed.rank() > 0:
            return
        pairs = f"{len(self.samples):,}"
        logger.info("hold-out after step %d: loss %.4f, R@1 %.1f%% of %s pairs", step, loss, 100 * recall, pairs)
        if self.best is not None and self.since_best == TURN:
            remedy = "" if self.config.keep == "best" else '; train.keep = "best" keeps the model of that step'
            logger.warning(
                "the loss of held-out pairs rises since step %d, from %.4f to %.4f: the model learns its training pairs by "
                "heart%s",
                self.best["step"],
                self.best[LOSS],
                loss,
                remedy,
            )

    def describe(self, step: int, kept_step: int) -> dict[str, Any]:
        """Return what done.json has of the curve: at most TABLE_ROWS rows, the last one among them.

        Args:
            step: last step.
            kept_step: step of the finished model.
        """
        stride = max(-(-len(self.curve) // TABLE_ROWS), 1)
        rows = self.curve[::-1][::stride][::-1]
        is_early = step < self.total_steps
        return {"pairs": len(self.samples), "kept_step": kept_step, "ended_early": is_early, "curve": rows}


def open_holdout(config: TrainConfig, measured: np.ndarray, total_steps: int) -> HoldOut | None:
    """Return the hold-out of a job, or None if it has none.

    Raises: ConfigError if no two pairs can be measured, and the config needs them.
    """
    if not config.holdout:
        return None
    if len(measured) >= 2:
        return HoldOut(measured, config, total_steps)
    problem = (
        f"holdout: of the pairs that the share {config.holdout:g} holds out, {len(measured)} can be measured, since the "
        "others have an image or a caption that is trained on; raise holdout"
    )
    if config.needs_holdout:
        raise ConfigError(problem)
    logger.warning("%s, or set it to 0", problem)
    return None
