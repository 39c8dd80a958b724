"""The evidence of throughput: it covers the time of the training once, and asks no device."""

import json
import time

import pytest
import torch

import training.loop.metrics_log as metrics_log
import training.train as train_module
from tests.host_reads import counting
from tests.trainings import output_of, rows_of, run_training
from training.config import TrainConfig
from training.data.sampling_plan import Plan
from training.loop.metrics_log import MetricsLog


def rows_of_evidence(output):
    return [json.loads(line) for line in (output / "evidence-throughput.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("process_state")
def test_the_rows_cover_the_time_of_the_steps_and_the_waits(make_job, monkeypatch):
    """The loader takes 0.2 s for each batch, so no step is faster, the last one included."""
    upload = train_module.upload_batches

    def slow(*arguments):
        for batch in upload(*arguments):
            time.sleep(0.2)
            yield batch

    monkeypatch.setattr(train_module, "upload_batches", slow)
    job, started = make_job("a", epochs=1, log_every=1), time.perf_counter()
    assert run_training(job) == 0
    seconds = time.perf_counter() - started
    found = rows_of_evidence(output_of(job))
    assert len(found) == len(rows_of(job)) == 3
    assert sum(row["interval_seconds"] for row in found) < seconds
    assert sum(row["samples_per_second"] * row["interval_seconds"] for row in found) == pytest.approx(25)
    for row in found:
        assert row["interval_seconds"] > 0.2
        assert 0.2 <= row["data_wait_fraction"] * row["interval_seconds"] <= row["interval_seconds"]
        assert 0.01 < row["process_memory_gb"] < 100
        assert row["flops_per_second"] > 0
        assert "mfu" not in row
        assert "gpu_peak_memory_gb" not in row


def test_on_a_card_the_row_has_its_memory_and_mfu_and_a_pause_does_not_count(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 40e9)
    monkeypatch.setattr(metrics_log, "resident_bytes", lambda: 3_000_000_000)
    row = {"step": 1, "samples_seen": 10, "loss": 1.0, "image_to_text_recall": 0.5, "logit_scale": 1.0}
    row |= {"grad_norm": 1.0, "lr": 1e-3}
    plan = Plan(30, TrainConfig(epochs=1, batch_size=10), 0)
    with MetricsLog(tmp_path, plan, 1, torch.device("cuda"), "bf16") as log, counting() as reads:
        log.waited = 0.5
        log.write(row, 989.5e12, 102.0, log.waited)
        now[0] = 102.0
        with log.paused():
            now[0] = 152.0
        log.write({**row, "step": 2, "samples_seen": 20}, 989.5e12, 154.0, log.waited)
    assert reads == []
    expected = {"step": 1, "interval_seconds": 2.0, "samples_per_second": 5.0, "data_wait_fraction": 0.25, "mfu": 0.5}
    expected |= {"flops_per_second": 989.5e12 / 2, "gpu_peak_memory_gb": 40.0, "process_memory_gb": 3.0}
    assert rows_of_evidence(tmp_path) == [expected, {**expected, "step": 2, "data_wait_fraction": 0.0}]
