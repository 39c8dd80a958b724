"""The linear probe and few-shot classification: logistic regression on features before the projection.

Source: Radford et al. 2021, appendix A.3: L-BFGS with at most 1,000 iterations; the L2 strength from 96 logarithmic
steps between 1e-6 and 1e6, by a binary search on a validation split; then a fit on training and validation examples
together.

The optimiser is scipy's L-BFGS-B, as in scikit-learn, on a loss and gradient by torch, so that CPU and GPU give the
same fit, and the same as scikit-learn's.

Shape suffixes: N examples, W width of the features, C classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from training import distributed
from training.evaluation.encode import map_in_order
from training.evaluation.features import Examples
from training.evaluation.intervals import proportion_record
from training.evaluation.metrics import mean_per_class_record
from training.evaluation.zero_shot import rank_true_labels

STEPS_PER_DECADE = 8
GRID = [10.0 ** (-6 + step / STEPS_PER_DECADE) for step in range(12 * STEPS_PER_DECADE + 1)]
"""Candidates for the L2 strength: 96 steps, so 97 of them."""
FIRST = range(0, len(GRID), 2 * STEPS_PER_DECADE)
"""Indices where the search begins: 1e-6, 1e-4, ..., 1e6."""
MAX_ITERATIONS = 1000
SHOTS = (1, 2, 4, 8, 16)
VALIDATION_SHARE = 0.2


@dataclass(frozen=True)
class Probe:
    """A linear classifier of features."""

    weights_CW: Tensor
    bias_C: Tensor

    def to(self, device: torch.device) -> "Probe":
        """Return the same probe on a device."""
        return Probe(self.weights_CW.to(device), self.bias_C.to(device))

    def ranks(self, features_NW: Tensor, labels_N: Tensor) -> Tensor:
        """Return the rank of each example's true label, from 1."""
        return rank_true_labels(features_NW.double() @ self.weights_CW.T + self.bias_C, labels_N)

    def accuracy(self, examples: Examples) -> float:
        """Return the share of the examples whose label ranks first."""
        return float((self.ranks(examples.features_NW, examples.labels_N) == 1).double().mean())


def fit(examples: Examples, classes: int, strength: float) -> Probe:
    """Fit a multinomial logistic regression: minimise sum(cross-entropy) + strength / 2 x sum(weights^2), bias free.

    Args:
        strength: scikit-learn's 1 / C.
    """
    from scipy.optimize import minimize

    features_NW, labels_N = examples.features_NW.double(), examples.labels_N
    n, width = features_NW.shape
    each_N = torch.arange(n, device=labels_N.device)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = torch.from_numpy(flat).to(features_NW.device).view(classes, width + 1)
        weights_CW, bias_C = parameters[:, :width], parameters[:, width]
        logits_NC = features_NW @ weights_CW.T + bias_C
        log_NC = logits_NC.log_softmax(dim=1)
        value = strength / (2 * n) * weights_CW.square().sum() - log_NC[each_N, labels_N].mean()
        error_NC = log_NC.exp()
        error_NC[each_N, labels_N] -= 1
        error_NC /= n
        gradient = torch.cat([error_NC.T @ features_NW + strength / n * weights_CW, error_NC.sum(0)[:, None]], dim=1)
        return float(value), gradient.cpu().numpy().ravel()

    # Tolerances of scikit-learn's LogisticRegression(solver="lbfgs"), on the mean loss as there.
    options = {"maxiter": MAX_ITERATIONS, "maxls": 50, "gtol": 1e-4, "ftol": 64 * np.finfo(float).eps}
    with torch.inference_mode():
        found = minimize(loss, np.zeros(classes * (width + 1)), jac=True, method="L-BFGS-B", options=options)
        flat = torch.from_numpy(found.x).to(features_NW.device).view(classes, width + 1)
    return Probe(flat[:, :width], flat[:, width])


