"""`pairmill deploy` with a real Prefect server, its automations, and two real process workers."""

import os
import signal
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import pytest

from dataops.errors import ConfigError
from dataops.home import CHECKOUT
from dataops.store import FolderStore
from infra.local import services
from plugins.deployment.tests import deployments
from plugins.deployment.tests.deployments import (
    deploying,
    messages_with,
    read_run,
    wait_for,
    write_variant,
)

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("deploy")]
prefect, hook = deployments.prefect, deployments.hook  # fixtures
IMPATIENT = """
from datetime import timedelta
from prefect.client.orchestration import get_client
from plugins.deployment.deployer import Deployer
from plugins.deployment.automations import absence_automation, late_automations
with get_client(sync_client=True) as client:
    block = client.read_block_document_by_name("hook", "custom-webhook").id
    deployment = client.read_deployment_by_name("curate/nightly").id
    absence = absence_automation([block], deployment, "curate/nightly", timedelta(seconds=20))
    Deployer(client).put_automation(absence)
    for automation in late_automations([block], "http://ui", (), timedelta(seconds=10)):
        Deployer(client).put_automation(automation)
"""
AUTOMATIONS = {
    "pairmill: a dead run has crashed",
    "pairmill: run a crashed flow run again",
    "pairmill: notify when curate/nightly has no run",
    "pairmill: train on a dataset that landed",
    "pairmill: evaluate a candidate that was trained",
    "pairmill: notify when a run fails",
    "pairmill: notify when a model is promoted",
    "pairmill: notify when a takedown request is due",
    "pairmill: notify when an image is known to be harmful",
    "pairmill: notify when a run is late",
    "pairmill: notify when a work pool has no worker",
}
CRON = ("--cron", "0 3 * * *", "--timezone", "Europe/Berlin", "--until", "pack", "--whole")


@pytest.fixture(scope="module")
def nightly(pairmill):
    return pairmill.write_config("nightly", name="nightly", register={"model_name": "nightly"})


@pytest.fixture(scope="module")
def deployed(pairmill, prefect, hook, nightly):
    """Deploy the nightly config and start workers; remove both at the end."""
    with deploying(pairmill, prefect, hook, nightly, *CRON) as answer:
        yield answer


def trains(run_id):
    """Return whether a flow run works on the training of a run."""
    run = read_run(run_id)
    return run.attempts[-1].flow == "train" and run.stages[-1].stage == "train"


def test_prefect_deploy_creates_the_same_from_the_project_file(pairmill, prefect, deployed):
    names = ("pipeline/nightly", "curate/nightly", "train/gpu", "evaluate/evaluate")
    ours = {name.replace("nightly", "demo"): prefect.get(f"deployments/name/{name}") for name in names}
    options = ("--no-prompt", "deploy", "--all", "--prefect-file", "infra/prefect.yaml")
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *options],
        cwd=CHECKOUT,
        env=pairmill.env | services.client_environment() | {"PWD": str(CHECKOUT)},
        capture_output=True,
        text=True,
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


def test_new_dataset_is_trained_on_evaluated_and_registered_in_one_run(pairmill, prefect, hook, nightly, deployed):
    pairmill("deploy", nightly, *CRON)  # runs start in the folder of the last deploy
    first = prefect.start("curate/nightly")
    (training,) = wait_for(lambda: [r for r in prefect.runs_of("train") if r["state"]["name"] == "Running"])
    wait_for(lambda: trains(training["name"]) and "train" in prefect.tasks_of(training["id"]))  # Prefect knows it later
    os.kill(read_run(training["name"]).attempts[-1].pid, signal.SIGKILL)
    (evaluation,) = wait_for(lambda: [r for r in prefect.runs_of("evaluate") if r["state"]["name"] == "Completed"])
    (training,) = prefect.runs_of("train")
    run_id = prefect.get(f"flow_runs/{first}")["name"]
    assert {evaluation["name"], training["name"]} == {run_id}
    wait_for(lambda: prefect.tasks_of(training["id"])["train"][-1] == "Completed")
    tasks = prefect.tasks_of(training["id"])
    assert len(tasks.pop("train")) == 2, "the killed one ran again by itself"
    assert {state for states in tasks.values() for state in states} == {"Reused"}
    shown = pairmill.json("show", run_id)
    assert shown["state"] == "completed"
    assert [(a["flow"], a["until"], a["flow_run_id"]) for a in shown["attempts"]] == [
        ("curate", "pack", first),
        *[("train", "train", training["id"])] * 2,
        ("evaluate", "register", evaluation["id"]),
    ]
    assert {s["state"] for s in shown["stages"]} == {"Completed"}
    assert shown["model_version"].startswith("models:/nightly/")
    assert [r["run_id"] for r in pairmill.json("runs") if r["name"] == "nightly"] == [run_id]
    assert set(training["tags"]) == {"gpu", "config:nightly"}

    (message,) = wait_for(lambda: messages_with(hook, "New champion"))
    assert shown["model_version"] in message["body"]
    assert f"pairmill show {run_id}" in message["body"]
    assert "shapes-seen" in message["body"]


