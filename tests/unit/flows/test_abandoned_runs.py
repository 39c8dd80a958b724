import os
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.states import Running

from dataops.process import process_fingerprint
from dataops.store import FolderStore
from flows import abandoned_runs
from flows.abandoned_runs import close_killed_runs
from flows.records import RunRecord, load_run
from tasks.tracking import parent_run

FLOW_RUN = uuid4()


class Server:
    """A client of a server with one flow run and its task runs."""

    def __init__(self, flow_run: State | None, task_runs: list[State | None]):
        self.flow_run = flow_run
        self.task_runs = {uuid4(): state for state in task_runs}

    def read_flow_run(self, flow_run_id: UUID) -> SimpleNamespace:
        if flow_run_id != FLOW_RUN:
            raise ObjectNotFound(Exception("no such flow run"))
        return SimpleNamespace(id=flow_run_id, state=self.flow_run)

    def set_flow_run_state(self, _: UUID, state: State, *, force: bool) -> None:
        assert force
        self.flow_run = state

    def read_task_runs(self, flow_run_filter: Any) -> list[SimpleNamespace]:
        assert flow_run_filter.id.any_ == [FLOW_RUN]
        return [SimpleNamespace(id=task_run, state=state) for task_run, state in self.task_runs.items()]

    def set_task_run_state(self, task_run: UUID, state: State, *, force: bool) -> None:
        assert force
        self.task_runs[task_run] = state


def test_killed_run_is_closed_in_prefect_and_mlflow_and_its_record_has_crashed(tmp_path: Path, monkeypatch):
    server: Any = Server(Running(), [Running()])
    store, ended = FolderStore(tmp_path / "store"), []
    monkeypatch.setattr(abandoned_runs, "get_client", lambda **_: nullcontext(server))
    monkeypatch.setattr(parent_run, "end_killed", lambda name, run_id: ended.append((name, run_id)))
    records = []
    for name, process in (("killed", "of a process that has ended"), ("at-work", process_fingerprint(os.getpid()))):
        record = RunRecord(run_id=name, name="n", created_at="2026-01-01", config={})
        record.begin(flow_run_id=str(FLOW_RUN))
        record.attempts[0].process = process
        record.save(store)
        records.append(record)
    close_killed_runs(records, tmp_path)
    assert ended == [("n", "killed")]
    assert server.flow_run.is_crashed()
    assert [load_run(record.run_id, tmp_path)[0].state for record in records] == ["crashed", "running"]
    close_killed_runs([load_run("killed", tmp_path)[0]], tmp_path)
    assert len(ended) == 1


def test_killed_run_stays_as_it_is_while_a_server_does_not_answer(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    record = RunRecord(run_id="killed", name="n", created_at="2026-01-01", config={})
    record.begin(flow_run_id=str(FLOW_RUN))
    record.attempts[0].process = "of a process that has ended"
    record.save(FolderStore(tmp_path / "store"))
    close_killed_runs([record], tmp_path)
    assert load_run("killed", tmp_path)[0].state == "running"
