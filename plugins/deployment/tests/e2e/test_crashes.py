"""Flow runs that are killed, lose their machine, or are cancelled while they train, with real process workers."""

import os
import signal
import subprocess
import time
from contextlib import contextmanager

import psutil
import pytest

from infra.local import services, supervisor
from plugins.deployment.tests import deployments
from plugins.deployment.tests.deployments import (
    WORKERS,
    deploying,
    messages_with,
    read_run,
    trainers,
    wait_for,
    write_variant,
)

pytestmark = [pytest.mark.long, pytest.mark.timeout(900), pytest.mark.xdist_group("crashes")]
prefect, hook = deployments.prefect, deployments.hook  # fixtures
SHORT_SILENCE = """
import sys
from datetime import timedelta
from prefect.client.orchestration import get_client
from plugins.deployment.deployer import Deployer
from plugins.deployment.automations import zombie_automation
with get_client(sync_client=True) as client:
    Deployer(client).put_automation(zombie_automation(timedelta(seconds=50)))
"""


@pytest.fixture(scope="module")
def crashing(pairmill, prefect, hook):
    """Deploy a variant of the returned config, named `long`, whose training takes longer than the test."""
    pages = {"paths": [f"{pairmill.web.archive}/*-00000.warc.gz"]}
    train = {"threads": 1, "checkpoint_every": 50}
    config = pairmill.write_config(
        "crashing", name="crashing", source=pages, train=train, register={"model_name": "crashing"}
    )
    with deploying(pairmill, prefect, hook, write_variant(config, "long", epochs=40_000)):
        yield config


@contextmanager
def resting(pairmill):
    """Stop the trainers meanwhile, which would take a core from other tests."""
    pids = trainers(pairmill)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def lose_machine(pid):
    """Kill a flow run's process and the workers, of which nothing is left that could report it."""
    for folder in (services.home() / "services" / worker for worker in WORKERS):
        record = supervisor.load(folder)
        os.killpg(record.pid, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)


