"""Deployments on a real Prefect server, the flow runs that its workers start, and the messages that people get."""

from contextlib import contextmanager
from functools import partial

import psutil
import pytest

from flows.records import load_run
from infra.local import services, supervisor
from tests import concurrency
from tests.servers.prefect_api import PrefectApi
from tests.servers.recorder import serve_recorder

BLOCK = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock
CustomWebhookNotificationBlock(
    name="hook", url=sys.argv[1], json_data={"subject": "{{subject}}", "body": "{{body}}"}
).save("hook", overwrite=True)
"""
WORKERS = ("worker-pairmill", "worker-pairmill-gpu")

wait_for = partial(concurrency.wait_for, seconds=400, pause=0.5)


class Deployments(PrefectApi):
    """The server's flow runs and deployments."""

    def start(self, deployment, **parameters):
        """Start a flow run of a deployment, as Quick run does, and return its id."""
        identity = self.get(f"deployments/name/{deployment}")["id"]
        return self.post(f"deployments/{identity}/create_flow_run", {"parameters": parameters})["id"]

    def set_state(self, flow_run_id, kind, name):
        """Set a state, as the buttons Retry and Cancel on a flow run's page do; return `ACCEPT` if it is set."""
        state = {"state": {"type": kind, "name": name}}
        return self.post(f"flow_runs/{flow_run_id}/set_state", state)["status"]

    def state(self, flow_run_id):
        return self.get(f"flow_runs/{flow_run_id}")["state"]["name"]

    def runs_of(self, flow):
        return self.post("flow_runs/filter", {"flows": {"name": {"any_": [flow]}}})

    def tasks_of(self, flow_run_id):
        """Return the states of each stage's task runs, oldest first; Prefect may write them after the flow has ended."""
        query = {"flow_runs": {"id": {"any_": [flow_run_id]}}, "sort": "EXPECTED_START_TIME_ASC"}
        found = {}
        for task in self.post("task_runs/filter", query):
            state = (task["state"] or {"name": "not written yet"})["name"]
            found.setdefault(task["name"].split()[0].split("/")[0], []).append(state)
        return found


@pytest.fixture(scope="module")
def prefect(pairmill):
    return Deployments(services.status()[0].url)


@pytest.fixture(scope="module")
def hook():
    """Run a chat service on loopback that keeps the messages it receives."""
    with serve_recorder() as recorder:
        yield recorder


def messages_with(hook, text):
    return [m for m in (call.json() for call in hook.calls) if text in m["subject"] + m["body"]]


@contextmanager
def deploying(pairmill, prefect, hook, config, *options):
    """Deploy a config with notifications, and start workers; remove both at the end."""
    pairmill.run_code(BLOCK, hook.url)
    answer = pairmill.json("deploy", config, *options, "--notify", "custom-webhook/hook")
    pairmill.env["PREFECT_WORKER_QUERY_SECONDS"] = "2"
    pairmill("up", "--worker")
    try:
        yield answer
    finally:
        del pairmill.env["PREFECT_WORKER_QUERY_SECONDS"]
        pairmill("deploy", config, "--remove")
        for folder in (services.home() / "services" / worker for worker in WORKERS):
            if record := supervisor.load(folder):
                supervisor.stop(folder, record)


def write_variant(config, name, epochs):
    """Write another config with the same store: its dataset is complete, its training is not."""
    path = config.with_name(f"{name}.toml")
    text = config.read_text().replace(f'"{config.stem}"', f'"{name}"')
    path.write_text(text.replace("epochs = 6", f"epochs = {epochs}"))
    return path


def read_run(run_id):
    """Return the record of a run as it is, in the process of the test: `pairmill show` takes a second of CPU time."""
    return load_run(run_id, services.home())[0]


def trainers(pairmill):
    """Return the pids of running training jobs of these tests."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = " ".join(process.info["cmdline"] or [])
        ours = "training.train" in words and str(pairmill.folder) in words
        if ours and supervisor.process_fingerprint(process.pid):
            found.append(process.pid)
    return found