def fit_each(examples: Examples, classes: int, strengths: Sequence[float]) -> list[Probe]:
    """Call `fit` for each strength, in order.

    On the CPU each fit is the work of one thread of one rank, which suits small matrices. A GPU fits one at a time: the
    logits and features of ImageNet in fp64 are 18 GB.
    """
    device, cpu = examples.features_NW.device, torch.device("cpu")
    examples = Examples(examples.features_NW.double(), examples.labels_N)
    with threadpool_limits(1, user_api="blas"):  # scipy's vectors are too small for threads
        threads = None if device.type == "cpu" else 1
        mine = distributed.take_share(strengths)
        share = map_in_order(lambda strength: fit(examples, classes, strength), mine, threads)
        if distributed.world_size() == 1:
            return [each.to(device) for each in share]
        sent = ((each.weights_CW, each.bias_C) for each in (probe.to(cpu) for probe in share))
        return [Probe(*tensors).to(device) for tensors in distributed.merge_shares(sent)]


def search_strength(score: Callable[[list[float]], list[float]]) -> float:
    """Return the strength of the grid with the best score; a tie goes to the greater strength.

    The search scores all seven of FIRST, then the neighbours of the best at ever half the distance.

    Args:
        score: takes several strengths at once.
    """
    scores: dict[int, float] = {}
    candidates, step = list(FIRST), FIRST.step
    while candidates:
        scores |= zip(candidates, score([GRID[index] for index in candidates]), strict=True)
        step //= 2
        neighbours = (_peak(scores) - step, _peak(scores) + step) if step else ()
        candidates = [index for index in neighbours if 0 <= index < len(GRID) and index not in scores]
    return GRID[_peak(scores)]


def _peak(scores: dict[int, float]) -> int:
    return max(scores, key=lambda index: (scores[index], index))


def probe(
    train: Examples, validation: Examples | None, test: Examples, classes: int, unreadable: Sequence[int]
) -> dict[str, Any]:
    """Fit on training examples and measure on test ones.

    Args:
        validation: examples to choose the strength by; None: a fifth of the training examples.
        unreadable: labels of test images without features; they count as wrong.

    Returns: strength, train (number of examples), top1 and mean_per_class as records of a metric.
    """
    whole = train if validation is None else train.concatenate(validation)
    if validation is None:
        drawn = np.random.default_rng(0).permutation(len(train.labels_N))
        held = max(1, round(VALIDATION_SHARE * len(drawn)))
        train, validation = train.select(np.sort(drawn[held:])), train.select(np.sort(drawn[:held]))
    return _choose_and_measure(train, validation, whole, test, classes, unreadable)


def evaluate_few_shot(
    train: Examples, validation: Examples | None, test: Examples, classes: int, unreadable: Sequence[int]
) -> list[dict[str, Any]]:
    """Probe with 1, 2, 4, 8 and 16 examples of each class; a larger draw contains the smaller one.

    The strength is chosen on the validation examples, or on the training examples that are not drawn. A number of shots
    that some class cannot provide is left out.

    Returns: shots, strength, train, top1 and mean_per_class of each.
    """
    order = np.random.default_rng(0).permutation(len(train.labels_N))
    labels = train.labels_N.cpu().numpy()[order]
    per_class = [order[labels == label] for label in range(classes)]
    results = []
    for shots in SHOTS:
        if min(len(rows) for rows in per_class) < shots + (validation is None):
            break
        chosen = np.sort(np.concatenate([rows[:shots] for rows in per_class]))
        few = train.select(chosen)
        held = validation if validation is not None else train.select(np.setdiff1d(order, chosen))
        results.append({"shots": shots, **_choose_and_measure(few, held, few, test, classes, unreadable)})
    return results


def _choose_and_measure(
    train: Examples, validation: Examples, whole: Examples, test: Examples, classes: int, unreadable: Sequence[int]
) -> dict[str, Any]:
    """Choose the strength, fit on the whole, and measure."""
    strength = search_strength(lambda tried: [each.accuracy(validation) for each in fit_each(train, classes, tried)])
    (found,) = fit_each(whole, classes, [strength])
    return {"strength": strength, **_measure(found, whole, test, classes, unreadable)}


def _measure(found: Probe, train: Examples, test: Examples, classes: int, unreadable: Sequence[int]) -> dict[str, Any]:
    right = [*(found.ranks(test.features_NW, test.labels_N) == 1).tolist(), *(False for _ in unreadable)]
    return {
        "train": len(train.labels_N),
        "top1": proportion_record(sum(right), len(right), 1 / classes),
        "mean_per_class": mean_per_class_record([*test.labels_N.tolist(), *unreadable], right, classes),
    }