def test_run_is_continued_from_the_form_of_its_deployment(pairmill, prefect, nightly, deployed):
    """With the parameters that Custom run has: config and grow are those of the deployment."""
    (run,) = [r for r in pairmill.json("runs") if r["name"] == "nightly"]
    before = {stage["stage"]: stage for stage in pairmill.json("show", run["run_id"])["stages"]}

    def end(**parameters):
        flow_run = prefect.start("pipeline/nightly", **parameters)
        return wait_for(lambda: (found := prefect.get(f"flow_runs/{flow_run}"))["end_time"] and found)

    again = end(run_id=run["run_id"], from_stage="download", retry=["http_4xx"], until="pack")
    assert (again["name"], again["state"]["name"]) == (run["run_id"], "Completed")
    wait_for(lambda: prefect.tasks_of(again["id"]).get("pack"))
    states = prefect.tasks_of(again["id"])
    assert (states["filter"], states["download"]) == (["Reused"], ["Completed"])
    # It announced its dataset, and a training that starts while `remake` works on the run's record would fail.
    wait_for(lambda: len(r := prefect.runs_of("train")) == 2 and all(one["end_time"] for one in r))
    remade = end(run_id=run["run_id"], remake=["curate"], until="pack")
    wait_for(lambda: prefect.tasks_of(remade["id"]).get("pack"))
    assert {stage: states[0] for stage, states in prefect.tasks_of(remade["id"]).items()} == {
        **dict.fromkeys(("extract", "filter", "download", "pack"), "Reused"),
        "curate": "Completed",
    }
    after = {stage["stage"]: stage for stage in pairmill.json("show", run["run_id"])["stages"]}
    assert after["pack"]["content_digest"] == before["pack"]["content_digest"]

    from flows.pipeline import pipeline  # here, since each test process would load Prefect

    for wrong, message in (
        ({"config": str(nightly), "from_stage": "curate"}, "set run_id"),
        ({"run_id": run["run_id"], "from_stage": "curate", "remake": ["pack"]}, "set one of them"),
    ):
        with pytest.raises(ConfigError, match=message):
            pipeline.fn(**wrong)
    identity = prefect.get("deployments/name/pipeline/nightly")["id"]
    refused = prefect.send(
        "POST", f"deployments/{identity}/create_flow_run", {"parameters": {"run_id": "x", "from_stage": "dowload"}}
    )
    assert refused.status_code == 409, "the form offers the names of the stages only"


def test_repeated_event_trains_nothing_twice_on_a_machine_with_only_the_store(pairmill, prefect, deployed):
    (run,) = [r for r in pairmill.json("runs") if r["name"] == "nightly"]
    shown = pairmill.json("show", run["run_id"])
    weights = Path(next(s["path"] for s in shown["stages"] if s["stage"] == "train")) / "model.safetensors"
    before = (weights.stat().st_ino, weights.stat().st_mtime_ns)
    landed, *_ = prefect.post("events/filter", {"filter": {"event": {"name": ["pairmill.dataset.landed"]}}})["events"]
    known = len(prefect.runs_of("train"))
    copy = {key: landed[key] for key in ("event", "resource", "related", "payload", "occurred")}
    (
        services.home() / "runs" / run["run_id"]
    ).unlink()  # this machine has no pointer to the store of the run, and no source files
    aside = pairmill.web.archive.rename(pairmill.web.archive.with_name("archive-aside"))
    try:
        prefect.post("events", [copy | {"id": "0190a0a0-0000-7000-8000-000000000001"}])
        ends = wait_for(lambda: (r := prefect.runs_of("train"))[known:] and all(x["end_time"] for x in r) and r)
    finally:
        aside.rename(pairmill.web.archive)
    assert {(r["name"], r["state"]["name"]) for r in ends} == {(run["run_id"], "Completed")}

    def trained():
        return sorted(state for end in ends for state in prefect.tasks_of(end["id"]).get("train", [])[-1:])

    wait_for(lambda: trained() == ["Completed", *["Reused"] * (len(ends) - 1)])
    assert (weights.stat().st_ino, weights.stat().st_mtime_ns) == before
    assert len(prefect.runs_of("evaluate")) == 1, "a reused candidate emits no event"


def test_scheduled_run_waits_while_another_runs_and_a_late_one_and_a_schedule_without_a_run_are_told(
    pairmill, prefect, hook, deployed
):
    trainings = len(prefect.runs_of("train"))
    pairmill.run_code(IMPATIENT)
    both = [prefect.start("curate/nightly") for _ in range(2)]
    wait_for(lambda: {*map(prefect.state, both)} == {"Completed"})
    first, second = sorted((prefect.get(f"flow_runs/{one}") for one in both), key=lambda run: run["start_time"])
    assert first["end_time"] <= second["start_time"]
    for one in both:
        wait_for(lambda one=one: {s for states in prefect.tasks_of(one).values() for s in states} == {"Reused"})
    assert len(prefect.runs_of("train")) == trainings, "there is no new dataset, so nothing is trained"
    prefect.post("work_pools/pairmill/queues", {"name": "nobody", "is_paused": True})
    identity = prefect.get("deployments/name/curate/nightly")["id"]
    late = prefect.post(f"deployments/{identity}/create_flow_run", {"work_queue_name": "nobody"})
    found = wait_for(lambda: [one for one in messages_with(hook, "is late") if late["name"] in one["body"]])
    assert f"curate run {late['name']} has not begun" in found[0]["body"]
    assert "pairmill up --worker" in found[0]["body"]
    prefect.send("DELETE", f"flow_runs/{late['id']}").raise_for_status()
    (message, *_) = wait_for(lambda: messages_with(hook, "curate/nightly has no run"))
    assert "No run of curate/nightly has begun for" in message["body"]


