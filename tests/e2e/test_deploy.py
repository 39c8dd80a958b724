"""What `pairmill deploy` makes, at work: a real Prefect server with its automations, and two real process workers."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from dataops.home import CHECKOUT
from infra.local import processes, services, supervisor
from tests.e2e.conftest import Mill

pytestmark = pytest.mark.timeout(600)
BLOCK = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock
CustomWebhookNotificationBlock(
    name="hook", url=sys.argv[1], json_data={"subject": "{{subject}}", "body": "{{body}}"}
).save("hook", overwrite=True)
"""
IMPATIENT = """
from datetime import timedelta
from flows.deployment.deployer import Deployer
from flows.deployment.automations import zombie
with Deployer() as deployer:
    deployer.stand(zombie(timedelta(seconds=10)))
"""
WORKERS = ("worker-pairmill", "worker-pairmill-gpu")
AUTOMATIONS = {
    "pairmill: a dead run has crashed",
    "pairmill: train on a dataset that landed",
    "pairmill: evaluate a candidate that was trained",
    "pairmill: tell of a failed run",
    "pairmill: tell of a new champion",
}
CRON = ("--cron", "0 3 * * *", "--timezone", "Europe/Berlin", "--until", "pack")


def await_(what: Callable[[], Any], seconds: float = 400) -> Any:
    """The first true answer."""
    deadline = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.2)
    return answer


class Hook(ThreadingHTTPServer):
    """A chat service on loopback: keeps what it is told."""

    daemon_threads = True

    def __init__(self) -> None:
        self.heard: list[dict[str, str]] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.heard.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)

    def about(self, text: str) -> list[dict[str, str]]:
        return [m for m in self.heard if text in m["subject"] + m["body"]]


class Prefect:
    """The server, through its REST interface as the UI uses it."""

    def __init__(self, api: str, env: dict[str, str]):
        self.api, self.env = api, env

    def send(self, method: str, path: str, value: Any = None) -> httpx.Response:
        """One request; as Prefect's own client, it tries again where SQLite was locked (503)."""
        for _ in range(10):
            answer = httpx.request(method, f"{self.api}/{path}", json=value, timeout=30)
            if answer.status_code != 503:
                break
            time.sleep(0.5)
        return answer

    def get(self, path: str) -> Any:
        answer = self.send("GET", path)
        return answer.json() if answer.status_code == 200 else None

    def post(self, path: str, value: Any) -> Any:
        answer = self.send("POST", path, value).raise_for_status()
        return answer.json() if answer.content else None

    def client(self, script: str, *arguments: str) -> None:
        subprocess.run([sys.executable, "-c", script, *arguments], env=self.env, check=True, timeout=60)

    def start(self, deployment: str, **parameters: Any) -> str:
        """Quick run; the flow run's id."""
        identity = self.get(f"deployments/name/{deployment}")["id"]
        return self.post(f"deployments/{identity}/create_flow_run", {"parameters": parameters})["id"]

    def set_state(self, flow_run_id: str, kind: str, name: str) -> None:
        """What the buttons Retry and Cancel of a flow run's page do."""
        answer = self.post(f"flow_runs/{flow_run_id}/set_state", {"state": {"type": kind, "name": name}})
        assert answer["status"] == "ACCEPT", answer

    def cancel(self, flow_run_id: str) -> bool:
        """The button Cancel; False where the flow run has ended."""
        state = {"type": "CANCELLING", "name": "Cancelling"}
        return self.post(f"flow_runs/{flow_run_id}/set_state", {"state": state})["status"] == "ACCEPT"

    def state(self, flow_run_id: str) -> str:
        return self.get(f"flow_runs/{flow_run_id}")["state"]["name"]

    def runs_of(self, flow: str) -> list[dict[str, Any]]:
        return self.post("flow_runs/filter", {"flows": {"name": {"any_": [flow]}}})

    def tasks_of(self, flow_run_id: str) -> dict[str, list[str]]:
        """States of the task runs of each stage, oldest first; they may be written down after the flow has ended."""
        query = {"flow_runs": {"id": {"any_": [flow_run_id]}}, "sort": "EXPECTED_START_TIME_ASC"}
        found: dict[str, list[str]] = {}
        for task in self.post("task_runs/filter", query):
            state = (task["state"] or {"name": "not written down yet"})["name"]
            found.setdefault(task["name"].split()[0].split("/")[0], []).append(state)
        return found


