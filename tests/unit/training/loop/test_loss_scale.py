"""fp16: the scale of the loss is that of torch's GradScaler, and a training resumes with it."""

import json
import math

import pytest
import torch
from torch import nn

from tests.trainings import before_step, output_of, rows_of, run_training, stop_at
from training.loop.health import LossScale
from training.train import OUTPUTS


def test_the_scale_is_that_of_torchs_grad_scaler():
    generator = torch.Generator().manual_seed(0)
    steps = [math.inf if torch.rand((), generator=generator) < 0.2 else 1.5 for _ in range(60)]
    ours, theirs = LossScale(torch.device("cpu"), interval=3), torch.amp.GradScaler("cpu", 65536.0, growth_interval=3)
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    theirs.scale(torch.ones(()))
    for value in steps:
        parameter.grad = torch.tensor([value, 3.0])
        gradient = parameter.grad.clone()
        ours.unscale([gradient])
        theirs.unscale_(optimizer)
        assert torch.equal(gradient, parameter.grad)
        ours.update(gradient.norm())
        theirs.step(optimizer)
        theirs.update()
        assert ours.value.item() == theirs.get_scale()


@pytest.mark.usefixtures("process_state")
@pytest.mark.parametrize("settings", [{}, {"grad_cache": 4}])
def test_fp16_skips_what_overflows_and_resumes_in_the_same_bits(make_job, monkeypatch, settings):
    """The first scale is chosen so large that the first steps overflow."""
    start = LossScale.__init__

    def start_high(self, device):
        start(self, device)
        self.value.fill_(2.0**22)

    monkeypatch.setattr(LossScale, "__init__", start_high)
    jobs = [make_job(name, precision="fp16", epochs=5, **settings) for name in ("whole", "stopped")]
    assert run_training(jobs[0]) == 0
    before_step(monkeypatch, stop_at(5))
    assert [run_training(jobs[1]) for _ in range(2)] == [75, 0]
    whole, stopped = ([(output_of(job) / name).read_bytes() for name in OUTPUTS] for job in jobs)
    assert whole == stopped
    rows = rows_of(jobs[0])
    assert 0 < rows[-1]["skipped_steps"] < 9
    assert "grad_norm" not in rows[0]  # it is not finite
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert json.loads((output_of(jobs[0]) / "done.json").read_text())["precision"] == "fp16"
