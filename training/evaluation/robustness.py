"""The cost of natural distribution shifts: each shifted set against the set whose classes it shows. No torch.

Source: Radford et al. 2021, section 3.3 and figure 13; Taori et al. 2020, "Measuring robustness to natural distribution
shifts in image classification", section 2 (effective robustness).
"""

from collections.abc import Mapping, Sequence
from math import log
from typing import Any

import numpy as np


def compute_gaps(bases: Mapping[str, str], metrics: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return for each shifted task: task, base, value, base_value, gap (base - shift).

    Args:
        bases: shifted task to its base; pairs of which one was not measured are left out.
        metrics: the content of metrics.json.
    """
    rows = []
    for task, base in bases.items():
        if task in metrics and base in metrics:
            value, base_value = (metrics[name]["metrics"]["top1"]["value"] for name in (task, base))
            rows.append({"task": task, "base": base, "value": value, "base_value": base_value})
            rows[-1]["gap"] = base_value - value
    return rows


def effective_robustness(base: float, shifted: float, baseline: Sequence[tuple[float, float]]) -> float:
    """Return how much better a model is under the shift than other models of its accuracy on the base set.

    Args:
        base, shifted: the model's accuracies.
        baseline: (base, shifted) of other models, through which a line is fitted on the logit scale; through a single
            one the line has slope 1.

    Returns: shifted - the line's value at `base`.
    Raises: ValueError without a baseline.
    """
    if not baseline:
        raise ValueError("effective robustness is measured against at least one other model")
    x, y = (np.array([logit(pair[side]) for pair in baseline]) for side in (0, 1))
    slope, intercept = (1.0, float(y[0] - x[0])) if len(set(x.tolist())) == 1 else np.polyfit(x, y, 1)
    predicted = 1 / (1 + np.exp(-(slope * logit(base) + intercept)))
    return float(shifted - predicted)


def logit(accuracy: float) -> float:
    """Return log(p / (1 - p)), with 0 and 1 moved a millionth inwards."""
    inside = min(max(accuracy, 1e-6), 1 - 1e-6)
    return log(inside / (1 - inside))
