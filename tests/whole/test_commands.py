"""What commands of plugins have in common with those of the core."""

from pathlib import Path

import pytest

from dataops.store import open_store
from flows.app import run_command
from flows.records import RunRecord
from infra.local import services

COMMANDS = [
    *(["browse"], ["summary"], ["verify", "--key", "key"], ["publish", "--to", "out"], ["bom", "--out", "out"]),
    ["sign", "--key", "key"],
]


@pytest.fixture
def project() -> Path:
    """Return the folder of a project with one run in its store."""
    store = open_store(str(services.home() / "store"))
    RunRecord(run_id="r-1", name="r", created_at="2026", config={}, state="completed").save(store)
    return Path.cwd()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_not_the_newest_run_or_the_working_folder(
    project: Path, capsys: pytest.CaptureFixture[str], command: list[str], name: str
):
    assert run_command([*command, name]) == 2
    assert "is empty" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["browse"], ["try", "filter"], ["publish", "r-1", "--to", "out"]], ids=" ".join)
@pytest.mark.parametrize("store", ["nostore", "", "list.txt"])
def test_a_store_that_is_not_there_is_refused_and_not_made(
    project: Path, capsys: pytest.CaptureFixture[str], command: list[str], store: str
):
    (project / "list.txt").write_text("http://example.org/a.jpg\n")
    before = sorted(project.rglob("*"))
    assert run_command([*command, "--store", store]) == 2
    printed = capsys.readouterr()
    assert "r-1" not in printed.out
    assert store in printed.err
    assert sorted(project.rglob("*")) == before


def test_try_creates_nothing_in_an_empty_folder() -> None:
    assert run_command(["try", "filter"]) == 2
    assert [*Path.cwd().iterdir()] == []
