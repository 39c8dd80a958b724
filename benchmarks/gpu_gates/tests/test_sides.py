"""A training job and the benchmarks take the same step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from training.loop.training_run import Learner
from training.train import main


@pytest.mark.usefixtures("process_state")
def test_a_job_takes_the_steps_of_a_learner(make_job: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    take_step, rates = Learner.take_step, []

    def record(learner: Learner, *arguments: Any, **options: Any) -> torch.Tensor:
        assert learner.guard is not None
        rates.append(options["lr"])
        return take_step(learner, *arguments, **options)

    monkeypatch.setattr(Learner, "take_step", record)
    settings = {"max_bad_steps": 1, "precision": "fp32", "threads": 1}
    assert main([str(make_job("a", "vit", epochs=1, **settings))]) == 0
    assert len(rates) == 3
