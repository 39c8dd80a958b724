"""Effective robustness on cases whose answers are known."""

import numpy as np
import pytest

from plugins.evaluation_sets.robustness import effective_robustness, logit


def test_effective_robustness_is_the_distance_above_the_line_through_the_other_model():
    inverse = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    other = (0.5, inverse(logit(0.5) - 1))
    foretold = inverse(logit(0.6) - 1)
    assert effective_robustness(0.6, foretold, *other) == pytest.approx(0)
    assert effective_robustness(0.6, foretold + 0.1, *other) == pytest.approx(0.1)
    assert effective_robustness(0.7, 0.4, 0.7, 0.3) == pytest.approx(0.1)
