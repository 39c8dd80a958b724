"""Bad steps, in whole jobs: skipped, counted, rolled back."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

import training.loop.step as step_module
from tests.trainings import before_step, output_of, outputs_of, rows_of, run_training, stop_at
from training.config import TrainConfig
from training.loop.health import NORM_WINDOW, StepGuard

pytestmark = pytest.mark.usefixtures("process_state")


def poison(monkeypatch, steps):
    """Make all pixels of some steps not finite."""
    prepare, current = step_module.prepare_images, [0]
    before_step(monkeypatch, lambda run: current.__setitem__(0, run.step))
    factor = {True: torch.nan, False: 1.0}
    monkeypatch.setattr(step_module, "prepare_images", lambda *inputs: prepare(*inputs) * factor[current[0] in steps])


def test_a_bad_step_is_skipped_and_counted(make_job, monkeypatch):
    poison(monkeypatch, {4, 6})
    job = make_job("a", "resnet", epochs=3, max_bad_steps=2)
    assert run_training(job) == 0
    rows = rows_of(job)
    assert [row["skipped_steps"] for row in rows] == [0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert [step for step, row in enumerate(rows, 1) if "loss" not in row] == [4, 6]
    done = json.loads((output_of(job) / "done.json").read_text())
    assert done["bad_steps"] == {"skipped": 2, "rollbacks": []}
    for name, tensor in load_file(output_of(job) / "model.safetensors").items():
        assert tensor.isfinite().all(), name
    assert run_training(make_job("b", "resnet", epochs=3)) == 4, "without the option, the first one ends the job"


def test_several_bad_steps_roll_back_and_go_on_past_their_data(make_job, monkeypatch):
    poison(monkeypatch, {6, 7})
    settings = {"max_bad_steps": 2, "max_rollbacks": 1, "checkpoint_every": 3}
    job = make_job("a", keep_checkpoints=9, **settings)
    scales = {}
    before_step(monkeypatch, lambda run: scales.update({run.step: run.model.logit_scale.item()}))
    assert run_training(job) == 0
    done = json.loads((output_of(job) / "done.json").read_text())
    assert done["bad_steps"] == {"skipped": 2, "rollbacks": [{"to": 3, "after": 8}]}
    assert [row["rollbacks"] for row in rows_of(job)] == [0] * 8 + [1] * 4
    assert [row["step"] for row in rows_of(job)] == list(range(1, 13))
    assert scales[9] == scales[4] != scales[8]
    other = make_job("b", keep_checkpoints=1, **settings)
    before_step(monkeypatch, stop_at(7))  # after the second bad step, before the host has read it
    assert [run_training(other) for _ in range(2)] == [75, 0]
    assert outputs_of(other) == outputs_of(job)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"checkpoint_every": 3}, "step 7: 2 bad steps in a row, and 0 rollbacks before them; .*step-000006"),
        ({"checkpoint_every": 7, "max_rollbacks": 1}, "step 7: 2 bad steps in a row, and no checkpoint before them"),
    ],
)
def test_bad_steps_without_a_rollback_end_the_job(make_job, monkeypatch, settings, message):
    poison(monkeypatch, {6, 7})
    job = make_job("a", max_bad_steps=2, **settings)
    assert run_training(job) == 4
    failure = json.loads((output_of(job) / "failure.json").read_text())
    assert re.search(message, failure["message"])


def test_a_step_is_bad_by_the_means_of_the_good_ones():
    """Compare the decision on the device with a slow one, on losses that rise and norms that jump."""
    guard = StepGuard(TrainConfig(max_bad_steps=9, bad_loss=1.5, bad_grad_norm=3.0), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    losses = 2 + torch.rand(400, generator=generator).double()
    norms = 1 + torch.rand(400, generator=generator).double()
    losses[[50, 150, 250, 300]] = torch.tensor([9.0, 9.0, 3.1, torch.nan], dtype=torch.float64)
    norms[[60, 160, 260, 301]] = torch.tensor([9.0, 9.0, 3.1, torch.inf], dtype=torch.float64)
    means, count, expected, found = [0.0, 0.0], 0, [], []
    for step, values in enumerate(zip(losses.tolist(), norms.tolist(), strict=True)):
        high = count >= NORM_WINDOW and (values[0] > 1.5 * means[0] or values[1] > 3.0 * means[1])
        if high or not all(abs(value) < float("inf") for value in values):
            expected.append(step)
        else:
            count += 1
            weight = 1 / min(count, NORM_WINDOW)
            means = [mean + weight * (value - mean) for mean, value in zip(means, values, strict=True)]
        if guard.decide(losses[step], norms[step]):
            found.append(step)
    assert found == expected == [150, 160, 300, 301]
