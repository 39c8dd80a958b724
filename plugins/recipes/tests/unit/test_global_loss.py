"""The global loss against the formulas of its papers, in loops over all pairs in fp64, on one, two and three ranks."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from plugins.recipes.global_loss import Denominators, GlobalLossConfig, global_loss
from plugins.recipes.tests.recipe_cases import CASES
from tests.loss_ranks import DATASET, IDENTITIES, PAIRS, SAMPLES, make_averages, make_leaves
from training.losses.blocks import Positives

RHO, EPS = 6.5, 0.3
KNOWN = [[bool((one == other).any()) for other in IDENTITIES] for one in IDENTITIES]
"""Whether two pairs have the same image or the same caption."""


def slow_loss(settings: dict[str, Any], leaves: list[Tensor]) -> tuple[Tensor, float, Tensor]:
    """Return a loss that has the paper's gradient, the value that is logged, and the averages after the step.

    Line 8 of algorithm 1 updates u, and the gradient weights that of g by t / (eps + u); the temperature's has further
    the logs and rho (FastCLIP, equations 6 to 8, of which this is half).
    """
    images, texts, gamma = F.normalize(leaves[0], dim=1), F.normalize(leaves[1], dim=1), settings["gamma"]
    temperature = 1 / leaves[2].exp()
    averages, pairs = make_averages().double().exp(), range(PAIRS)
    cosine = [[(images[i] * texts[j]).sum() for j in pairs] for i in pairs]
    total, value = RHO * temperature, 0.0
    for column, matrix in enumerate((cosine, [list(row) for row in zip(*cosine, strict=True)])):
        for i in pairs:
            others = [j for j in pairs if not (KNOWN[i][j] if settings["multi_positive"] == "mask" else i == j)]
            terms = [torch.exp((matrix[i][j] - matrix[i][i]) / temperature) for j in others]
            mean = sum(terms, torch.zeros((), dtype=torch.float64)) / len(others)
            sample = int(SAMPLES[i]) % DATASET
            before = averages[sample, column].item()
            u = mean.item() if before == 0 else (1 - gamma) * before + gamma * mean.item()
            averages[sample, column] = u
            weighted = temperature.detach() / (EPS + u) * mean + temperature * math.log(EPS + u)
            total = total + weighted / (2 * PAIRS)
            value += math.log(1 + len(others) * u) / (2 * PAIRS)
    return total, value, averages.log()


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("global")])
def test_averages_and_gradients_equal_those_of_the_papers(on_ranks: dict[int, Any], name: str) -> None:
    leaves = make_leaves(torch.float64)
    expected, value, averages = slow_loss(CASES[name], leaves)
    (3 * expected).backward()
    for ranks, results in on_ranks.items():
        found = results[name]
        assert found["loss"].item() == pytest.approx(value, rel=1e-5), ranks
        torch.testing.assert_close(found["denominators"].double(), averages, rtol=1e-5, atol=1e-5, msg=str(ranks))
        for part, leaf in zip(("images", "texts", "scale"), leaves, strict=False):
            assert leaf.grad is not None
            torch.testing.assert_close(found[part].double(), leaf.grad, rtol=1e-4, atol=1e-5, msg=f"{ranks} {part}")


def test_without_memory_its_value_is_the_softmax_loss_of_the_batch(on_ranks: dict[int, Any]) -> None:
    images, texts, scale, _ = make_leaves(torch.float64)
    logits = scale.exp() * F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
    own = torch.arange(PAIRS)
    expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    assert on_ranks[1]["global-off-1.0"]["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_sharp_temperature_and_a_row_without_negatives_stay_finite() -> None:
    images = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    texts = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    scale = torch.tensor(math.log(100), requires_grad=True)
    for identities in ([[1, 1], [2, 2]], [[1, 1], [1, 2]]):
        denominators = Denominators(2, torch.device("cpu"))
        for gamma in (1.0, 0.2):
            step = (torch.arange(2), torch.tensor(gamma), denominators, GlobalLossConfig())
            positives = Positives(torch.tensor(identities), None, shares=False)
            outcome = global_loss(images, texts, scale, *step, positives=positives)
            outcome.loss.backward()
            denominators.update(None)
            assert outcome.loss.isfinite()
        seen = identities[1] == [2, 2]
        assert denominators.log_averages_S2.tolist() == [[pytest.approx(200) if seen else -math.inf] * 2] * 2
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in (images, texts, scale))


def test_a_bad_step_changes_no_average() -> None:
    denominators = Denominators(4, torch.device("cpu"))
    for is_bad, expected in ((False, 1.0), (True, 1.0), (None, 3.0)):
        step = 3.0 if is_bad is None else torch.nan if is_bad else 1.0
        denominators.propose(torch.tensor([1, 7]), torch.full((2, 2), step), None)
        denominators.update(None if is_bad is None else torch.tensor(is_bad))
        assert denominators.log_averages_S2[1:4:2].tolist() == [[expected] * 2] * 2
    assert denominators.log_averages_S2[::2].isneginf().all()


def test_gamma_falls_by_half_a_cosine() -> None:
    assert [GlobalLossConfig().gamma_at(epoch, 7) for epoch in range(7)] == [
        pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi * min(epoch, 4) / 4)) / 2) for epoch in range(7)
    ]
    assert GlobalLossConfig(gamma_epochs=2).gamma_at(1, 100) == pytest.approx(0.6)
    assert GlobalLossConfig(gamma_schedule="constant", gamma=0.9).gamma_at(0, 7) == 0.9
