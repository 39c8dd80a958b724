import pytest

from dataops.store import FolderStore
from flows.records import Attempt, RunRecord
from plugins.deployment import events
from tasks.checks.check import CheckReport, CheckResult
from tests.manifests import build_manifest


def manifest(stage, flow_run_id):
    return build_manifest(
        stage,
        key=f"{stage:0>16}",
        counts={"input": 3, "kept": 3},
        facts={"model": "ViT-B-32", "final": {"loss": 1.0}},
        content_digest="d",
        prefect_flow_run_id=flow_run_id,
    )


@pytest.fixture
def emitted(monkeypatch):
    """Collect the events that would be sent to the server."""
    sent = []
    monkeypatch.setattr(events, "emit_event", lambda event, resource, payload: sent.append((event, resource)))
    return sent


def test_emit_events_emits_one_event_for_a_snapshot_of_any_attempt(tmp_path, emitted):
    store = FolderStore(tmp_path)
    tries = [Attempt(started_at="1", host="h", pid=1, flow="curate", until="pack", flow_run_id="first")]
    record = RunRecord(run_id="r", name="n", created_at="", config={}, attempts=tries)
    manifests = {"extract": manifest("extract", "first"), "pack": manifest("pack", "first")}
    assert events.emit_events(record, {"pack": manifest("pack", "another run")}, store, "pack") is False

    record.attempts.append(Attempt(started_at="2", host="h", pid=2, flow="curate", until="pack", flow_run_id="second"))
    assert (
        events.emit_events(record, manifests, store, "pack") is True
    )  # the first attempt was killed before it emitted the event
    assert events.emit_events(record, manifests, store, "pack") is False
    ((event, resource),) = emitted
    assert event == "pairmill.dataset.landed"
    assert resource == {
        "prefect.resource.id": f"pairmill.dataset.{'pack':0>16}",
        "prefect.resource.name": f"n dataset {'pack':0>16}",
        "pairmill.run": "r",
        "pairmill.store": store.uri,
        "pairmill.until": "pack",
        "pairmill.begun-by": "curate",
    }


def test_blocked_dataset_has_no_event(tmp_path, emitted):
    record = RunRecord(run_id="r", name="n", created_at="", config={})
    record.begin("curate", "pack", "first")
    pack = manifest("pack", "first")
    for level, expected in (("block", []), ("warn", ["pairmill.dataset.landed"])):
        failed = CheckResult(check="min_rows", level=level, state="failed", figure=3, bound=4, text="")
        record.checks = CheckReport(dataset=pack.key, last=None, last_run=None, results=[failed])
        events.emit_events(record, {"pack": pack}, FolderStore(tmp_path), "pack")
        assert [event for event, _ in emitted] == expected
