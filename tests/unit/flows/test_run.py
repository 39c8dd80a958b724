"""The checks of a run's dataset stop it before the training, and the alert on harmful images is sent before it."""

import logging
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

import flows.run
from dataops.errors import DatasetBlocked
from dataops.snapshot import Counts
from dataops.store import FolderStore
from flows import events
from flows.pipeline import PIPELINE
from flows.records import RunRecord, read_record
from flows.run import Run
from tasks.checks.check import check_dataset
from tasks.checks.config import ChecksConfig
from tasks.checks.report import CheckReport
from tasks.engine.executor import LocalExecutor
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


def test_alert_on_known_harmful_images_is_sent_before_the_training(tmp_path, monkeypatch):
    sent: list[str] = []
    monkeypatch.setattr(events, "emit_event", lambda event, resource, payload: sent.append(event))
    manifests = {
        name: build_manifest(name, key=name, facts={"known_harm": {"hotline": 1}}, prefect_flow_run_id="f")
        for name in ("filter", "download")
    }
    monkeypatch.setattr(flows.run, "plan", lambda stage, *_: SimpleNamespace(key=stage.name))
    monkeypatch.setattr(flows.run, "label_task", lambda planned: planned.key)
    monkeypatch.setattr(flows.run, "describe_asset", lambda *_: None)
    monkeypatch.setattr(flows.run, "run_task", lambda name, *_: (SimpleNamespace(name="Completed"), manifests[name]))
    record = RunRecord(run_id="daily-1", name="daily", created_at="", config={})
    record.begin("pipeline", None, "f")
    run: Any = Run.__new__(Run)
    run.record, run.config, run.until, run.manifests, run._states = record, MagicMock(), None, {}, MagicMock()
    run.context = SimpleNamespace(store=FolderStore(tmp_path), flow_run_id="f", executor=LocalExecutor())
    run.artefacts = run.display = MagicMock()
    for step, expected in ((PIPELINE[1], []), (PIPELINE[2], [events.MATCHED])):
        run.manifests |= {name: manifests["filter"] for name in step.reads}
        run.make(step)
        assert sent == expected
    assert read_record(run.context.store, "runs/daily-1.json").announced == ["download/download"]
