"""The trace of some steps: it changes no bit, is written once, and has a maximum size."""

import gzip
import json
import logging

import pytest
import torch

from tests.trainings import output_of, run_training
from training.config import TRACE
from training.loop.profiling import StepProfiler
from training.train import OUTPUTS

CPU = torch.device("cpu")


def traced_steps(path):
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return sorted({event["name"] for event in events if event["name"].startswith("ProfilerStep#")})


def take_steps(output, number, left, *, steps=3, stop=None, max_bytes=1 << 26):
    with StepProfiler(output, steps, left, CPU, max_bytes) as profiler:
        for _ in range(number):
            torch.ones(2).sum()
            profiler.step()
        if stop is not None:
            raise stop


@pytest.mark.usefixtures("process_state")
def test_a_job_s_trace_has_its_steps_and_changes_no_bit(make_job):
    plain, profiled = make_job("plain", "vit"), make_job("profiled", "vit", profile=2)
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
