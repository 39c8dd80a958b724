"""The loss against a naive full matrix; parameter groups; schedule."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.config import TrainConfig
from training.loop.loss import contrastive_loss
from training.loop.optim import build_optimizer, has_weight_decay, learning_rate
from training.model.clip import CLIP
from training.model_config import load_model_config


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


def test_loss_raises_value_error_for_unequal_shapes() -> None:
    with pytest.raises(ValueError, match="3"):
        contrastive_loss(torch.zeros(2, 4), torch.zeros(3, 4), torch.tensor(1.0))


@pytest.mark.parametrize("name", ["ViT-B-32", "RN50"])
def test_gains_and_biases_do_not_decay(name: str) -> None:
    with torch.device("meta"):
        model = CLIP(load_model_config(name))
        decayed, spared = build_optimizer(model, TrainConfig(weight_decay=0.3)).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.3, 0.0)
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))
    for parameter_name, parameter in model.named_parameters():
        gain = any(part in parameter_name for part in (".bn", "ln_", ".downsample.1.")) or "bias" in parameter_name
        gain = gain or parameter_name in {"logit_scale", "visual.class_embedding"}
        assert has_weight_decay(parameter_name, parameter) != gain, parameter_name


def test_learning_rate_climbs_and_falls() -> None:
    config = TrainConfig(lr=2.0, warmup=0.1)
    rates = [learning_rate(step, 100, config) for step in range(1, 101)]
    assert rates[:10] == [pytest.approx(0.2 * step) for step in range(1, 11)]
    assert rates[9] == max(rates) == 2.0
    assert all(a > b for a, b in itertools.pairwise(rates[9:]))
    assert 0 < rates[-1] < 0.01
    assert learning_rate(55, 100, config) == pytest.approx(1 + math.cos(math.pi * 45 / 91))
    assert learning_rate(1, 1, TrainConfig(lr=2.0, warmup=0.0)) == pytest.approx(1.0)
