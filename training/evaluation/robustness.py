"""The cost of natural distribution shifts: each shifted set against the set whose classes it shows. No torch.

Source: Radford et al. 2021, section 3.3 and figure 13.
"""

from collections.abc import Mapping
from typing import Any


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
