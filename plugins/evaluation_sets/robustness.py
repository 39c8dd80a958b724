"""How much better a model is under a natural distribution shift than others of its accuracy.

Source: Taori et al. 2020, "Measuring robustness to natural distribution shifts in image classification", section 2.
"""

from collections.abc import Sequence
from math import log

import numpy as np


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
