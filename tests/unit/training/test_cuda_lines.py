"""Lines of the trainer that only a machine with CUDA runs, executed with recorders in place of torch.cuda.

Others are in test_failures.py, test_distributed.py, loop/test_inputs.py, loop/test_metrics_log.py and recipes' test_fp8.py.
"""

import torch

from training.loop.step_recorder import DelayedValues

CUDA = torch.device("cuda", 1)


class OnCard:
    """A vector on a card, of which only the copy to the host is used."""

    def __init__(self, values):
        self.values, self.device = values, CUDA
        self.shape, self.dtype = values.shape, values.dtype


def test_values_travel_to_pinned_memory_and_are_waited_for_once(monkeypatch):
    calls = []

    class Event:
        def record(self):
            calls.append("record")

        def synchronize(self):
            calls.append("synchronize")

    class Host(torch.Tensor):
        def copy_(self, source, non_blocking=False):
            calls.append(f"copy, {non_blocking=}")
            return super().copy_(source.values)

    def empty(shape, dtype, pin_memory):
        calls.append(f"empty, {pin_memory=}")
        return torch.zeros(shape, dtype=dtype).as_subclass(Host)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch, "empty", empty)
    values = DelayedValues(OnCard(torch.arange(8.0, dtype=torch.float64)))
    assert calls == ["empty, pin_memory=True", "copy, non_blocking=True", "record"]
    before = values.ended
    assert values.read() == (0, 1, 2, 3, 4, 5, 6, 7)
    assert calls[3:] == ["synchronize"]
    assert values.ended > before
