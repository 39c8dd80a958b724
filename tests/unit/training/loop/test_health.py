"""Which metrics end a training, and which do not."""

import math

import pytest
import torch

from training.loop.health import PATIENCE, SPIKE, WINDOW, HealthMonitor, mean_cosine


def row(step, **change):
    return {"step": step, "loss": 2.0, "logit_scale": 2.6, "image_mean_cosine": 0.3, "text_mean_cosine": 0.3, **change}


def first_problem(rows, max_spike=2.0, after=10):
    health = HealthMonitor(max_spike, after)
    problems = ((int(r["step"]), health.find_problem(r, 64)) for r in rows)
    return next(((step, text) for step, text in problems if text is not None), None)


@pytest.mark.parametrize("name", ["image_mean_cosine", "text_mean_cosine"])
def test_collapsed_features_are_a_problem_when_they_persist(name):
    dead = [row(step, **{name: 0.999}) for step in range(1, 300)]
    found = first_problem(dead)
    assert found[0] == 10 + PATIENCE
    assert ("images" if "image" in name else "texts") in found[1]
    assert first_problem([r if r["step"] % 50 else row(int(r["step"])) for r in dead]) is None


def test_a_dead_temperature_is_a_problem():
    found = first_problem([row(step, logit_scale=0.0) for step in range(1, 300)])
    assert found[0] == PATIENCE
    assert "logit scale" in found[1]
    assert first_problem([row(step, logit_scale=math.log(100)) for step in range(1, 300)]) is None


def test_a_spike_is_a_loss_that_stays_high_and_near_chance():
    calm = [row(step, loss=1.0 + 0.3 * (step % 2)) for step in range(1, 200)]
    assert first_problem(calm) is None
    one = [row(200, loss=9.0), *(row(step, loss=1.0) for step in range(201, 300))]
    assert first_problem(calm + one) is None
    up = [row(step, loss=4.0) for step in range(200, 230)]
    found = first_problem(calm + up)
    assert 200 < found[0] <= 200 + SPIKE
    assert first_problem(calm + up, max_spike=0) is None
    small = [row(step, loss=0.01) for step in range(1, 200)] + [row(step, loss=0.5) for step in range(200, 230)]
    assert first_problem(small) is None
    assert first_problem([row(step, loss=4.0) for step in range(1, WINDOW + SPIKE)]) is None


def test_mean_cosine_equals_that_of_all_pairs():
    features = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    cosines = torch.nn.functional.cosine_similarity(features[:, None], features[None], dim=2)
    expected = float((cosines.sum() - 7) / 42)
    assert mean_cosine(features).item() == pytest.approx(expected, abs=1e-5)
    assert mean_cosine(features[:1]).item() == 0.0
