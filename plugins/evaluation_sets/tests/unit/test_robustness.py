"""Effective robustness on cases whose answers are known."""

import numpy as np
import pytest

from plugins.evaluation_sets.robustness import effective_robustness, logit


def test_effective_robustness_is_the_distance_above_the_line():
    inverse = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    line = [(base, inverse(1.5 * logit(base) - 1)) for base in (0.3, 0.5, 0.7)]
    foretold = inverse(1.5 * logit(0.6) - 1)
    assert effective_robustness(0.6, foretold, line) == pytest.approx(0)
    assert effective_robustness(0.6, foretold + 0.1, line) == pytest.approx(0.1)
    assert effective_robustness(0.7, 0.4, [(0.7, 0.3)]) == pytest.approx(0.1)  # slope 1 through the single one
    with pytest.raises(ValueError, match="at least one"):
        effective_robustness(0.5, 0.5, [])