def engines(flow_runs):
    """Return the pids of the processes of flow runs."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        flow_run = (process.info["environ"] or {}).get("PREFECT__FLOW_RUN_ID")
        if flow_run in flow_runs and "plugins.deployment.flow_engine" in process.info["cmdline"]:
            found.append(process.pid)
    return found


def run_and_kill(pairmill, prefect, config):
    """Kill the command, of which no worker knows, after a heartbeat; return the id of its flow run."""

    def heartbeats():
        query = {"filter": {"event": {"name": ["prefect.flow-run.heartbeat"]}}}
        found = prefect.post("events/filter", query)["events"]
        return [e for e in found if f"{config.stem}-" in str(e["resource"])]

    pairmill.run_and_kill("run", config, when=lambda: bool(heartbeats()), pause=0.5)
    return heartbeats()[0]["resource"]["prefect.resource.id"].rpartition(".")[2]


def test_crashed_flow_run_runs_again_twice_and_is_cancelled_in_order(pairmill, prefect, hook, crashing):
    """Killed under its worker, then with its machine; at the third crash it stays crashed, as a killed command does.

    A process that Prefect has given up is killed before another works on its run or on its deployment.
    """
    pairmill.run_code(SHORT_SILENCE)
    flow_run = prefect.start("pipeline/long")
    checkpoints = services.home() / "jobs"
    wait_for(lambda: list(checkpoints.glob("train-*/checkpoints/step-*")))
    run_id = prefect.get(f"flow_runs/{flow_run}")["name"]

    def attempts(number):
        found = read_run(run_id).attempts
        return found if len(found) == number and trainers(pairmill) else []

    os.kill(attempts(1)[0].pid, signal.SIGKILL)
    wait_for(lambda: messages_with(hook, f"{run_id} crashed"))
    second = wait_for(lambda: attempts(2))[-1].pid
    with resting(pairmill):
        time.sleep(5)  # the worker's second report of the killed process comes within them
        assert prefect.state(flow_run) == "Running"
        command = run_and_kill(pairmill, prefect, write_variant(crashing, "zombie", epochs=40_001))
        assert prefect.state(command) == "Running", "only the automation can find out that it has ended"
    lose_machine(second)
    wait_for(lambda: len(messages_with(hook, f"{run_id} crashed")) == 2, seconds=300)
    # The message and the retry are actions of two automations: Prefect takes them in any order.
    wait_for(lambda: prefect.state(flow_run) in ("AwaitingRetry", "Late"))
    wait_for(lambda: prefect.state(command) == "Crashed", seconds=300)
    assert "its process has ended" in prefect.get(f"flow_runs/{command}")["state"]["message"]
    wait_for(lambda: not trainers(pairmill))
    pairmill("up", "--worker")
    third = wait_for(lambda: attempts(3))[-1].pid
    os.kill(third, signal.SIGKILL)
    wait_for(lambda: len(messages_with(hook, f"{run_id} crashed")) == 3)
    time.sleep(5)
    assert [prefect.state(one) for one in (flow_run, command)] == ["Crashed"] * 2
    assert prefect.get(f"flow_runs/{flow_run}")["run_count"] == 3

    assert prefect.set_state(flow_run, "SCHEDULED", "AwaitingRetry") == "ACCEPT"
    fourth = wait_for(lambda: attempts(4))[-1].pid
    os.kill(fourth, signal.SIGSTOP)  # as on a busy machine, no heartbeats come
    assert prefect.set_state(flow_run, "CRASHED", "Crashed") == "ACCEPT", "the automation does the same"
    both = (flow_run, prefect.start("pipeline/long"))
    fifth = wait_for(lambda: prefect.state(both[1]) == "Running" and [p for p in engines(both) if p != fourth])
    wait_for(lambda: engines(both) == fifth)
    assert prefect.set_state(both[1], "SCHEDULED", "AwaitingRetry") == "ACCEPT", "Prefect takes it of a live one"
    wait_for(lambda: prefect.get(f"flow_runs/{both[1]}")["run_count"] == 2)
    assert len(engines(both)) == 1
    assert engines(both) != fifth
    (trainer,) = wait_for(lambda: trainers(pairmill))
    time.sleep(5)  # the reports of the killed processes come within them
    assert [prefect.state(one) for one in both] == ["Crashed", "Running"]
    flow_run, run_id = both[1], prefect.get(f"flow_runs/{both[1]}")["name"]
    os.kill(trainer, signal.SIGSTOP)  # its checkpoint takes long
    try:
        assert prefect.set_state(flow_run, "CANCELLING", "Cancelling") == "ACCEPT"
        wait_for(lambda: read_run(run_id).state == "stopped")
        time.sleep(32)  # Prefect's own worker kills a cancelled flow run after 30 s
        assert prefect.state(flow_run) == "Cancelling"
    finally:
        os.kill(trainer, signal.SIGCONT)
    wait_for(lambda: prefect.state(flow_run) == "Cancelled")
    wait_for(lambda: not trainers(pairmill))
    last = read_run(run_id).attempts[-1]
    assert last.ended_at
    assert "stopped in train" in str(last.error)


def test_rerun_waits_for_the_training_on_the_pool_and_cancels_it_when_stopped(pairmill, prefect, crashing):
    config = write_variant(crashing, "adrift", epochs=40_002)
    config.write_text(config.read_text().replace("epochs =", 'launch = "work_pool"\ndevice = "cpu"\nepochs ='))
    pairmill.run_and_kill("run", config, "--until", "train", when=lambda: bool(trainers(pairmill)), pause=0.3)
    (child,) = [run for run in prefect.runs_of("train") if run["name"].startswith("adrift-")]
    log, before = pairmill.folder / "adrift.log", trainers(pairmill)
    with log.open("wb") as out:
        command = pairmill.command_line("rerun", child["name"])
        again = subprocess.Popen(command, cwd=pairmill.folder, env=pairmill.env, stdout=out, stderr=out)
    try:
        with resting(pairmill):
            wait_for(
                lambda: f"{child['id']} already trains" in log.read_text() or again.poll() is not None, seconds=120
            )
        assert again.poll() is None, log.read_text()[-6000:]
        assert prefect.state(child["id"]) == "Running"
        assert set(before) <= set(trainers(pairmill)), "the training kept running, and no other was started"
        again.terminate()
        assert again.wait(60) != 0
    finally:
        again.kill()
        again.wait()
    wait_for(lambda: prefect.state(child["id"]) == "Cancelled")
    wait_for(lambda: not trainers(pairmill))
    assert len([run for run in prefect.runs_of("train") if run["name"] == child["name"]]) == 1
    prefect.send("DELETE", f"flow_runs/{child['id']}").raise_for_status()  # test_deploy.py counts the trainings
