"""`pairmill runs` and `pairmill show`: which runs are listed, and how much of a large snapshot is printed."""

from dataops.snapshot import Input, Part
from dataops.store import FolderStore
from flows.app import run_command
from flows.commands.show import LISTED, show_snapshot
from flows.records import RunRecord
from tests.manifests import build_manifest


def record(run_id, state):
    return RunRecord.model_validate(
        {"run_id": run_id, "name": "a", "created_at": f"2026-01-01T00:00:0{run_id}", "config": {}, "state": state}
    )


def test_runs_names_the_home_and_the_remedy_if_there_is_no_run(tmp_path, monkeypatch, capsys):
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


def test_show_of_many_inputs_and_parts_fits_on_one_screen(tmp_path, capsys):
    inputs = [Input(stage="source", key=f"crawl/{n:05}.warc.gz", digest="0" * 64) for n in range(1500)]
    parts = [Part(name=f"part-{n:05}.parquet", rows=1, bytes=1, sha256="0" * 64) for n in range(1500)]
    show_snapshot(build_manifest("extract", inputs=inputs, parts=parts), FolderStore(tmp_path), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 2 * LISTED + 20
    assert sum("made from source/crawl/" in line for line in lines) == LISTED
    assert any("and 1,480 more inputs: `pairmill show " in line for line in lines)
    assert any("and 1,480 more parts: `pairmill show " in line for line in lines)
