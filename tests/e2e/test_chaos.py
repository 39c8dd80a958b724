"""Kills, a full disk, and the loss of everything but the store: `pairmill rerun` makes what is missing, and nothing else.

The long loop over all stages is `python -m benchmarks.chaos`; its code runs here too.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.kills.loop import Chaos, newest
from dataops.stages import STAGES
from tests.e2e.conftest import Mill

pytestmark = pytest.mark.timeout(600)
GROUPS = ["filter", "download", "curate", "train", "evaluate", "register"]


def files(store: Path, *stages: str) -> dict[str, tuple[int, int]]:
    """Each object of the stages' snapshots, by inode and time: what was made again is another file."""
    found = (path for stage in stages for path in (store / stage).rglob("*") if path.is_file())
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def test_killed_in_every_group_of_stages_it_ends_with_the_same_bytes(chaos):
    chaos.cycle(chaos.ground.folder / "disturbed", GROUPS)
    assert not chaos.outcome.findings, chaos.log()[-5000:]
    assert len(chaos.outcome.kills) >= len(GROUPS) - 1, "most of the moments came too late"
    assert chaos.outcome.exits["-9"] >= 1


def test_with_the_home_and_both_databases_lost_the_store_alone_is_enough(chaos, mill, tmp_path):
    store = chaos.ground.folder / "peace"
    record = newest(store)
    assert record is not None
    other = Mill(mill.folder, mill.web, mill.site, {**mill.env, "PAIRMILL_HOME": str(tmp_path / "home")})
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
    """A file system of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("a small file system can be mounted by root only")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_ends_the_run_with_75_and_a_rerun_makes_the_rest(chaos, mill, small_disk):
    store, ballast = small_disk / "full", small_disk / "ballast"
    config = chaos.ground.config(store)
    room = blocks(chaos, "extract", "filter") + blocks(chaos, "download") // 2
    with ballast.open("wb") as file:
        while os.statvfs(small_disk).f_bavail * 4096 > room + 16384:  # and some for records and leases
            file.write(bytes(4096))
            file.flush()
    once = ("--set", "execution.retry_delays=[]")  # no space comes while it waits
    failed = mill.json("run", config, "--until", "curate", *once, code=75)
    assert "No space left on device" in failed["error"]["message"]
    assert failed["error"]["type"] == "StorageError"
    before = files(store, "extract", "filter")
    parts = {path.name for path in (store / "download").rglob("*") if path.is_file() and "_work" not in path.parts}
    assert parts, "the disk was full before download"
    ballast.unlink()
    ended = mill.json("rerun", failed["run_id"])
    states = {stage["stage"]: stage["state"] for stage in ended["stages"]}
    reused = {"extract": "Reused", "filter": "Reused"}
    assert states == {**reused, "download": "Completed", "curate": "Completed"}, "it stops where the first try would"
    assert files(store, "extract", "filter") == before
    shown = {stage["stage"]: stage for stage in mill.json("show", failed["run_id"])["stages"]}
    assert {name: shown[name]["content_digest"] for name in ("download", "curate")} == {
        name: chaos.reference[name] for name in ("download", "curate")
    }


def blocks(chaos: Chaos, *stages: str) -> int:
    """Bytes that the snapshots of stages take on a disk."""
    folder = chaos.ground.folder / "peace"
    sizes = [path.stat().st_size for stage in stages for path in (folder / stage).rglob("*") if path.is_file()]
    return sum(-(-size // 4096) * 4096 for size in sizes)


def test_the_record_of_a_killed_run_is_whole_json(chaos):
    for path in (chaos.ground.folder / "disturbed" / "runs").glob("*"):
        assert json.loads(path.read_text())["state"] == "completed"
