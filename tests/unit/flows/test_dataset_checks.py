import pytest

from dataops.snapshot import Counts, Draft
from dataops.store import FolderStore
from flows.dataset_checks import check_run, find_last_version
from flows.records import RunRecord, StageRun
from tasks.checks.check import CheckReport, CheckResult, ChecksConfig
from tests.manifests import build_manifest

BLOCKS = CheckResult(check="min_rows", level="block", state="failed", figure=1, bound=2, text="")


def save_run(store, hour, dataset, name="daily", **more):
    """Write the record of a run that made a dataset, and the manifest of the dataset."""
    time = f"2026-01-01T{hour:02}:00:00+00:00"
    run_id = f"{name}-20260101T{hour:02}0000-00{99 - hour}"
    record = RunRecord(run_id=run_id, name=name, created_at=time, config={}, **more)
    record.set_stage(StageRun(stage="pack", key=dataset * 16, state="Completed"))
    record.save(store)
    if store.size(f"pack/{dataset * 16}/manifest.json") is None:
        counts = Counts(input=10 * hour, kept=10 * hour)
        Draft(store, "pack", dataset * 16).commit(build_manifest("pack", key=dataset * 16, counts=counts))
    return record


@pytest.fixture
def store(tmp_path):
    return FolderStore(tmp_path)


def test_last_version_is_of_the_newest_earlier_run_with_another_dataset(store):
    save_run(store, 1, "a")
    second = save_run(store, 2, "b")
    save_run(store, 3, "c", name="daily-2")
    blocked = CheckReport(dataset="d" * 16, last=None, last_run=None, results=[BLOCKS])
    save_run(store, 4, "d", checks=blocked)
    save_run(store, 5, "e")
    save_run(store, 3, "9", state="failed")  # as where pack keeps no row
    now = save_run(store, 6, "e")
    save_run(store, 7, "f")
    store.put("runs/daily-20260101T053000-0000.json", b"{}")
    found = find_last_version(now, "e" * 16, store)
    assert found is not None
    assert (found.run_id, found.manifests["pack"].key) == (second.run_id, "b" * 16)
    store.delete_tree(f"pack/{'b' * 16}")
    found = find_last_version(now, "e" * 16, store)
    assert found is not None
    assert found.manifests["pack"].key == "a" * 16


def test_run_is_checked_against_its_last_version(store):
    save_run(store, 9, "a")
    record = save_run(store, 10, "b")
    pack = build_manifest("pack", key="b" * 16, counts=Counts(input=18, kept=18))
    report = check_run(ChecksConfig(levels={"min_rows_ratio": "block"}), record, {"pack": pack}, store)
    assert report.is_blocked
    assert (report.dataset, report.last, report.last_run) == ("b" * 16, "a" * 16, "daily-20260101T090000-0090")
    assert "min_rows_ratio: the dataset has 0.20 times the 90 pairs" in report.describe_blocks()