def list_an_image(config, store):
    """Add a list of harmful images with the first one of the store's download to a config, for the plugin moderation."""
    if find_spec("plugins.moderation") is None:
        return False
    hotline = config.with_suffix(".txt")
    hotline.write_text(pl.read_parquet(store / "download" / "*" / "part-*.parquet")["sha256"][0])
    config.write_text(f'{config.read_text()}\n[download.hash_lists]\nsha256 = {{ hotline = "{hotline}" }}\n')
    return True


def register_overdue_request(store):
    """Write a takedown request that is overdue into the store; return the log, or None without the plugin erasure."""
    if find_spec("plugins.erasure") is None:
        return None
    log = import_module("plugins.erasure.request_log")
    letter = log.make_letter("Jane Roe", "2026-01-01", "2026-01-31", "a letter")
    overdue = log.RequestLog(request="f" * 16, targets=1).begin(letter, is_named=True, deletes_raw=False)
    overdue.save(store)
    return overdue


def test_failed_run_sends_notifications_and_is_retried_from_its_page(pairmill, prefect, hook, nightly, deployed):
    """Also those of a harmful image and of a takedown request that is overdue, with the plugins moderation and erasure."""
    store = FolderStore(pairmill.folder / "store-nightly")
    config = write_variant(nightly, "retried", epochs=2)
    is_listed = list_an_image(config, store.root)
    overdue = register_overdue_request(store)
    pairmill("deploy", config)
    jobs = services.home() / "jobs"
    for left in jobs.glob("*"):
        assert left.is_dir()
    jobs.rename(jobs.with_name("jobs-aside"))
    jobs.write_text("a file where the jobs' folder should be")
    flow_run = prefect.start("pipeline/retried", until="train")
    try:
        wait_for(lambda: prefect.state(flow_run) == "Failed")
    finally:
        jobs.unlink()
        jobs.with_name("jobs-aside").rename(jobs)
        store.delete([overdue.name] if overdue else [])
    run_id = prefect.get(f"flow_runs/{flow_run}")["name"]
    state = prefect.get(f"flow_runs/{flow_run}")["state"]["message"]
    assert state.startswith("train failed: ")
    (message,) = wait_for(lambda: messages_with(hook, f"{run_id} failed"))
    for text in ("pipeline run", "train failed: ", "Error. ", flow_run, f"pairmill rerun {run_id}"):
        assert text in message["body"]
    if is_listed:
        (alert,) = wait_for(lambda: messages_with(hook, "Known harmful images"))
        matches = alert["subject"].removeprefix("Known harmful images: ").removesuffix(f" in {run_id}")
        assert alert["body"].splitlines() == [
            f"hotline: {int(matches)}",
            "They were dropped before anything was written. What to do: docs/rights/hash-lists.md",
            f"Run: pairmill show {run_id}",
        ]
    if overdue:
        (due,) = wait_for(lambda: messages_with(hook, "takedown"))
        assert due["subject"] == f"takedown {overdue.request} was due on 2026-01-31"
        assert "Jane" not in str(hook.calls)

    assert prefect.set_state(flow_run, "SCHEDULED", "AwaitingRetry") == "ACCEPT"
    wait_for(lambda: prefect.state(flow_run) == "Completed")
    shown = pairmill.json("show", run_id)
    assert prefect.get(f"flow_runs/{flow_run}")["name"] == run_id
    assert [(a["flow_run_id"], bool(a["error"])) for a in shown["attempts"]] == [(flow_run, True), (flow_run, False)]
    assert {s["stage"]: s["state"] for s in shown["stages"]} == {
        **dict.fromkeys(("extract", "filter", "download", "curate", "pack"), "Reused"),
        "train": "Completed",
    }
    assert [r["run_id"] for r in pairmill.json("runs") if r["name"] == "retried"] == [run_id]


def test_remove_deletes_all_that_deploy_created(pairmill, prefect, nightly, deployed):
    retried = pairmill.json("deploy", pairmill.folder / "retried.toml", "--remove")["removed"]
    assert {*retried} == {"pipeline/retried", "curate/retried"}
    removed = pairmill.json("deploy", nightly, "--remove")["removed"]
    assert {"pipeline/nightly", "train/gpu", *AUTOMATIONS} < set(removed)
    assert prefect.post("deployments/filter", {}) == []
    assert prefect.post("automations/filter", {}) == []
    assert pairmill.json("deploy", nightly, "--remove")["removed"] == []
