"""A name or a store that is empty or missing is refused, by the commands that look at what a store has."""

from pathlib import Path

import pytest

from dataops.store import open_store
from flows.app import run_command
from flows.records import RunRecord
from infra.local import services


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go into the folder of a project with one run in its store."""
    monkeypatch.chdir(tmp_path)
    store = open_store(str(services.home() / "store"))
    RunRecord(run_id="r-1", name="r", created_at="2026", config={}, state="completed").save(store)
    return tmp_path


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_refused(capsys: pytest.CaptureFixture[str], name: str):
    assert run_command(["trace", name]) == 2
    assert "is empty" in capsys.readouterr().err


@pytest.mark.parametrize("store", ["nostore", ""])
def test_a_store_that_is_not_there_is_refused_and_not_made(
    project: Path, capsys: pytest.CaptureFixture[str], store: str
):
    before = sorted(project.rglob("*"))
    assert run_command(["trace", "example.org", "--store", store]) == 2
    assert store in capsys.readouterr().err
    assert sorted(project.rglob("*")) == before
