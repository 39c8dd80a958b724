"""A step reads nothing back from the device, and a run reads one thing a step: both are counted on the CPU.

On a GPU, each such read makes the host wait until the GPU has nothing left to do.
"""

import pytest
import torch

from tests.device_reads import check_device, check_reads
from tests.host_reads import counting
from training.model.packing import pack_texts

pytestmark = pytest.mark.usefixtures("process_state")


def test_the_counter_finds_each_kind_of_read():
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
        ("vit", {"loss": "sigmoid", "loss_rows": 3, "grad_checkpointing": True, "multi_positive": "mask"}),
        ("resnet", {"precision": "bf16", "max_bad_steps": 1, "bad_loss": 9}),
    ],
)
def test_a_step_reads_nothing_back_and_a_run_reads_once_a_step(make_job, monkeypatch, tower, settings):
    check_reads(make_job, monkeypatch, tower, settings)


@pytest.mark.parametrize(
    ("tower", "settings"), [("vit", {"patch_dropout": 0.5, "label_smoothing": 0.1}), ("resnet", {"loss": "sigmoid"})]
)
def test_all_tensors_of_a_step_lie_on_its_device(monkeypatch, tower, settings):
    check_device(monkeypatch, tower, settings)
