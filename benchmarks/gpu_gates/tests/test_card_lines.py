"""Lines of the acceptance that only a card runs, executed with recorders in place of torch.cuda."""

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.gpu_gates.environment import describe_card, find_device, time_call
from benchmarks.gpu_gates.outcomes import MEASURED, NOT_RUN, Setting
from benchmarks.gpu_gates.steps import choose_pairs, time_steps
from tests.host_reads import counting_on_card

CARD: Any = SimpleNamespace(type="cuda")


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []

    class Event:
        def __init__(self, *, enable_timing: bool):
            assert enable_timing

        def record(self) -> None:
            calls.append("record")

        def synchronize(self) -> None:
            calls.append("synchronize")

        def elapsed_time(self, end: "Event") -> float:
            return 500.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    return calls


def test_times_are_those_between_two_events(events: list[str]) -> None:
    assert time_call(lambda: events.append("call"), CARD, times=2) == pytest.approx(0.25)
    assert events == ["call"] * 3 + ["record"] + ["call"] * 2 + ["record", "synchronize"]
    events.clear()
    assert time_steps(lambda steps: events.append(f"{steps} steps"), 20, CARD) == pytest.approx(0.5)
    assert events == ["record", "20 steps", "record", "synchronize"]


def test_a_card_is_described_and_a_smaller_one_takes_fewer_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = SimpleNamespace(name="NVIDIA A10G", major=8, minor=6, total_memory=24e9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: card.name)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    found = describe_card(CARD)
    assert (found["card"], found["compute_capability"], found["peak_flops"]["bf16"]) == ("NVIDIA A10G", "8.6", 70e12)
    setting = Setting("cuda", tmp_path)
    assert choose_pairs(setting, "ViT-B-16") == 128
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device(setting).status == NOT_RUN
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (find_device(setting).status, find_device(setting).message) == (MEASURED, "NVIDIA A10G")


def test_waits_are_counted_by_torchs_own_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with counting_on_card() as found:
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert (len(found), modes) == (1, ["warn", "default"])
