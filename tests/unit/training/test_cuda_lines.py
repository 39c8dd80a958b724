"""Lines of the trainer that only a machine with CUDA runs, executed on a card that is the CPU, or with recorders.

Others are in test_failures.py, test_distributed.py, loop/test_inputs.py, loop/test_metrics_log.py and fp8's test_fp8.py.
"""

from types import SimpleNamespace

import pytest
import torch

from tests.pretended_card import pretended_card
from tests.trainings import output_of, run_training, with_suite
from training import distributed
from training import job as job_module
from training.loop.interim_evaluation import EVIDENCE
from training.loop.step_recorder import DelayedValues

CUDA = torch.device("cuda", 1)
pytestmark = pytest.mark.usefixtures("process_state")


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


def test_a_training_on_a_card_has_the_bits_of_one_on_the_cpu(make_job, suite, monkeypatch):
    settings = {"epochs": 2, "holdout": 0.2, "evaluate_every": 2, "patch_dropout": 0.5, "deterministic": False}
    jobs = [with_suite(make_job(name, device=name, **settings), suite) for name in ("cpu", "cuda")]
    assert run_training(jobs[0]) == 0
    with pretended_card(monkeypatch):
        assert run_training(jobs[1]) == 0
    cpu, card = (output_of(path) for path in jobs)
    for name in ("model.safetensors", "holdout.jsonl", EVIDENCE):
        assert (cpu / name).read_bytes() == (card / name).read_bytes(), name
    assert '"gpu_peak_memory_gb":1.0' in (card / "evidence-throughput.jsonl").read_text().replace(" ", "")


def test_a_rank_on_a_card_has_its_own_in_distributed_data_parallel_and_writes_its_flight_record(tmp_path, monkeypatch):
    found = {}
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "DistributedDataParallel", lambda model, **options: found.update(options) or model)
    distributed.parallelize(torch.nn.Linear(1, 1), CUDA)
    assert found["device_ids"] == [CUDA]
    monkeypatch.setattr(torch._C, "_distributed_c10d", SimpleNamespace(_dump_nccl_trace=lambda: b"exchanges"))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    job_module.write_flight_record(tmp_path)
    assert (tmp_path / "rank-0").read_bytes() == b"exchanges"
