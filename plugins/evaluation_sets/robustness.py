"""How much better a model is under a natural distribution shift than others of its accuracy.

Source: Taori et al. 2020, "Measuring robustness to natural distribution shifts in image classification", section 2.
"""

from math import exp, log


def effective_robustness(base: float, shifted: float, other_base: float, other_shifted: float) -> float:
    """Return how much better a model is under the shift than another model would be at its accuracy on the base set.

    Args:
        base, shifted: the model's accuracies.
        other_base, other_shifted: those of the other model, through which the line has slope 1 on the logit scale.

    Returns: shifted - the line's value at `base`.
    """
    return shifted - 1 / (1 + exp(-(logit(base) + logit(other_shifted) - logit(other_base))))


def logit(accuracy: float) -> float:
    """Return log(p / (1 - p)), with 0 and 1 moved a millionth inwards."""
    inside = min(max(accuracy, 1e-6), 1 - 1e-6)
    return log(inside / (1 - inside))
