"""Steps with recipes read nothing back from the device (tests/device_reads.py)."""

from typing import Any

import pytest

from tests.device_reads import check_device, check_reads

pytestmark = pytest.mark.usefixtures("process_state")


@pytest.mark.parametrize(
    ("tower", "settings"),
    [
        ("resnet", {"precision": "bf16", "ema": 0.9, "max_bad_steps": 1, "bad_loss": 9}),
        ("vit", {"loss": "global", "average_last": 2, "average_every": 1, "max_bad_steps": 1}),
        ("vit", {"optimizer": "muon", "layer_decay": 0.5, "max_bad_steps": 1, "max_grad_norm": 1.0}),
    ],
)
def test_a_step_reads_nothing_back(
    make_job: Any, monkeypatch: pytest.MonkeyPatch, tower: str, settings: dict[str, object]
) -> None:
    check_reads(make_job, monkeypatch, tower, settings)


def test_all_tensors_of_a_step_lie_on_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    check_device(monkeypatch, "vit", {"loss": "global", "multi_positive": "mask"})
