"""Lines about a long computation: at most one in two seconds, and of the form that the run's terminal shows."""

import logging

import pytest

from tasks.engine.context import READ
from training import progress as module
from training.progress import Progress


@pytest.mark.parametrize(
    ("reader", "total", "shown"),
    [
        ("pretrained network", 40, ["reads images: 50% of 40", "reads images: 100% of 40"]),
        ("model", None, ["reads images: 20", "reads images: 40"]),
    ],
)
def test_a_line_every_two_seconds_is_shown(reader, total, shown, caplog, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    caplog.set_level(logging.INFO)
    batches = [list(range(10))] * 4
    assert list(Progress(reader, "images", total).follow(batches, len)) == batches
    matches = [READ.search(f"12:00:00 INFO {record.getMessage()}") for record in caplog.records]
    assert [match and match[0] for match in matches] == [f"the {reader} {one}" for one in shown]
