"""`pairmill runs` and `pairmill show`: which runs are listed, and how much of a large snapshot is printed."""

from pathlib import Path

import pytest

from dataops.errors import ConfigError
from dataops.snapshot import Input, Part
from dataops.stages import STAGES
from dataops.store import FolderStore
from flows.app import run_command
from flows.commands import show
from flows.commands.show import LISTED, select_runs, show_snapshot
from flows.records import Attempt, RunRecord, StageRun, newest_run
from tests.manifests import build_manifest


def record(run_id: str, state: str) -> RunRecord:
    return RunRecord.model_validate(
        {"run_id": run_id, "name": "a", "created_at": f"2026-01-01T00:00:0{run_id}", "config": {}, "state": state}
    )


def test_select_runs_returns_the_newest_in_a_state():
    records = [record("1", "completed"), record("2", "failed"), record("3", "completed"), record("4", "failed")]
    assert select_runs(records, None, ()) == records
    assert [r.run_id for r in select_runs(records, 1, ())] == ["4"]
    assert [r.run_id for r in select_runs(records, 1, ["completed"])] == ["3"]
    assert [r.run_id for r in select_runs(records, 9, ["completed", "failed"])] == ["1", "2", "3", "4"]
    assert select_runs(records, None, ["crashed"]) == []
    with pytest.raises(ConfigError, match="--limit is 0; it must be at least 1"):
        select_runs(records, 0, ())


def test_runs_counts_the_stages_up_to_the_one_at_which_a_run_was_to_stop(capsys):
    stages = [StageRun(stage=name, key="0" * 16, state="Completed") for name in STAGES]
    shown = {
        "1": (stages[:5], ["pack"], "5 of 5, until pack"),
        "2": (stages[:3], ["pack"], "3 of 5, until pack"),
        "3": (stages, [None], "8 of 8"),
        "4": (stages, [None, "pack"], "8 of 8"),
        "5": ([], [], "0 of 8"),
    }
    records = []
    for name, (done, ends, _) in shown.items():
        records.append(record(name, "completed"))
        records[-1].stages = done
        records[-1].attempts = [
            Attempt(started_at=f"2026-01-0{n + 1}", host="h", pid=1, until=until) for n, until in enumerate(ends)
        ]
    assert show.show_runs(records, "", as_json=False) == 0
    out = capsys.readouterr().out
    for (_, _, expected), line in zip(shown.values(), out.splitlines()[2:], strict=True):
        assert line.endswith(expected)


def test_newest_run_is_the_last_that_started(tmp_path: Path):
    home, store = tmp_path / "home", FolderStore(tmp_path / "home" / "store")
    (home / "runs").mkdir(parents=True)
    with pytest.raises(
        ConfigError, match=r"there is no run in .*/home; start one with `pairmill run CONFIG`, or change to"
    ):
        newest_run(home)
    for name in ("2", "1"):
        record(name, "completed").save(store)
    assert newest_run(home, store.uri) == "2"


def test_runs_names_the_home_and_the_remedy_if_there_is_no_run(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path / "home"))
    assert run_command(["runs"]) == 0
    assert (
        capsys.readouterr().out.strip()
        == f"there is no run in {tmp_path}/home; start one with `pairmill run CONFIG`, or change to your project's folder"
    )
    record("1", "completed").save(FolderStore(tmp_path / "home" / "store"))
    assert run_command(["runs", "--state", "failed"]) == 0
    assert capsys.readouterr().out == "no run is in this state\n"
    assert run_command(["runs"]) == 0
    assert "completed" in capsys.readouterr().out


@pytest.mark.parametrize(("options", "named"), [({}, 1), ({"with_error": False}, 0)])
def test_run_names_its_error_unless_the_command_prints_it(options, named, tmp_path, capsys):
    attempt = Attempt(flow_run_id="1", flow="mine", started_at="2026-01-01", host="h", pid=1, error="no page was found")
    run = record("1", "failed").model_copy(update={"attempts": [attempt]})
    show.show_run(run, FolderStore(tmp_path), **options)
    assert capsys.readouterr().out.count("no page was found") == named


def test_show_of_many_inputs_and_parts_fits_on_one_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    inputs = [Input(stage="source", key=f"crawl/{n:05}.warc.gz", digest="0" * 64) for n in range(1500)]
    parts = [Part(name=f"part-{n:05}.parquet", rows=1, bytes=1, sha256="0" * 64) for n in range(1500)]
    show_snapshot(build_manifest("extract", inputs=inputs, parts=parts), FolderStore(tmp_path), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 2 * LISTED + 20
    assert sum("made from source/crawl/" in line for line in lines) == LISTED
    assert any("and 1,480 more inputs: `pairmill show " in line for line in lines)
    assert any("and 1,480 more parts: `pairmill show " in line for line in lines)
