"""The whole pipeline with its store on a real S3 server that is restarted, and concurrent runs of the same snapshots."""

import json
import re
import subprocess
import threading
import time
from dataclasses import replace

import pytest

from dataops.stages import PAIR_STAGES
from dataops.storage.s3 import S3Store
from tests.concurrency import wait_for

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("pipeline")]
COMPARED_STAGES = (*PAIR_STAGES, "train", "evaluate")


def other_machine(pairmill, s3, name):
    """Return a command with another home and working folder, as on another machine, but with the same servers."""
    folder = pairmill.folder / name
    folder.mkdir(exist_ok=True)
    urls = {service["name"]: service["url"] for service in pairmill.json("status")}
    servers = {"PREFECT_API_URL": urls["prefect"], "MLFLOW_TRACKING_URI": urls["mlflow"]}
    servers["PREFECT_API_AUTH_STRING"] = (pairmill.folder / "home" / "prefect-login").read_text().strip()
    env = pairmill.env | s3.environment | servers | {"PAIRMILL_HOME": str(folder / "home")}
    env.pop("AWS_SESSION_TOKEN", None)  # the one of test_secrets.py would make these keys invalid
    return replace(pairmill, folder=folder, env=env)


@pytest.fixture
def store(s3_environment, monkeypatch):
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    return S3Store("mill", "whole")


def stages(result):
    return {stage["stage"]: stage for stage in result["stages"]}


def digests(result):
    return {name: stage["content_digest"] for name, stage in stages(result).items() if name in COMPARED_STAGES}


def run_at_the_same_time(machines, store, last, meanwhile=lambda: None):
    """Run the same config on all machines at the same time, with 1, 2, ... workers, and return what each run printed.

    A run that exits with 75 is rerun.
    """

    def run(machine, results):
        workers = f"execution.workers={1 + machines.index(machine)}"
        config = machine.write_config("raced", store=store.uri)
        command = machine.command_line("run", config, "--until", last, "--set", workers, "--json")
        with (machine.folder / "log").open("wb") as log:
            done = subprocess.run(
                command, cwd=machine.folder, env=machine.env, stdout=subprocess.PIPE, stderr=log, timeout=500
            )
        result = json.loads(done.stdout)
        results[machine.folder.name] = machine.json("rerun", result["run_id"]) if done.returncode == 75 else result

    results = {}
    threads = [threading.Thread(target=run, args=(machine, results)) for machine in machines]
    for thread in threads:
        thread.start()
    meanwhile()
    for thread in threads:
        thread.join()
    logs = {machine.folder.name: (machine.folder / "log").read_text() for machine in machines}
    assert len(results) == len(machines), logs
    assert not any("Traceback" in log for log in logs.values()), logs
    return [results[machine.folder.name] for machine in machines]


def assert_made_once(store, first, second):
    for name, stage in stages(first).items():
        other = stages(second)[name]
        assert stage["key"] == other["key"]
        assert sorted([stage["state"], other["state"]]) == ["Completed", "Reused"], name
        assert sum(found.endswith("/manifest.json") for found in store.names(name)) == 1
    assert not [name for name in store.names("") if "/_work/" in name or name.startswith("_probe")]


def test_two_machines_make_one_model_with_equal_digests_through_a_restart_of_s3(
    pairmill, s3_server, store, undisturbed
):
    machines = [other_machine(pairmill, s3_server, name) for name in ("here", "there")]

    def restart():
        wait_for(lambda: any("/_work/shard-" in name for name in store.names("download")), 400, 0.2)
        s3_server.stop(at_once=True)
        time.sleep(4)
        s3_server.start()

    first, second = run_at_the_same_time(machines, store, "register", restart)
    assert_made_once(store, first, second)
    assert re.fullmatch(r"models:/small/\d+", first["model_version"])
    assert first["model_version"] == second["model_version"]
    assert digests(machines[0].json("show", first["run_id"])) == digests(undisturbed)
    logs = [(each.folder / "log").read_text() for each in machines]
    assert any("waiting up to 120 s for s3://mill/whole at 127.0.0.1:" in log for log in logs)
    assert any(re.search(r"waiting for run small-\S+, process \d+ on .*, which makes it", log) for log in logs)
    trained = [each for each in machines if list((each.folder / "home" / "cache").glob("*/mill/whole/pack/*/*.tar"))]
    assert len(trained) == 1, "the training shards were fetched by more than the one that trains"
    assert not any((each.folder / ".pairmill").exists() for each in machines), "something lies in the working folder"
