"""Steps with augmentation read nothing back from the device (tests/device_reads.py)."""

import pytest

from tests.device_reads import check_reads

pytestmark = pytest.mark.usefixtures("process_state")


@pytest.mark.parametrize(
    ("tower", "settings"),
    [
        ("vit", {"augment": {"zoom": [0.8, 1.2], "hue": 0.1, "erase_lines": 0.5, "blur": 0.5, "cutout": 0.5}}),
    ],
)
def test_a_step_reads_nothing_back(make_job, monkeypatch, tower, settings):
    check_reads(make_job, monkeypatch, tower, settings)
