"""Distillation and reference-model training against loops over all pairs in fp64, on one, two and three ranks."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from plugins.recipes.tests.recipe_cases import CASES
from tests.loss_ranks import PAIRS, TEACHER_SCALE, make_leaves, make_teacher
from training.config import TrainConfig

Matrix = list[list[Tensor]]


def both_directions(rows: Tensor, columns: Tensor) -> list[Matrix]:
    """Return the cosines of images with captions, and of captions with images."""
    cosine = [[(rows[i] * columns[j]).sum() for j in range(PAIRS)] for i in range(PAIRS)]
    return [cosine, [list(row) for row in zip(*cosine, strict=True)]]


def log_softmax(row: list[Tensor]) -> list[Tensor]:
    log_sum = torch.log(torch.stack([torch.exp(value) for value in row]).sum())
    return [value - log_sum for value in row]


def slow_loss(settings: dict[str, Any], leaves: list[Tensor]) -> Tensor:
    """Return the loss, one pairing at a time."""
    images, texts, scale = F.normalize(leaves[0], dim=1), F.normalize(leaves[1], dim=1), leaves[2].exp()
    teacher = both_directions(*make_teacher().double().unbind(1))
    total, divergence = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for own, of_teacher in zip(both_directions(images, texts), teacher, strict=True):
        for i in range(PAIRS):
            shift = of_teacher[i] if "reference" in settings else [torch.zeros(())] * PAIRS
            excess = [(own[i][j] - shift[j]) - (own[i][i] - shift[i]) for j in range(PAIRS)]
            total = total + torch.log(1 + sum(torch.exp(scale * excess[j]) for j in range(PAIRS) if j != i))
            student = log_softmax([scale * cosine for cosine in own[i]])
            of_rank = log_softmax([TEACHER_SCALE * cosine for cosine in of_teacher[i]])
            for p, q in zip(of_rank, student, strict=True):
                divergence = divergence + p.exp() * (p - q)
    if settings.get("loss") == "sigmoid":
        total = torch.zeros((), dtype=torch.float64)
        for i in range(PAIRS):
            for j in range(PAIRS):
                logit = scale * (images[i] * texts[j]).sum() + leaves[3]
                total = total - 2 * torch.log(torch.sigmoid(logit if i == j else -logit))
    weight = settings["distill"]["weight"] if "distill" in settings else 0.0
    return ((1 - weight) * total + weight * divergence) / (2 * PAIRS)


@pytest.mark.parametrize("name", ["distill-softmax", "distill-sigmoid", "reference-softmax"])
def test_value_and_gradients_equal_loops_over_all_pairs(on_ranks: dict[int, Any], name: str) -> None:
    leaves = make_leaves(torch.float64)
    expected = slow_loss(CASES[name], leaves)
    (3 * expected).backward()
    for ranks, results in on_ranks.items():
        found = results[name]
        assert found["loss"].item() == pytest.approx(expected.item(), rel=1e-5), ranks
        for part, leaf in zip(("images", "texts", "scale", "bias"), leaves, strict=True):
            if leaf.grad is not None:
                torch.testing.assert_close(found[part].double(), leaf.grad, rtol=1e-4, atol=1e-5, msg=f"{ranks} {part}")


def test_the_global_loss_of_a_reference_has_the_gradient_of_the_batch_times_the_temperature(
    on_ranks: dict[int, Any],
) -> None:
    """With gamma 1 it is t / (2 n) x the sum of the logs of the mean excess, whose value is that of the softmax."""
    images, texts, scale, _ = make_leaves(torch.float64)
    teacher = make_teacher().double()
    excess = F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T - teacher[:, 0] @ teacher[:, 1].T
    total = torch.zeros((), dtype=torch.float64)
    for matrix in (excess, excess.T):
        for i in range(PAIRS):
            terms = [torch.exp(scale.exp() * (matrix[i, j] - matrix[i, i])) for j in range(PAIRS) if j != i]
            total = total + torch.log(torch.stack(terms).mean()) / (2 * PAIRS)
    (3 * total).backward()
    assert images.grad is not None
    for ranks, results in on_ranks.items():
        found = results["reference-global"]
        assert found["loss"].item() == pytest.approx(results["reference-softmax"]["loss"].item(), rel=1e-5)
        expected = images.grad / scale.exp().detach()
        torch.testing.assert_close(found["images"].double(), expected, rtol=1e-4, atol=1e-6, msg=str(ranks))


def test_a_reference_needs_a_loss_that_compares_pairs() -> None:
    with pytest.raises(ValueError, match="the sigmoid loss compares no pair"):
        TrainConfig.model_validate({"loss": "sigmoid", "reference": {"model": "r"}})
