"""The whole path with its store on a real S3 server, which is restarted, and runs that race for the same snapshots."""

import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dataops.s3_store import S3Store
from dataops.store import FolderStore, Store
from tests.e2e.conftest import Mill
from tests.seaweed import SeaweedFS

pytestmark = pytest.mark.timeout(600)
DATA = ("extract", "filter", "download", "curate", "pack")
MADE = (*DATA, "train", "evaluate")


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    server = SeaweedFS(tmp_path_factory.mktemp("weed"))
    try:
        server.start()
        server.create_bucket("mill")
        yield server
    finally:
        server.stop()


def machine(mill: Mill, s3: SeaweedFS, name: str) -> Mill:
    """A machine of its own: another home and another working folder; the same servers."""
    folder = mill.folder / name
    folder.mkdir(exist_ok=True)
    urls = {service["name"]: service["url"] for service in mill.json("status")}
    servers = {"PREFECT_API_URL": urls["prefect"], "MLFLOW_TRACKING_URI": urls["mlflow"]}
    return replace(
        mill, folder=folder, env=mill.env | s3.environment | servers | {"PAIRMILL_HOME": str(folder / "home")}
    )


@pytest.fixture
def store(s3: SeaweedFS, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3Store:
    for name, value in {**s3.environment, "PAIRMILL_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    return S3Store("mill", "whole")


def stages(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {stage["stage"]: stage for stage in result["stages"]}


def digests(result: dict[str, Any]) -> dict[str, str]:
    return {name: stage["content_digest"] for name, stage in stages(result).items() if name in MADE}


def test_a_run_on_s3_survives_the_servers_restart_and_gives_the_folders_digests(mill, s3, store, undisturbed):
    here = machine(mill, s3, "here")
    config = here.config("whole", store=store.uri)
    result: dict[str, Any] = {}
    log = here.folder / "log"
    with log.open("wb") as errors:
        command = here.command("run", config, "--json")
        process = subprocess.Popen(command, cwd=here.folder, env=here.env, stdout=subprocess.PIPE, stderr=errors)
        try:
            deadline = time.monotonic() + 120
            while not any("/_work/shard-" in name for name in store.names("download")):
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < deadline, "no shard was ever downloaded"
                time.sleep(0.05)
            s3.stop(at_once=True)
            time.sleep(4)
            s3.start()
            stdout, _ = process.communicate(timeout=300)
        finally:
            process.kill()
    assert process.returncode in (0, 75), log.read_text()[-3000:]
    result = json.loads(stdout)
    if process.returncode == 75:
        result = here.json("rerun", result["run_id"])
    text = log.read_text()
    assert "Traceback" not in text
    assert text.count("waiting up to 120 s for s3://mill/whole at 127.0.0.1:") <= 4, "one line a process"
    assert re.fullmatch(r"models:/small/\d+", result["model_version"])
    assert digests(here.json("show", result["run_id"])) == digests(undisturbed)
    assert not [name for name in store.names("") if "/_work/" in name or name.startswith("_probe")]


def test_another_machine_reuses_every_snapshot(mill, s3, store):
    there = machine(mill, s3, "there")
    result = there.json("run", there.config("whole", store=store.uri))
    assert {stage["state"] for stage in result["stages"]} == {"Reused"}
    assert len(result["stages"]) == 8
    assert not list((there.folder / ".pairmill").glob("*")), "something local lies in the working folder"


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_two_runs_that_race_make_each_snapshot_once(mill, s3, store, undisturbed, tmp_path, kind):
    last = "train" if kind == "s3" else "pack"
    raced: Store = FolderStore(tmp_path / "raced") if kind == "folder" else S3Store("mill", "raced")
    racers = [machine(mill, s3, f"racer-{kind}-{number}") for number in (1, 2)]
    results: list[dict[str, Any]] = []

    def run(racer: Mill) -> None:
        results.append(racer.json("run", racer.config("raced", store=raced.uri), "--until", last))

    threads = [threading.Thread(target=run, args=(racer,)) for racer in racers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2, "a run failed"
    first, second = (stages(result) for result in results)
    for name in first:
        assert first[name]["key"] == second[name]["key"]
        assert sorted([first[name]["state"], second[name]["state"]]) == ["Completed", "Reused"], name
        assert len({n.split("/")[1] for n in raced.names(name) if n.endswith("/manifest.json")}) == 1
    assert not [name for name in raced.names("") if "/_work/" in name]
    shown = digests(racers[0].json("show", results[0]["run_id"], "--store", raced.uri))
    assert shown == {name: digest for name, digest in digests(undisturbed).items() if name in first}
