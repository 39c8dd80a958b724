"""After kills, and the loss of everything but the store, `pairmill rerun` makes only what is missing.

`python -m benchmarks.chaos` is the long loop over all stages; these tests use its code.
"""

from dataclasses import replace

import pytest

from dataops.stages import STAGES
from dataops.store import FolderStore
from tests.kills.loop import newest_record
from tests.servers.databases import put_databases

pytestmark = [pytest.mark.long, pytest.mark.timeout(600), pytest.mark.xdist_group("chaos")]
GROUPS = ["download", "curate", "train", "register"]
"""Stages in which the run is killed; each kill costs the CPU time of starting the command and its workers again."""


def files(store, *stages):
    """Return the inode and time of each object of the stages: an object that was made again has others."""
    found = (path for stage in stages for path in (store / stage).rglob("*") if path.is_file())
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def test_run_that_is_killed_in_several_stages_ends_with_the_same_bytes(chaos):
    chaos.cycle(chaos.environment.open_store("disturbed"), GROUPS)
    assert not chaos.outcome.findings, chaos.log()[-5000:]
    assert len(chaos.outcome.kills) >= len(GROUPS) - 1, "most kills came too late"
    assert chaos.outcome.exits["-9"] >= 1


def test_rerun_needs_only_the_store_when_home_and_databases_are_lost(chaos, pairmill, tmp_path):
    store = chaos.environment.folder / "peace"
    record = newest_record(FolderStore(store))
    assert record
    other = replace(pairmill, env={**pairmill.env, "PAIRMILL_HOME": str(tmp_path / "home")})
    before = files(store, *STAGES[:-1])
    put_databases(tmp_path / "home")
    try:
        assert other.json("runs") == []
        assert [run["run_id"] for run in other.json("runs", "--store", store)] == [record.run_id]
        assert other.json("show", record.run_id, "--store", store)["model_version"] == record.model_version
        again = other.json("rerun", record.run_id, "--store", store)
    finally:
        other("down")
    assert [stage["state"] for stage in again["stages"]] == ["Reused"] * 7 + ["Completed"]
    assert again["model_version"] == "models:/chaos/1"  # the first of the new MLflow
    assert files(store, *STAGES[:-1]) == before
