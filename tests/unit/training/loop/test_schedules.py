"""Schedules of the learning rate against open_clip's, and against their formulas."""

import pytest
import torch

from training.config import TrainConfig
from training.optimizers import count_warmup_steps, learning_rate

scheduler = pytest.importorskip("open_clip_train.scheduler")
STEPS = 100


def rates_of(**settings):
    config = TrainConfig.model_validate({"lr": 2.0, "warmup_steps": 10, **settings})
    return [learning_rate(step, STEPS, config) for step in range(1, STEPS + 1)]


def rates_of_open_clip(make, *more):
    adjust = make(torch.optim.SGD([torch.zeros(1)], lr=1.0), 2.0, 10, STEPS, *more)
    return [adjust(step) for step in range(STEPS)]


def test_constant_has_open_clips_rates():
    assert rates_of(schedule="constant") == rates_of_open_clip(scheduler.const_lr)


def test_warmup_is_a_share_or_a_number_of_steps():
    assert count_warmup_steps(90, TrainConfig(warmup=0.05)) == 5
    assert count_warmup_steps(90, TrainConfig(warmup=0.05, warmup_steps=0)) == 0
    assert rates_of(schedule="constant", warmup_steps=0) == [2.0] * STEPS
    shares = [learning_rate(step, STEPS, TrainConfig(lr=2.0, warmup=0.1)) for step in range(1, STEPS + 1)]
    assert rates_of() == shares, "the cosine, with the warm-up in steps"
