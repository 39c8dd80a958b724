"""The softmax loss against a naive full matrix."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.losses.contrastive import contrastive_loss


def naive_loss(images: torch.Tensor, texts: torch.Tensor, scale: float, smoothing: float) -> float:
    """Compute the loss by figure 3 of the paper, one element at a time, in fp64."""
    count = len(images)
    rows = [[v / math.sqrt(sum(x * x for x in row)) for v in row] for row in images.double().tolist()]
    columns = [[v / math.sqrt(sum(x * x for x in row)) for v in row] for row in texts.double().tolist()]
    logits = [[math.exp(scale) * sum(a * b for a, b in zip(r, c, strict=True)) for c in columns] for r in rows]
    total = 0.0
    for matrix in (logits, [list(column) for column in zip(*logits, strict=True)]):
        for i, row in enumerate(matrix):
            log_sum = math.log(sum(math.exp(value) for value in row))
            targets = [smoothing / count + (1 - smoothing) * (i == j) for j in range(count)]
            total -= sum(target * (value - log_sum) for target, value in zip(targets, row, strict=True)) / count / 2
    return total


@settings(max_examples=30, deadline=None)
@given(count=st.integers(2, 9), seed=st.integers(0, 1000), scale=st.floats(0, 4), smoothing=st.sampled_from([0.0, 0.2]))
def test_loss_equals_the_full_matrix(count: int, seed: int, scale: float, smoothing: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    images, texts = torch.randn(2, count, 5, generator=generator) * 3
    outcome = contrastive_loss(images, texts, torch.tensor(scale), smoothing)
    assert outcome.loss.item() == pytest.approx(naive_loss(images, texts, scale, smoothing), rel=1e-4, abs=1e-4)
    similarity = torch.nn.functional.normalize(images) @ torch.nn.functional.normalize(texts).T
    assert outcome.image_hits == sum(int(row.argmax()) == i for i, row in enumerate(similarity))
    assert outcome.text_hits == sum(int(row.argmax()) == i for i, row in enumerate(similarity.T))
