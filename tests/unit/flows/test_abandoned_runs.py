from uuid import uuid4

from dataops.store import FolderStore
from flows.abandoned_runs import close_killed_runs
from flows.records import RunRecord, load_run

FLOW_RUN = uuid4()


def test_killed_run_stays_as_it_is_while_a_server_does_not_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    record = RunRecord(run_id="killed", name="n", created_at="2026-01-01", config={})
    record.begin(flow_run_id=str(FLOW_RUN))
    record.attempts[0].process = "of a process that has ended"
    record.save(FolderStore(tmp_path / "store"))
    close_killed_runs([record], tmp_path)
    assert load_run("killed", tmp_path)[0].state == "running"
