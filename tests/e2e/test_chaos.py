"""After kills, a full disk, and the loss of everything but the store, `pairmill rerun` makes only what is missing.

`python -m benchmarks.chaos` is the long loop over all stages; these tests use its code.
"""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dataops.stages import STAGES
from dataops.store import FolderStore
from tests.kills.loop import Chaos, newest_record

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("chaos")]
GROUPS = ["filter", "download", "curate", "train", "evaluate", "register"]


def files(store: Path, *stages: str) -> dict[str, tuple[int, int]]:
    """Return the inode and time of each object of the stages: an object that was made again has others."""
    found = (path for stage in stages for path in (store / stage).rglob("*") if path.is_file())
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def test_run_killed_in_each_group_of_stages_ends_with_the_same_bytes(chaos):
    chaos.cycle(chaos.environment.open_store("disturbed"), GROUPS)
    assert not chaos.outcome.findings, chaos.log()[-5000:]
    assert len(chaos.outcome.kills) >= len(GROUPS) - 1, "most kills came too late"
    assert chaos.outcome.exits["-9"] >= 1


def test_rerun_needs_only_the_store_when_home_and_databases_are_lost(chaos, pairmill, tmp_path):
    store = chaos.environment.folder / "peace"
    record = newest_record(FolderStore(store))
    assert record is not None
    other = replace(pairmill, env={**pairmill.env, "PAIRMILL_HOME": str(tmp_path / "home")})
    before = files(store, *STAGES[:-1])
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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_run_exits_75_on_a_full_disk_and_rerun_makes_the_rest(chaos, pairmill, small_disk):
    store, ballast = small_disk / "full", small_disk / "ballast"
    config = chaos.environment.config(store)
    limit = disk_bytes(chaos, "extract", "filter") + disk_bytes(chaos, "download") // 2
    with ballast.open("wb") as file:
        while os.statvfs(small_disk).f_bavail * 4096 > limit + 16384:  # 16 KiB for records and leases
            file.write(bytes(4096))
            file.flush()
    once = ("--set", "execution.retry_delays=[]")  # waiting frees no space
    failed = pairmill.json("run", config, "--until", "curate", *once, code=75)
    assert "No space left on device" in failed["error"]["message"]
    assert failed["error"]["type"] == "StorageError"
    before = files(store, "extract", "filter")
    parts = {path.name for path in (store / "download").rglob("*") if path.is_file() and "_work" not in path.parts}
    assert parts, "the disk was full before download"
    ballast.unlink()
    ended = pairmill.json("rerun", failed["run_id"])
    states = {stage["stage"]: stage["state"] for stage in ended["stages"]}
    reused = {"extract": "Reused", "filter": "Reused"}
    assert states == {**reused, "download": "Completed", "curate": "Completed"}, (
        "it stops after the last stage of the first attempt"
    )
    assert files(store, "extract", "filter") == before
    shown = {stage["stage"]: stage for stage in pairmill.json("show", failed["run_id"])["stages"]}
    assert {name: shown[name]["content_digest"] for name in ("download", "curate")} == {
        name: chaos.reference[name] for name in ("download", "curate")
    }


def disk_bytes(chaos: Chaos, *stages: str) -> int:
    """Return the bytes that the snapshots of stages use on a disk."""
    folder = chaos.environment.folder / "peace"
    sizes = [path.stat().st_size for stage in stages for path in (folder / stage).rglob("*") if path.is_file()]
    return sum(-(-size // 4096) * 4096 for size in sizes)
