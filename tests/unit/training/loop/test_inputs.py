"""Batches on their way to the device. There is no GPU here, so its streams and tensors are recorders of calls."""

from contextlib import contextmanager

import numpy as np
import torch

from training.data.loader import Batch
from training.loop.inputs import upload_batches


class Pinned:
    """A tensor in pinned memory, or its copy on the GPU."""

    def __init__(self, calls):
        self.calls = calls

    def to(self, device, *, non_blocking):
        self.calls.append(f"copy to {device}, {non_blocking=}")
        return Pinned(self.calls)

    def record_stream(self, stream):
        self.calls.append(f"in use by {stream.name}")


class Stream:
    def __init__(self, name, calls):
        self.name, self.calls = name, calls

    def wait_stream(self, other):
        self.calls.append(f"{self.name} waits for {other.name}")


class Inputs:
    def __init__(self, tensor):
        self.tensor = tensor

    def map(self, function):
        return Inputs(function(self.tensor))


def batch(step, inputs):
    return Batch(step, 0, np.zeros(0), np.zeros(0), [], [], inputs=inputs)


def test_a_batch_is_copied_in_a_stream_of_its_own_before_the_step_that_uses_it(monkeypatch):
    calls = []

    @contextmanager
    def enter(stream):
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
