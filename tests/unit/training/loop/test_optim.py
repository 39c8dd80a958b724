"""Parameter groups and the schedule."""

import itertools
import math

import pytest
import torch

from training.config import TrainConfig
from training.loop.optim import build_optimizer, has_weight_decay
from training.model.clip import CLIP
from training.model_config import load_model_config
from training.optimizers import learning_rate


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
