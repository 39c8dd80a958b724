"""A training job and the benchmarks take the same step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu_gates.sides import make_our_step
from tests.trainings import VIT
from training.config import TrainConfig
from training.loop.inputs import StepInputs
from training.loop.training_run import Learner
from training.model.packing import pack_texts
from training.model_config import ModelConfig
from training.train import main


@pytest.mark.usefixtures("process_state")
def test_a_job_and_a_benchmark_take_the_step_of_a_learner(
    make_job: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    take_step, numbers = Learner.take_step, []

    def record(learner: Learner, number: int, *arguments: Any, **options: Any) -> torch.Tensor:
        assert learner.guard is not None
        numbers.append(number)
        return take_step(learner, number, *arguments, **options)

    monkeypatch.setattr(Learner, "take_step", record)
    settings = {"max_bad_steps": 1, "precision": "fp32", "threads": 1}
    assert main([str(make_job("a", "vit", epochs=1, **settings))]) == 0
    config, dimensions = TrainConfig.model_validate(settings), ModelConfig.model_validate(VIT)
    model, step = make_our_step(config, dimensions, torch.device("cpu"))
    before = model.logit_scale.item()
    texts = pack_texts(torch.tensor([[7, 8, 299], [7, 9, 299]]))
    values_V = step(StepInputs(torch.zeros(2, 32, 32, 3, dtype=torch.uint8), [texts], None), 1e-3)
    assert torch.isfinite(values_V).all()
    assert model.logit_scale.item() != before
    assert numbers == [1, 2, 3, 1]
