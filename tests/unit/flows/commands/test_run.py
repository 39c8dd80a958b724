"""`pairmill rerun`: at which stage it ends."""

from pathlib import Path
from typing import Any

import pytest

from dataops.store import FolderStore
from flows.commands import run
from flows.records import RunRecord


@pytest.fixture
def rerun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that reruns a run that was started with `--until`, and returns the last stage of the rerun."""
    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path / "home"))
    called: dict[str, Any] = {}
    monkeypatch.setattr(run, "start_servers", lambda: None)
    monkeypatch.setattr(run.services, "apply_environment", lambda: None)
    monkeypatch.setattr(run, "close_killed_attempts", lambda record: None)
    monkeypatch.setattr(run, "run_record", lambda run_id, **options: called.update(options) or 0)

    def call(started: str | None, state: Any, **options: Any) -> tuple[str | None, tuple[str, ...]]:
        record = RunRecord(run_id="r-1", name="r", created_at="2026-01-01T00:00:00+00:00", config={})
        record.begin("pipeline", started)
        record.end(state)
        store = FolderStore(tmp_path / "store")
        record.save(store)
        defaults = {"from_": None, "until": None, "retry": None}
        assert run.rerun("r-1", **(defaults | options), store=store.uri, json=False) == 0
        return called["until"], tuple(called["force"])

    return call


@pytest.mark.parametrize("state", ["completed", "failed"])
def test_rerun_ends_where_the_run_was_to_end(rerun: Any, state: str):
    assert rerun("download", state) == ("download", ())
    assert rerun(None, state) == (None, ())


def test_rerun_ends_at_the_stage_of_its_option(rerun: Any):
    assert rerun("download", "completed", until="register") == ("register", ())
    assert rerun(None, "completed", until="filter") == ("filter", ())
    assert rerun("pack", "completed", from_="curate", until="curate")[0] == "curate"