@pytest.fixture(scope="module")
def prefect(mill: Mill) -> Prefect:
    api = next(s.url for s in services.status() if s.name == "prefect")
    return Prefect(api, mill.env | services.client_environment())


@pytest.fixture(scope="module")
def hook() -> Iterator[Hook]:
    with Hook() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def nightly(mill: Mill) -> Path:
    path = mill.config("nightly")
    path.write_text(path.read_text().replace('name = "small"', 'name = "nightly"'))
    return path


@pytest.fixture(scope="module")
def deployed(mill: Mill, prefect: Prefect, hook: Hook, nightly: Path) -> Iterator[dict[str, Any]]:
    """The nightly config stands, and workers run it; both are gone afterwards."""
    prefect.client(BLOCK, f"http://127.0.0.1:{hook.server_address[1]}")
    answer = mill.json("deploy", nightly, *CRON, "--notify", "custom-webhook/hook")
    mill.env["PREFECT_WORKER_QUERY_SECONDS"] = "1"
    mill("up", "--worker")
    try:
        yield answer
    finally:
        del mill.env["PREFECT_WORKER_QUERY_SECONDS"]
        mill("deploy", nightly, "--remove")
        for folder in (services.home() / "services" / worker for worker in WORKERS):
            if record := supervisor.load(folder):
                supervisor.stop(folder, record)


def variant(mill: Mill, nightly: Path, name: str, epochs: int) -> Path:
    """Another config on the same store: its dataset is there, its training is not."""
    path = mill.folder / f"{name}.toml"
    path.write_text(nightly.read_text().replace('"nightly"', f'"{name}"').replace("epochs = 6", f"epochs = {epochs}"))
    return path


