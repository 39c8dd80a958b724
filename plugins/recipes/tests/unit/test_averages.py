"""Averages of the weights, and trainings with several recipes, which are resumed to the same bits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import training.train as train_module
from plugins.recipes.weight_average import LastAverage, MovingAverage
from tests.trainings import before_step, output_of, outputs_of, stop_at, with_suite
from training.config import TrainConfig
from training.train import main

MakeJob = Callable[..., Path]
pytestmark = pytest.mark.usefixtures("process_state")


@pytest.mark.parametrize(
    ("tower", "settings"),
    [
        (
            "vit",
            {
                "ema": 0.9,
                "optimizer": "muon",
                "schedule": "wsd",
                "layer_decay": 0.7,
                "max_bad_steps": 2,
                "bad_loss": 9,
                "multi_positive": "share",
            },
        ),
        ("resnet", {"ema": 0.9, "schedule": "rsqrt", "warmup_steps": 2, "cooldown": 0.3, "max_bad_steps": 1}),
        (
            "vit",
            {"loss": "global", "multi_positive": "mask", "average_last": 3, "average_every": 3, "max_bad_steps": 1},
        ),
    ],
)
def test_a_training_with_options_is_resumed_to_the_same_bits(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tower: str, settings: dict[str, Any]
) -> None:
    whole, cut = (make_job(name, tower, epochs=3, **settings) for name in ("whole", "cut"))
    assert main([str(whole)]) == 0
    with monkeypatch.context() as patch:
        before_step(patch, stop_at(4))
        assert main([str(cut)]) == 75
    assert main([str(cut)]) == 0
    assert outputs_of(cut) == outputs_of(whole)


def test_the_average_of_the_weights_is_evaluated_and_saved(
    make_job: MakeJob, suite: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights that are trained are those of a job without it, and the model is a slow average of them."""
    plain = make_job("plain", "resnet", epochs=2)
    assert main([str(plain)]) == 0
    steps: list[dict[str, Tensor]] = []
    evaluated: list[Tensor] = []
    update, evaluate = MovingAverage.update, train_module.evaluate_interim

    def record(average: MovingAverage, step: int) -> None:
        steps.append({name: tensor.double().clone() for name, tensor in average._values.items()})
        update(average, step)

    def look(run: Any) -> None:
        before = run.model.logit_scale.item()
        with run.averaged():
            evaluated.append(run.model.logit_scale.detach().clone())
        assert run.model.logit_scale.item() == before
        evaluate(run)
        assert run.model.logit_scale.item() == before

    monkeypatch.setattr(MovingAverage, "update", record)
    monkeypatch.setattr(train_module, "evaluate_interim", look)
    start: dict[str, Tensor] = {}

    def keep_start(run: Any) -> None:
        if run.step == 1:
            start.update({name: tensor.detach().double().clone() for name, tensor in run.model.state_dict().items()})

    before_step(monkeypatch, keep_start)
    job = with_suite(make_job("ema", "resnet", epochs=2, ema=0.5, evaluate_every=3), suite)
    assert main([str(job)]) == 0
    assert (output_of(job) / "metrics.jsonl").read_bytes() == (output_of(plain) / "metrics.jsonl").read_bytes()
    average = {name: start[name] for name in steps[0]}
    for step, weights in enumerate(steps, 1):
        decay = min(0.5, (1 + step) / (10 + step))
        average = {name: decay * average[name] + (1 - decay) * weights[name] for name in average}
        if step == 3:
            torch.testing.assert_close(evaluated[0].double(), average["logit_scale"], rtol=1e-6, atol=0)
    saved, unaveraged = (load_file(output_of(each) / "model.safetensors") for each in (job, plain))
    assert {name for name in saved if "running" in name} < average.keys()
    for name, expected in average.items():
        torch.testing.assert_close(saved[name].double(), expected, rtol=1e-5, atol=1e-6, msg=name)
        assert not saved[name].equal(unaveraged[name]), name


def test_the_last_points_are_averaged_and_saved(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of nine steps, 3, 6 and 9 are points; before the first one the weights themselves are evaluated."""
    points: list[dict[str, Tensor]] = []
    counts: list[float] = []
    update = LastAverage.update

    def record(average: LastAverage, step: int) -> None:
        weights = {name: tensor.detach().double().clone() for name, tensor in average._values.items()}
        points.extend([weights] if step in (3, 6, 9) else [])
        update(average, step)
        counts.append(average._count.item())
        with average.in_use():
            used = average._values["logit_scale"].detach().double()
            expected = torch.stack([p["logit_scale"] for p in points] or [weights["logit_scale"]]).mean(0)
            torch.testing.assert_close(used, expected, rtol=1e-6, atol=0)
        for name, tensor in average._values.items():
            assert tensor.double().equal(weights[name]), name

    monkeypatch.setattr(LastAverage, "update", record)
    job = make_job("a", "resnet", epochs=3, average_last=3, average_every=3)
    assert main([str(job)]) == 0
    assert counts == [0, 0, 1, 1, 1, 2, 2, 2, 3]
    saved = load_file(output_of(job) / "model.safetensors")
    assert {name for name in saved if "running" in name} < points[0].keys()
    for name in points[0]:
        mean = torch.stack([point[name] for point in points]).mean(0)
        torch.testing.assert_close(saved[name].double(), mean, rtol=1e-5, atol=1e-6, msg=name)


def test_an_average_needs_its_points_and_no_other_average(make_job: MakeJob) -> None:
    job = make_job("a", "vit", epochs=3, average_last=4, average_every=3)
    assert main([str(job)]) == 2
    failure = json.loads((output_of(job) / "failure.json").read_text())
    assert "average_last: 4 points every 3 steps need more than the 9 steps" in failure["message"]
    with pytest.raises(ValueError, match="ema and average_last"):
        TrainConfig(ema=0.9, average_last=2)
