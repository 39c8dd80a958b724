"""The trace of some steps: it changes no bit, is written once, and has a maximum size."""

import gzip
import json
import logging

import pytest
import torch

from plugins.curves import profiling
from plugins.curves.hook import TRACE
from plugins.curves.profiling import StepProfiler
from tests.trainings import output_of, run_training
from training.train import OUTPUTS

CPU = torch.device("cpu")


def traced_steps(path):
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return sorted({event["name"] for event in events if event["name"].startswith("ProfilerStep#")})


def take_steps(output, number, left, *, steps=3, stop=None, max_bytes=1 << 26):
    with StepProfiler(output / TRACE, steps, left, CPU, max_bytes) as end_step:
        for _ in range(number):
            torch.ones(2).sum()
            end_step()
        if stop is not None:
            raise stop


@pytest.mark.usefixtures("process_state")
def test_a_job_s_trace_has_its_steps_and_changes_no_bit(make_job):
    plain, profiled = make_job("plain"), make_job("profiled", profile=2)
    assert run_training(plain) == run_training(profiled) == 0
    for name in OUTPUTS:
        assert (output_of(plain) / name).read_bytes() == (output_of(profiled) / name).read_bytes()
    assert len(traced_steps(output_of(profiled) / TRACE)) == 2
    assert not (output_of(plain) / TRACE).exists()


def test_a_trace_that_is_too_large_or_cannot_be_written_is_a_warning(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    take_steps(tmp_path, 20, 100, max_bytes=100)
    assert "more than 100" in caplog.text
    assert list(tmp_path.iterdir()) == []
    take_steps(tmp_path / "missing", 20, 100)
    assert "no trace was written" in caplog.text


def test_a_trace_of_a_card_has_its_kernels(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(profiling, "profile", lambda activities, **_: found.extend(activities))
    StepProfiler(tmp_path / TRACE, 1, 10, torch.device("cuda", 1))
    assert [one.name for one in found] == ["CPU", "CUDA"]
