"""The schedules wsd and rsqrt and the cool-down, against open_clip's and their formulas."""

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from training.config import TrainConfig
from training.optimizers import learning_rate

scheduler = pytest.importorskip("open_clip_train.scheduler")
STEPS = 100


def rates_of(**settings: Any) -> list[float]:
    config = TrainConfig.model_validate({"lr": 2.0, "warmup_steps": 10, **settings})
    return [learning_rate(step, STEPS, config) for step in range(1, STEPS + 1)]


def rates_of_open_clip(make: Any, *more: Any) -> list[float]:
    adjust = make(torch.optim.SGD([torch.zeros(1)], lr=1.0), 2.0, 10, STEPS, *more)
    return [adjust(step) for step in range(STEPS)]


def test_wsd_and_constant_cool_down_as_open_clips() -> None:
    assert rates_of(schedule="wsd") == pytest.approx(rates_of_open_clip(scheduler.const_lr_cooldown, 20), rel=1e-12)
    cooled = rates_of_open_clip(scheduler.const_lr_cooldown, 35)
    assert rates_of(schedule="constant", cooldown=0.35) == pytest.approx(cooled, rel=1e-12)


def test_rsqrt_is_the_formula_of_its_paper() -> None:
    """Compare with the schedule of Zhai et al. 2022 (Scaling Vision Transformers) as big_vision writes it."""
    expected = []
    for step in range(1, STEPS + 1):
        rate = 2.0 * min(step / 10, 1.0)
        if step > 10:
            rate = 2.0 / math.sqrt((step + 30 - 10) / 30)
        expected.append(rate * min(1.0, (STEPS + 1 - step) / 40))
    assert rates_of(schedule="rsqrt", rsqrt_steps=30, cooldown=0.4) == pytest.approx(expected, rel=1e-12)


def test_a_cooldown_by_the_square_root_is_one_minus_it() -> None:
    rates = rates_of(schedule="wsd", cooldown=0.5, cooldown_shape="sqrt")
    assert rates[10:50] == [2.0] * 40
    assert rates[50:] == pytest.approx([2.0 * (1 - math.sqrt(passed / 50)) for passed in range(50)], rel=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cooldown": 0.2}, "the cosine falls to 0 itself"),
        ({"schedule": "wsd", "cooldown": 0}, "wsd ends in one"),
        ({"optimizer": "muon", "sharding": "full"}, "needs whole matrices"),
        ({"lock_norms": True}, "set init"),
    ],
    ids=str,
)
def test_recipes_that_contradict_each_other_are_an_error(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainConfig.model_validate(settings)
