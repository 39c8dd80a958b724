"""Options that change how a model is optimised, in whole jobs: resumed to the same bits, averaged, skipped, rolled back."""

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import training.loop.step as step_module
import training.train as train_module
from tests.unit.training.conftest import output_of, rows_of, with_suite
from training.config import TrainConfig
from training.loop.bad_steps import WINDOW, StepGuard
from training.loop.weight_average import LastAverage, MovingAverage
from training.train import OUTPUTS, main

MakeJob = Callable[..., Path]
pytestmark = pytest.mark.usefixtures("process_state")


def outputs_of(job: Path) -> dict[str, bytes]:
    return {name: (output_of(job) / name).read_bytes() for name in OUTPUTS}


def before_step(monkeypatch: pytest.MonkeyPatch, act: Callable[[Any], object]) -> None:
    """Call a function with the run before each step of the jobs that follow."""
    launch = train_module.launch_step

    def call(run: Any, *arguments: Any) -> Any:
        act(run)
        return launch(run, *arguments)

    monkeypatch.setattr(train_module, "launch_step", call)


def stop_at(step: int) -> Callable[[Any], None]:
    """Send SIGTERM in a step: the job ends after it."""

    def stop(run: Any) -> None:
        if run.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return stop


def poison(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Make all pixels of some steps not finite."""
    prepare, current = step_module.prepare_images, [0]
    before_step(monkeypatch, lambda run: current.__setitem__(0, run.step))
    factor = {True: torch.nan, False: 1.0}
    monkeypatch.setattr(step_module, "prepare_images", lambda *inputs: prepare(*inputs) * factor[current[0] in steps])


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


def test_a_bad_step_is_skipped_and_counted(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, {4, 6})
    job = make_job("a", "resnet", epochs=3, max_bad_steps=2)
    assert main([str(job)]) == 0
    rows = rows_of(job)
    assert [row["skipped_steps"] for row in rows] == [0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert [step for step, row in enumerate(rows, 1) if "loss" not in row] == [4, 6]
    done = json.loads((output_of(job) / "done.json").read_text())
    assert done["bad_steps"] == {"skipped": 2, "rollbacks": []}
    for name, tensor in load_file(output_of(job) / "model.safetensors").items():
        assert tensor.isfinite().all(), name
    assert main([str(make_job("b", "resnet", epochs=3))]) == 4, "without the option, the first one ends the job"


@pytest.mark.parametrize("stopped_after", [None, 7])
def test_several_bad_steps_roll_back_and_go_on_past_their_data(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, stopped_after: int | None
) -> None:
    poison(monkeypatch, {6, 7})
    settings = {"max_bad_steps": 2, "max_rollbacks": 1, "checkpoint_every": 3, "ema": 0.9}
    job = make_job("a", "vit", keep_checkpoints=9, **settings)
    scales: dict[int, float] = {}
    before_step(monkeypatch, lambda run: scales.update({run.step: run.model.logit_scale.item()}))
    assert main([str(job)]) == 0
    done = json.loads((output_of(job) / "done.json").read_text())
    assert done["bad_steps"] == {"skipped": 2, "rollbacks": [{"to": 3, "after": 8}]}
    assert [row["rollbacks"] for row in rows_of(job)] == [0] * 8 + [1] * 4
    assert [row["step"] for row in rows_of(job)] == list(range(1, 13))
    assert scales[9] == scales[4] != scales[8]
    if stopped_after is not None:  # after the second bad step, before the host has read it
        other = make_job("b", "vit", keep_checkpoints=1, **settings)
        with monkeypatch.context() as patch:
            before_step(patch, stop_at(stopped_after))
            assert main([str(other)]) == 75
        assert main([str(other)]) == 0
        assert outputs_of(other) == outputs_of(job)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"checkpoint_every": 3}, "step 7: 2 bad steps in a row, and 0 rollbacks before them; .*step-000006"),
        ({"checkpoint_every": 7, "max_rollbacks": 1}, "step 7: 2 bad steps in a row, and no checkpoint before them"),
    ],
)
def test_bad_steps_without_a_rollback_end_the_job(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, settings: dict[str, int], message: str
) -> None:
    poison(monkeypatch, {6, 7})
    job = make_job("a", "vit", max_bad_steps=2, **settings)
    assert main([str(job)]) == 4
    failure = json.loads((output_of(job) / "failure.json").read_text())
    assert re.search(message, failure["message"])


def test_a_step_is_bad_by_the_means_of_the_good_ones() -> None:
    """Compare the decision on the device with a slow one, on losses that rise and norms that jump."""
    guard = StepGuard(TrainConfig(max_bad_steps=9, bad_loss=1.5, bad_grad_norm=3.0), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    losses = 2 + torch.rand(400, generator=generator).double()
    norms = 1 + torch.rand(400, generator=generator).double()
    losses[[50, 150, 250, 300]] = torch.tensor([9.0, 9.0, 3.1, torch.nan], dtype=torch.float64)
    norms[[60, 160, 260, 301]] = torch.tensor([9.0, 9.0, 3.1, torch.inf], dtype=torch.float64)
    means, count, expected, found = [0.0, 0.0], 0, [], []
    for step, values in enumerate(zip(losses.tolist(), norms.tolist(), strict=True)):
        high = count >= WINDOW and (values[0] > 1.5 * means[0] or values[1] > 3.0 * means[1])
        if high or not all(abs(value) < float("inf") for value in values):
            expected.append(step)
        else:
            count += 1
            weight = 1 / min(count, WINDOW)
            means = [mean + weight * (value - mean) for mean, value in zip(means, values, strict=True)]
        if guard.decide(losses[step], norms[step]):
            found.append(step)
    assert found == expected == [150, 160, 300, 301]


def test_checkpoint_every_is_in_the_key_only_with_rollbacks() -> None:
    plain, rolling = TrainConfig(max_bad_steps=1), TrainConfig(max_bad_steps=1, max_rollbacks=1)
    assert "checkpoint_every" not in plain.key_config()
    assert rolling.key_config()["checkpoint_every"] == 1000
    for settings in ({"max_rollbacks": 1}, {"bad_loss": 2.0}, {"max_bad_steps": 9, "max_rollbacks": 1}):
        with pytest.raises(ValueError, match="max_bad_steps"):
            TrainConfig.model_validate({"checkpoint_every": 5, **settings})
