"""A step reads nothing back from the device, and a run reads one thing a step: both are counted on the CPU.

On a GPU, each such read makes the host wait until the GPU has nothing left to do.
"""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import training.train as train_module
from benchmarks.gpu_gates.reads import counting
from tests.trainings import TOWERS, rows_of
from training.config import TrainConfig
from training.data.loader import Batch
from training.loop.initial_model import build_initial_model
from training.loop.inputs import InputMaker
from training.loop.step import StepValues, take_step
from training.loop.step_recorder import StepRecorder
from training.losses.global_loss import Denominators
from training.model.packing import pack_texts
from training.model_config import ModelConfig
from training.train import main

pytestmark = pytest.mark.usefixtures("process_state")


def test_the_counter_finds_each_kind_of_read() -> None:
    tokens = torch.tensor([[1, 9, 0], [9, 0, 0]])
    with counting() as found:
        pack_texts(tokens)  # on the CPU, as in the loader
    assert {line.split()[1] for line in found} >= {"nonzero", "__int__", "_local_scalar_dense", "repeat_interleave"}
    assert all(line.startswith("packing.py:") for line in found)


@pytest.mark.parametrize(
    ("tower", "settings"),
    [
        (
            "vit",
            {
                "patch_dropout": 0.5,
                "grad_cache": 4,
                "max_grad_norm": 1.0,
                "label_smoothing": 0.1,
                "multi_positive": "share",
            },
        ),
        (
            "vit",
            {"loss": "sigmoid", "loss_rows": 3, "augment": {}, "grad_checkpointing": True, "multi_positive": "mask"},
        ),
        ("resnet", {"precision": "bf16", "ema": 0.9, "max_bad_steps": 1, "bad_loss": 9}),
        ("vit", {"loss": "global", "average_last": 2, "average_every": 1, "max_bad_steps": 1}),
        ("vit", {"optimizer": "muon", "layer_decay": 0.5, "max_bad_steps": 1, "max_grad_norm": 1.0}),
    ],
)
def test_a_step_reads_nothing_back_and_a_run_reads_once_a_step(
    make_job: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tower: str, settings: dict[str, object]
) -> None:
    in_steps: list[list[str]] = []
    in_records: list[list[str]] = []

    def counted(function: Callable[..., Any], into: list[list[str]]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            with counting() as found:
                into.append(found)
                return function(*arguments)

        return call

    monkeypatch.setattr(train_module, "launch_step", counted(train_module.launch_step, in_steps))
    monkeypatch.setattr(StepRecorder, "add", counted(StepRecorder.add, in_records))
    job = make_job("a", tower, epochs=2, **settings)
    assert main([str(job)]) == 0
    assert len(in_steps) == len(in_records) == len(rows_of(job)) == 6
    assert in_steps[1:] == [[]] * 5, "the first step also makes constants"
    for found in in_records[1:]:
        (read,) = found
        assert read.startswith("step_recorder.py:")
        assert read.endswith("tolist")


@pytest.mark.parametrize(
    ("tower", "settings"),
    [
        ("vit", {"patch_dropout": 0.5, "grad_cache": 2, "augment": {"blur": 0.5, "hue": 0.1, "erase_lines": 0.5}}),
        ("vit", {"loss": "sigmoid", "max_grad_norm": 1.0, "multi_positive": "mask"}),
        ("vit", {"multi_positive": "share", "label_smoothing": 0.1}),
        ("vit", {"loss": "global", "multi_positive": "mask"}),
        ("resnet", {}),
    ],
)
def test_all_tensors_of_a_step_lie_on_its_device(
    monkeypatch: pytest.MonkeyPatch, tower: str, settings: dict[str, object]
) -> None:
    """The device `meta` has shapes but no values: what reads a value, or takes a tensor of another device, raises."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it does not support this device
    config = TrainConfig.model_validate({"precision": "fp32", **settings})
    dimensions = ModelConfig.model_validate(TOWERS[tower])
    tokens = torch.tensor([[1, 5, 299, 0], [299, 0, 0, 0], [7, 8, 9, 299]])
    batch = Batch(1, 0, np.arange(3), np.zeros((3, 32, 32, 3), np.uint8), ["a"] * 3, [], tokens, np.ones((3, 2), int))
    inputs = InputMaker(config, dimensions, 0, 100, pin=False)(batch)
    with torch.device("meta"):
        model = build_initial_model(config, dimensions).train()
    optimizer = torch.optim.AdamW(model.parameters())  # the fused one does not support this device
    denominators = Denominators(3, torch.device("meta")) if config.loss == "global" else None
    of_step = inputs.map(lambda tensor: tensor.to("meta"))
    values = take_step(model, model, optimizer, config, of_step, lr=1e-3, denominators=denominators)
    assert (values.device.type, values.dtype, values.shape) == ("meta", torch.float64, (len(StepValues._fields),))
