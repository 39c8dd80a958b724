"""Checks for a training that no longer learns: a dead temperature, collapsed features or a spike of the loss.

Legend: B pairs of this rank, D embed_dim.
"""

import math
import statistics
from collections import deque
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

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
