"""Batches on their way to the device. There is no GPU here, so its streams and tensors are recorders of calls."""

from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from training.data.loader import Batch
from training.loop.inputs import upload_batches


class Pinned:
    """A tensor in pinned memory, or its copy on the GPU."""

    def __init__(self, calls: list[str]):
        self.calls = calls

    def to(self, device: torch.device, *, non_blocking: bool) -> "Pinned":
        self.calls.append(f"copy to {device}, {non_blocking=}")
        return Pinned(self.calls)

    def record_stream(self, stream: Any) -> None:
        self.calls.append(f"in use by {stream.name}")


class Stream:
    def __init__(self, name: str, calls: list[str]):
        self.name, self.calls = name, calls

    def wait_stream(self, other: "Stream") -> None:
        self.calls.append(f"{self.name} waits for {other.name}")


class Inputs:
    def __init__(self, tensor: Pinned):
        self.tensor = tensor

    def map(self, function: Any) -> "Inputs":
        return Inputs(function(self.tensor))


def batch(step: int, inputs: Any) -> Batch:
    return Batch(step, 0, np.zeros(0), np.zeros(0), [], [], inputs=inputs)


def test_a_batch_is_copied_in_a_stream_of_its_own_before_the_step_that_uses_it(monkeypatch):
    calls: list[str] = []

    @contextmanager
    def enter(stream: Stream) -> Any:
        calls.append(f"enter {stream.name}")
        yield
        calls.append(f"leave {stream.name}")

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("copies", calls))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("computes", calls))
    monkeypatch.setattr(torch.cuda, "stream", enter)
    pinned = [Inputs(Pinned(calls)) for _ in range(2)]
    for uploaded in upload_batches([batch(n, inputs) for n, inputs in enumerate(pinned)], torch.device("cuda", 1)):
        assert uploaded.inputs.tensor is not pinned[uploaded.step].tensor
        calls.append(f"step {uploaded.step}")
    of_each = [
        "enter copies",
        "copy to cuda:1, non_blocking=True",
        "in use by computes",
        "leave copies",
        "computes waits for copies",
    ]
    assert calls == [*of_each, "step 0", *of_each, "step 1"]
