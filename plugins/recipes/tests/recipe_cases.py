"""Losses of the recipes, which tests/loss_ranks.py computes on several ranks."""

from typing import Any

CASES: dict[str, dict[str, Any]] = {
    f"global-{mode}-{gamma}": {"loss": "global", "multi_positive": mode, "gamma": gamma, "global_loss": {"eps": 0.3}}
    for mode, gamma in (("off", 0.3), ("mask", 0.3), ("off", 1.0))
}
DISTILL = {"model": "t", "weight": 0.3}
CASES |= {
    "distill-softmax": {"distill": DISTILL},
    "distill-sigmoid": {"loss": "sigmoid", "distill": DISTILL},
    "reference-softmax": {"reference": {"model": "r"}},
    "reference-global": {"loss": "global", "gamma": 1.0, "global_loss": {"eps": 1e-30}, "reference": {"model": "r"}},
}
