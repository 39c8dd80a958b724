"""Error bounds of float32, for tests that compare two computations of the same numbers.

Source: Higham, Accuracy and Stability of Numerical Algorithms, second edition (2002), sections 3.1 and 4.2: a sum of n
terms in any order, with or without fused multiply-add, is off by at most n u sum(|terms|), with the unit roundoff u.
"""

import torch

UNIT_ROUNDOFF = 2.0**-24


def bound(additions, magnitude):
    """Return how far two float32 computations of a number can differ.

    Args:
        additions: number of additions on the longest path from the inputs to the result: the sum of the lengths of the dot
            products, means and norms that follow each other.
        magnitude: sum of the absolute values of the terms, or a bound of it. Of features of length 1 it is 1.
    """
    return 2 * additions * UNIT_ROUNDOFF * magnitude


def count_additions(model, rows=0):
    """Return the additions on the longest path through a model, as if its layers followed each other.

    Args:
        rows: number of inputs, times tokens, over which a gradient is summed after a second path back; 0: no gradient.
    """
    weights = [weight for weight in model.parameters() if weight.dim()]
    forward = sum(weight[0].numel() if weight.dim() > 1 else weight.numel() for weight in weights)
    return forward if rows == 0 else 2 * forward + rows


def assert_close(found, expected, additions, magnitude=None, name=""):
    """Compare two float32 computations of a tensor within `bound`; the default magnitude is its largest absolute value."""
    atol = bound(additions, float(expected.detach().abs().max()) if magnitude is None else magnitude)
    torch.testing.assert_close(found, expected, rtol=0, atol=atol, msg=lambda text: f"{name}: {text}")