def trainers(mill: Mill) -> list[int]:
    """The living processes of training jobs of this mill."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and processes.process_fingerprint(int(entry.name)):
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"training.train" in words and os.fsencode(mill.folder) in words:
                found.append(int(entry.name))
    return found


def test_what_is_wrong_is_refused_before_anything_is_made(mill, prefect, nightly):
    error = mill(
        "deploy", nightly, "--cron", "0 25 * * *", "--timezone", "Europe/Nowhere", "--gpus", "0", code=2
    ).stderr
    assert "0 25 * * *" in error
    assert "Europe/Nowhere" in error
    assert "--gpus 0" in error
    assert "slack-webhook/ops" in mill("deploy", nightly, "--notify", "slack-webhook/ops", code=2).stderr
    bad = mill.folder / "bad.toml"
    bad.write_text(nightly.read_text() + "\n[colour]\n")
    assert "colour" in mill("deploy", bad, "--cron", "0 3 * * *", code=2).stderr
    assert prefect.post("deployments/filter", {}) == []
    assert prefect.post("work_pools/filter", {}) == []
    assert prefect.post("automations/filter", {}) == []


def test_deploying_again_changes_nothing_but_what_was_asked(mill, prefect, nightly, deployed):
    schedule = prefect.get("deployments/name/curate/nightly")["schedules"]
    assert [(s["active"], s["schedule"]["cron"], s["schedule"]["timezone"]) for s in schedule] == [
        (True, "0 3 * * *", "Europe/Berlin")
    ]
    assert prefect.get("deployments/name/pipeline/nightly")["schedules"] == []
    assert {a["name"] for a in prefect.post("automations/filter", {})} == AUTOMATIONS
    paused = next(a["id"] for a in prefect.post("automations/filter", {}) if "dead" in a["name"])
    prefect.send("PATCH", f"automations/{paused}", {"enabled": False}).raise_for_status()

    again = mill.json("deploy", nightly, "--cron", "30 4 * * *", "--overlap", "queue", "--gpus", "2")
    assert [row["url"] for row in again["standing"]] == [row["url"] for row in deployed["standing"]][:-2]
    assert [s["schedule"]["cron"] for s in prefect.get("deployments/name/pipeline/nightly")["schedules"]] == [
        "30 4 * * *"
    ]
    curate = prefect.get("deployments/name/curate/nightly")
    assert (curate["schedules"], curate["concurrency_options"]["collision_strategy"]) == ([], "ENQUEUE")
    assert prefect.get("work_pools/pairmill-gpu")["concurrency_limit"] == 2
    automations = {a["name"]: a["enabled"] for a in prefect.post("automations/filter", {})}
    assert automations == {name: "dead" not in name for name in AUTOMATIONS}, "doubled, or a paused one woke up"

    prefect.send("PATCH", f"automations/{paused}", {"enabled": True}).raise_for_status()
    mill("deploy", nightly, *CRON)
    assert prefect.get("deployments/name/curate/nightly")["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"


def test_prefect_deploy_makes_the_same_of_the_project_file(prefect, deployed):
    names = ("pipeline/nightly", "curate/nightly", "train/gpu", "evaluate/evaluate")
    ours = {name.replace("nightly", "demo"): prefect.get(f"deployments/name/{name}") for name in names}
    command = [
        sys.executable,
        "-m",
        "prefect",
        "--no-prompt",
        "deploy",
        "--all",
        "--prefect-file",
        "infra/prefect.yaml",
    ]
    done = subprocess.run(
        command, cwd=CHECKOUT, env=prefect.env | {"PWD": str(CHECKOUT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    same = (
        "entrypoint",
        "parameter_openapi_schema",
        "enforce_parameter_schema",
        "job_variables",
        "work_pool_name",
    )  # not the version: Prefect's command calls it after the commit, where the checkout has an origin
    try:
        for name, expected in ours.items():
            theirs = prefect.get(f"deployments/name/{name}")
            assert {key: theirs[key] for key in same} == {key: expected[key] for key in same}
            assert theirs["concurrency_options"] == expected["concurrency_options"]
            assert [t.replace("demo", "nightly") for t in theirs["tags"]] == expected["tags"]
            assert expected["description"].startswith(theirs["description"])
            assert [list(step) for step in theirs["pull_steps"]] == [list(step) for step in expected["pull_steps"]]
        assert {a["name"] for a in prefect.post("automations/filter", {})} == AUTOMATIONS
    finally:
        for name in ("pipeline/demo", "curate/demo"):
            prefect.send("DELETE", f"deployments/{prefect.get(f'deployments/name/{name}')['id']}").raise_for_status()


def test_a_dataset_that_lands_is_trained_on_evaluated_and_registered_in_one_run(mill, prefect, hook, nightly, deployed):
    mill("deploy", nightly, *CRON)  # the working folder is that of the last deploy
    first = prefect.start("curate/nightly")
    (evaluation,) = await_(lambda: [r for r in prefect.runs_of("evaluate") if r["state"]["name"] == "Completed"])
    (training,) = prefect.runs_of("train")
    run_id = prefect.get(f"flow_runs/{first}")["name"]
    assert {evaluation["name"], training["name"]} == {run_id}
    reused = {stage: ["Reused"] for stage in ("extract", "filter", "download", "curate", "pack")}
    await_(lambda: prefect.tasks_of(training["id"]) == {**reused, "train": ["Completed"]})
    shown = mill.json("show", run_id)
    assert shown["state"] == "completed"
    assert [(a["flow"], a["until"], a["flow_run_id"]) for a in shown["attempts"]] == [
        ("curate", "pack", first),
        ("train", "train", training["id"]),
        ("evaluate", "register", evaluation["id"]),
    ]
    assert {s["state"] for s in shown["stages"]} == {"Completed"}
    assert shown["model_version"].startswith("models:/nightly/")
    assert [r["run_id"] for r in mill.json("runs") if r["name"] == "nightly"] == [run_id]
    assert set(training["tags"]) == {"gpu", "config:nightly"}

    (message,) = await_(lambda: hook.about("New champion"))
    assert shown["model_version"] in message["body"]
    assert f"pairmill show {run_id}" in message["body"]
    assert "twemoji-seen" in message["body"]


def test_a_doubled_event_trains_nothing_twice_on_a_machine_that_sees_only_the_store(mill, prefect, deployed):
    (run,) = [r for r in mill.json("runs") if r["name"] == "nightly"]
    shown = mill.json("show", run["run_id"])
    weights = Path(next(s["path"] for s in shown["stages"] if s["stage"] == "train")) / "model.safetensors"
    before = (weights.stat().st_ino, weights.stat().st_mtime_ns)
    (landed,) = prefect.post("events/filter", {"filter": {"event": {"name": ["pairmill.dataset.landed"]}}})["events"]
    copy = {key: landed[key] for key in ("event", "resource", "related", "payload", "occurred")}
    (services.home() / "runs" / run["run_id"]).unlink()  # no note of where the run lies, and no source files
    aside = mill.web.archive.rename(mill.web.archive.with_name("archive-aside"))
    try:
        prefect.post("events", [copy | {"id": "0190a0a0-0000-7000-8000-000000000001"}])
        ends = await_(lambda: (r := prefect.runs_of("train"))[1:] and all(x["end_time"] for x in r) and r)
    finally:
        aside.rename(mill.web.archive)
    assert {(r["name"], r["state"]["name"]) for r in ends} == {(run["run_id"], "Completed")}

    def trained() -> list[str]:
        return sorted(state for end in ends for state in prefect.tasks_of(end["id"]).get("train", []))

    await_(lambda: trained() == ["Completed", "Reused"])
    assert (weights.stat().st_ino, weights.stat().st_mtime_ns) == before
    assert len(prefect.runs_of("evaluate")) == 1, "a reused candidate is no news"


def test_a_schedule_that_fires_during_a_run_is_skipped(prefect, deployed):
    both = [prefect.start("curate/nightly") for _ in range(2)]
    ends = await_(lambda: (s := sorted(map(prefect.state, both))) == ["Cancelled", "Completed"] and s)
    assert ends
    (done,) = [one for one in both if prefect.state(one) == "Completed"]
    await_(lambda: {s for states in prefect.tasks_of(done).values() for s in states} == {"Reused"})
    assert len(prefect.runs_of("train")) == 2, "nothing new landed, so nothing is trained"


def test_a_failed_run_is_told_of_and_retried_from_its_page(mill, prefect, hook, nightly, deployed):
    mill("deploy", variant(mill, nightly, "retried", epochs=2))
    jobs = services.home() / "jobs"
    for left in jobs.glob("*"):
        assert left.is_dir()
    jobs.rename(jobs.with_name("jobs-aside"))
    jobs.write_text("a file where the jobs' folder should be")
    flow_run = prefect.start("pipeline/retried", until="train")
    try:
        await_(lambda: prefect.state(flow_run) == "Failed")
    finally:
        jobs.unlink()
        jobs.with_name("jobs-aside").rename(jobs)
    run_id = prefect.get(f"flow_runs/{flow_run}")["name"]
    state = prefect.get(f"flow_runs/{flow_run}")["state"]["message"]
    assert state.startswith("train failed: ")
    (message,) = await_(lambda: hook.about(run_id))
    assert message["subject"] == f"{run_id} failed"
    for text in ("pipeline run", "train failed: ", "Error. ", flow_run, f"pairmill rerun {run_id}"):
        assert text in message["body"]

    prefect.set_state(flow_run, "SCHEDULED", "AwaitingRetry")
    await_(lambda: prefect.state(flow_run) == "Completed")
    shown = mill.json("show", run_id)
    assert prefect.get(f"flow_runs/{flow_run}")["name"] == run_id
    assert [(a["flow_run_id"], bool(a["error"])) for a in shown["attempts"]] == [(flow_run, True), (flow_run, False)]
    assert {s["stage"]: s["state"] for s in shown["stages"]} == {
        **dict.fromkeys(("extract", "filter", "download", "curate", "pack"), "Reused"),
        "train": "Completed",
    }
    assert [r["run_id"] for r in mill.json("runs") if r["name"] == "retried"] == [run_id]


def test_a_killed_flow_has_crashed_at_once_and_its_retry_can_be_cancelled(mill, prefect, hook, nightly, deployed):
    mill("deploy", variant(mill, nightly, "long", epochs=4000))
    flow_run = prefect.start("pipeline/long")
    checkpoints = services.home() / "jobs"
    await_(lambda: list(checkpoints.glob("train-*/checkpoints/step-*")))
    run_id = prefect.get(f"flow_runs/{flow_run}")["name"]
    os.kill(mill.json("show", run_id)["attempts"][0]["pid"], signal.SIGKILL)
    await_(lambda: prefect.state(flow_run) == "Crashed", seconds=15)
    await_(lambda: not trainers(mill), seconds=45)
    await_(lambda: hook.about(f"{run_id} crashed"))

    # On a busy machine the worker's own report of the killed process may come after the retry, and end that: who looks at
    # the page then retries again.
    for _ in range(3):
        prefect.set_state(flow_run, "SCHEDULED", "AwaitingRetry")
        await_(lambda: trainers(mill) or prefect.state(flow_run) == "Crashed")
        if prefect.state(flow_run) == "Running" and prefect.cancel(flow_run):
            break
        await_(lambda: not trainers(mill), seconds=45)
    assert len(mill.json("show", run_id)["attempts"]) >= 2
    await_(lambda: prefect.state(flow_run) == "Cancelled", seconds=60)
    await_(lambda: not trainers(mill), seconds=30)
    await_(
        lambda: mill.json("show", run_id)["state"] == "crashed", seconds=60
    )  # the record is closed after its trainer
    shown = mill.json("show", run_id)
    assert shown["stages"][-1]["stage"] == "train"
    assert "stopped in train" in shown["attempts"][-1]["error"]


def pooled(mill: Mill, nightly: Path, name: str, epochs: int) -> Path:
    """A variant whose training goes to the work pool."""
    path = variant(mill, nightly, name, epochs)
    path.write_text(path.read_text().replace(f"epochs = {epochs}", f'epochs = {epochs}\nlaunch = "work_pool"'))
    return path


def children(mill: Mill, prefect: Prefect, run_id: str) -> list[dict[str, Any]]:
    """The trainings on the pool of a run."""
    return [run for run in prefect.runs_of("train") if run["name"] == run_id]


def test_a_run_by_command_trains_on_the_work_pool(mill, prefect, nightly, deployed):
    answer = mill.json("run", pooled(mill, nightly, "pooled", epochs=1), "--until", "train")
    states = {stage["stage"]: stage["state"] for stage in answer["stages"]}
    assert states["train"] == "Reused", "made by the flow run on the pool"
    (child,) = children(mill, prefect, answer["run_id"])
    assert child["state"]["name"] == "Completed"
    key = next(stage["key"] for stage in answer["stages"] if stage["stage"] == "train")
    assert f"train:{key}" in child["tags"]
    assert mill.json("show", answer["run_id"])["state"] == "completed"


def test_a_killed_command_finds_its_training_on_the_pool_again_and_a_stopped_one_ends_it(
    mill, prefect, nightly, deployed
):
    config = pooled(mill, nightly, "adrift", epochs=4002)
    mill.killed("run", config, "--until", "train", when=lambda: bool(trainers(mill)))
    (child,) = [run for run in prefect.runs_of("train") if run["name"].startswith("adrift-")]
    log, before = mill.folder / "adrift.log", trainers(mill)
    with log.open("wb") as out:
        command = mill.command("rerun", child["name"])
        again = subprocess.Popen(command, cwd=mill.folder, env=mill.env, stdout=out, stderr=out)
    try:
        await_(lambda: f"{child['id']} makes it" in log.read_text() or again.poll() is not None, seconds=120)
        assert again.poll() is None, log.read_text()[-6000:]
        assert prefect.state(child["id"]) == "Running"
        assert set(before) <= set(trainers(mill)), "the training went on, and was not started anew"
        again.terminate()
        assert again.wait(60) != 0
    finally:
        again.kill()
        again.wait()
    await_(lambda: prefect.state(child["id"]) == "Cancelled", seconds=60)
    await_(lambda: not trainers(mill), seconds=45)
    assert len(children(mill, prefect, child["name"])) == 1


def test_a_killed_command_is_marked_crashed_by_the_zombie_automation(mill, prefect, nightly, deployed):
    prefect.client(IMPATIENT)
    config = variant(mill, nightly, "zombie", epochs=4001)

    def heartbeats() -> list[Any]:
        query = {"filter": {"event": {"name": ["prefect.flow-run.heartbeat"]}}}
        return [e for e in prefect.post("events/filter", query)["events"] if "zombie-" in str(e["resource"])]

    mill.killed("run", config, when=lambda: bool(heartbeats()))
    flow_run = heartbeats()[0]["resource"]["prefect.resource.id"].rpartition(".")[2]
    assert prefect.state(flow_run) == "Running", "nobody but the automation knows that it is dead"
    await_(lambda: prefect.state(flow_run) == "Crashed", seconds=60)
    assert "its process is gone" in prefect.get(f"flow_runs/{flow_run}")["state"]["message"]


def test_remove_undoes_it_all(mill, prefect, nightly, deployed):
    for name in ("retried", "long"):
        assert set(mill.json("deploy", mill.folder / f"{name}.toml", "--remove")["removed"]) == {
            f"pipeline/{name}",
            f"curate/{name}",
        }
    gone = mill.json("deploy", nightly, "--remove")["removed"]
    assert {"pipeline/nightly", "train/gpu", *AUTOMATIONS} < set(gone)
    assert prefect.post("deployments/filter", {}) == []
    assert prefect.post("automations/filter", {}) == []
    assert mill.json("deploy", nightly, "--remove")["removed"] == []
