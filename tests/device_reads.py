"""What a step reads back from its device, and where its tensors lie: both are counted on the CPU."""

from contextlib import nullcontext

import numpy as np
import torch

import training.train as train_module
from tests.host_reads import counting
from tests.trainings import TOWERS, rows_of, run_training
from training.config import TrainConfig
from training.data.loader import Batch
from training.loop.initial_model import build_initial_model
from training.loop.inputs import InputMaker
from training.loop.step import StepValues, take_step
from training.loop.step_recorder import StepRecorder
from training.model_config import ModelConfig


def check_reads(make_job, monkeypatch, tower, settings):
    """Check that a step of a job reads nothing back, and a run one thing a step."""
    in_steps = []
    in_records = []

    def counted(function, into):
        def call(*arguments):
            with counting() as found:
                into.append(found)
                return function(*arguments)

        return call

    monkeypatch.setattr(train_module, "launch_step", counted(train_module.launch_step, in_steps))
    monkeypatch.setattr(StepRecorder, "add", counted(StepRecorder.add, in_records))
    job = make_job("a", tower, epochs=2, **settings)
    assert run_training(job) == 0
    assert len(in_steps) == len(in_records) == len(rows_of(job)) == 6
    assert in_steps[1:] == [[]] * 5, "the first step also makes constants"
    for found in in_records[1:]:
        (read,) = found
        assert read.startswith("step_recorder.py:"), read
        assert read.endswith("tolist")


def check_device(monkeypatch, tower, settings):
    """Check that all tensors of a step lie on its device.

    The device `meta` has shapes but no values: what reads a value, or takes a tensor of another device, raises.
    """
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it does not support this device
    config = TrainConfig.model_validate({"precision": "fp32", **settings})
    dimensions = ModelConfig.model_validate(TOWERS[tower])
    tokens = torch.tensor([[1, 5, 299, 0], [299, 0, 0, 0], [7, 8, 9, 299]])
    batch = Batch(1, 0, np.arange(3), np.zeros((3, 32, 32, 3), np.uint8), ["a"] * 3, [], tokens, np.ones((3, 2), int))
    inputs = InputMaker(config, dimensions, 0, 100, pin=False)(batch)
    with torch.device("meta"):
        model = build_initial_model(config, dimensions).train()
    optimizer = torch.optim.AdamW(model.parameters())  # the fused one does not support this device
    of_step = inputs.map(lambda tensor: tensor.to("meta"))
    values = take_step(model, model, optimizer, config, of_step, lr=1e-3)
    assert (values.device.type, values.dtype, values.shape) == ("meta", torch.float64, (len(StepValues._fields),))
