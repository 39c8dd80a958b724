"""The checks of a run's dataset stop it before the training, in each flow that works on the run."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from dataops.errors import DatasetBlocked
from dataops.snapshot import Counts
from dataops.store import FolderStore
from flows.records import RunRecord, read_record
from flows.run import Run
from tasks.checks.check import check_dataset
from tasks.checks.config import ChecksConfig
from tasks.checks.report import CheckReport
from tests.manifests import build_manifest

PACK = build_manifest("pack", key="d" * 16, counts=Counts(input=3, kept=3))
BLOCKING = ChecksConfig(min_rows=4, levels={"min_rows": "block"})


def build_run(store: FolderStore, checks: ChecksConfig) -> Any:
    """Return what `Run.check_dataset` needs of a run, without a server of Prefect."""
    shown: list[CheckReport] = []
    return SimpleNamespace(
        record=RunRecord(run_id="daily-1", name="daily", created_at="2026-01-01T00:00:00+00:00", config={}),
        manifests={"pack": PACK},
        config=SimpleNamespace(checks=checks),
        context=SimpleNamespace(store=store),
        artefacts=SimpleNamespace(create_checks=shown.append),
        shown=shown,
    )


def test_blocked_dataset_is_recorded_and_shown_before_the_run_ends(tmp_path):
    store = FolderStore(tmp_path)
    run = build_run(store, BLOCKING)
    run.record.begin()
    with pytest.raises(DatasetBlocked, match="min_rows: the dataset has 3 pairs; the minimum is 4") as raised:
        Run.check_dataset(run)
    assert raised.value.exit_code == 3
    recorded = read_record(store, "runs/daily-1.json").checks
    assert recorded is not None
    assert [recorded] == run.shown
    assert recorded.is_blocked


def test_warning_is_logged_and_the_run_continues(tmp_path, caplog):
    run = build_run(FolderStore(tmp_path), ChecksConfig(min_rows=4))
    with caplog.at_level(logging.INFO):
        Run.check_dataset(run)
    (warning,) = (line for line in caplog.records if line.levelno == logging.WARNING)
    assert warning.getMessage() == "min_rows: the dataset has 3 pairs; the minimum is 4"
    assert f"checks of pack/{PACK.key}: " in caplog.text


def test_later_flow_uses_the_recorded_report_on_the_same_dataset(tmp_path):
    run = build_run(FolderStore(tmp_path), ChecksConfig())
    run.record.checks = check_dataset(BLOCKING, {"pack": PACK})
    with pytest.raises(DatasetBlocked):
        Run.check_dataset(run, recorded=True)
    assert run.shown == []
    run.record.checks = run.record.checks.model_copy(update={"dataset": "e" * 16})
    Run.check_dataset(run, recorded=True)
    assert run.record.checks.dataset == PACK.key


def test_checks_that_are_off_leave_no_trace(tmp_path, caplog):
    run = build_run(FolderStore(tmp_path), ChecksConfig(level="off", min_rows=4))
    with caplog.at_level(logging.INFO):
        Run.check_dataset(run)
    assert run.shown == []
    assert "checks" not in caplog.text
