"""The whole pipeline with real servers: run once, reused, killed, rerun, and refused by the gate."""

import re
import signal
import sqlite3
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest

from dataops import plugins
from dataops.stages import PAIR_STAGES, STAGES
from docs.tools.drop_reasons_page import describe_reasons
from docs.tools.links import pages
from docs.tools.outputs import find_blocks, read_variables
from infra.local import services
from tasks.reports.drop_reasons import find_reason
from tests.servers.prefect_api import PrefectApi

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("pipeline")]


def stages(result):
    return {stage["stage"]: stage for stage in result["stages"]}


def prefect_api():
    return PrefectApi(services.status()[0].url)


def task_runs(flow_run_id):
    """Return the task runs of a flow run from the Prefect server."""
    return prefect_api().post("task_runs/filter", {"flow_runs": {"id": {"any_": [flow_run_id]}}})


def test_run_makes_every_stage_and_registers_a_version(undisturbed):
    result = undisturbed["result"]
    assert set(result) == {"run_id", "stages", "model_version"}
    assert [s["stage"] for s in result["stages"]] == [*PAIR_STAGES, "train", "evaluate", "register"]
    assert {s["state"] for s in result["stages"]} == {"Completed"}
    assert re.fullmatch(r"models:/small/\d+", result["model_version"])


def test_each_pair_is_kept_or_dropped_exactly_once(undisturbed):
    before = None
    for name in PAIR_STAGES:
        stage = stages(undisturbed)[name]
        rows = {"part": [], "dropped": []}
        reasons = {}
        for path in sorted(Path(stage["path"]).glob("*.parquet")):
            kind = path.name.split("-")[0]
            if kind in rows:
                table = pq.read_table(path)
                rows[kind] += table["uid"].to_pylist()
                for reason in table["drop_reason"].to_pylist() if kind == "dropped" else []:
                    reasons[reason] = reasons.get(reason, 0) + 1
        counts = stage["counts"]
        assert (len(rows["part"]), reasons) == (counts["kept"], counts["dropped"])
        assert counts["input"] == counts["kept"] + sum(reasons.values())
        if before is not None:
            assert sorted(rows["part"] + rows["dropped"]) == sorted(before)
        before = rows["part"]


def test_unusual_pages_and_images_end_as_dropped_rows_with_reasons(undisturbed):
    dropped = {name: stages(undisturbed)[name]["counts"]["dropped"] for name in PAIR_STAGES}
    reasons = {reason for of_stage in dropped.values() for reason in of_stage}
    assert dropped["filter"].keys() <= describe_reasons().keys()
    others = [(name, reason) for name in dropped if name != "filter" for reason in dropped[name]]
    assert [(name, reason) for name, reason in others if find_reason(name, reason) is None] == []
    assert dropped["extract"]["opt_out"] == dropped["download"]["opt_out"] == 1
    expected = {"data_url", "not_http", "no_caption", "language", "duplicate_uid", "http_404", "not_an_image"}
    assert expected | {"private_address", "exact_duplicate"} <= reasons


def test_outputs_in_the_docs_have_the_lines_of_the_commands(pairmill, undisturbed):
    variables = read_variables(undisturbed)
    blocks = [block for page in pages() for block in find_blocks(page.read_text(encoding="utf-8"))]
    groups = [plugins.targets(f"commands.{group}") for group in ("start", "run", "look", "models", "operate")]
    commands = tuple(f"pairmill {name} " for group in groups for name in group)
    shown = [block for block in blocks if f"{block.shown} ".startswith(commands) and not block.demo_only]
    assert shown
    command = replace(pairmill, env=pairmill.env | {"COLUMNS": "100"})
    for block in shown:
        output = command(*block.arguments(variables)[1:]).stdout
        lines = {" ".join(line.split()) for line in output.splitlines()}
        missing = [label for label in block.labels() if label not in lines]
        assert missing == [], f"{block.command}: run `make docs-outputs` after a demo"


def test_second_run_reuses_every_snapshot(pairmill, undisturbed):
    again = pairmill.json("run", pairmill.folder / "undisturbed.toml")
    assert {s["state"] for s in again["stages"]} == {"Reused"}
    assert again["model_version"] == undisturbed["result"]["model_version"]
    assert [s["key"] for s in again["stages"]] == [s["key"] for s in undisturbed["stages"]]
    (attempt,) = pairmill.json("show", again["run_id"])["attempts"]
    assert {t["state"]["name"] for t in task_runs(attempt["flow_run_id"])} == {"Reused"}


def test_forced_stage_is_made_again_with_the_same_bytes(pairmill, undisturbed):
    forced = pairmill.json("run", pairmill.folder / "undisturbed.toml", "--until", "pack", "--force", "curate")
    assert [s["state"] for s in forced["stages"]] == ["Reused", "Reused", "Reused", "Completed", "Reused"]
    shown = stages(pairmill.json("show", forced["run_id"]))
    assert shown["curate"]["content_digest"] == stages(undisturbed)["curate"]["content_digest"]


def test_changed_threshold_makes_its_stage_again_and_a_blocked_dataset_is_not_trained_on(pairmill, undisturbed):
    checks = 'checks={min_rows = 1000000, levels = {min_rows = "block"}}'
    result = pairmill.json(
        "run", pairmill.folder / "undisturbed.toml", "--set", "curate.min_side=60", "--set", checks, code=3
    )
    changed = stages(result)
    assert list(changed) == list(PAIR_STAGES)
    assert (result["error"]["type"], result["model_version"]) == ("DatasetBlocked", None)
    assert "min_rows: the dataset has " in result["error"]["message"]
    assert "; the minimum is 1,000,000" in result["error"]["message"]
    report = pairmill.json("show", result["run_id"])["checks"]
    assert (report["dataset"], report["last"]) == (changed["pack"]["key"], stages(undisturbed)["pack"]["key"])
    assert [changed[name]["state"] for name in PAIR_STAGES[:3]] == ["Reused"] * 3
    assert changed["curate"]["state"] == "Completed"


def test_rerun_after_a_kill_in_download_and_ctrl_c_in_train_ends_with_the_same_digests(pairmill, undisturbed):
    store = pairmill.folder / "store-killed"
    config = pairmill.write_config("killed", store=store)

    def download_records():
        return sorted(store.glob("download/*/_work/shard-*.json"))

    # What follows train is killed in test_chaos.py.
    pairmill.run_and_kill("run", config, "--until", "train", when=lambda: len(download_records()) >= 2)
    survivors = {path.parent.parent / f"{path.stem.split('-')[1]}.tar": path for path in download_records()}
    before = {tar: tar.stat().st_ino for tar in survivors if tar.exists()}
    assert before
    assert not list(store.glob("download/*/manifest.json"))
    (run_id,) = [
        r["run_id"]
        for r in pairmill.json("runs", "--store", store)
        if str(r["name"]) == "small" and r["state"] == "crashed"
    ]
    (attempt,) = pairmill.json("show", run_id)["attempts"]
    assert prefect_api().get(f"flow_runs/{attempt['flow_run_id']}")["state_type"] == "CRASHED", "`runs` closes it"

    def checkpoints():
        return set((pairmill.folder / "home" / "jobs").glob("train-*/checkpoints/step-*"))

    others = checkpoints()  # those of trainings that other tests killed in this home
    code = pairmill.run_and_kill("rerun", run_id, when=lambda: bool(checkpoints() - others), number=signal.SIGINT)
    assert code == 130
    interrupted = pairmill.json("show", run_id)
    assert (interrupted["state"], interrupted["attempts"][-1]["error"]) == ("stopped", "stopped in train by Ctrl-C")
    assert {tar: tar.stat().st_ino for tar in before} == before, "finished parts were made again"
    assert not list(store.glob("train/*/manifest.json"))

    stopped = f"flow_runs/{interrupted['attempts'][-1]['flow_run_id']}"  # as if killed before Prefect knew of its end
    prefect_api().post(f"{stopped}/set_state", {"state": {"type": "RUNNING"}, "force": True})
    result = pairmill.json("rerun", run_id)
    assert prefect_api().get(stopped)["state_type"] == "CRASHED"
    assert result["run_id"] == run_id
    states = {name: stage["state"] for name, stage in stages(result).items()}
    assert [states[name] for name in PAIR_STAGES] == ["Reused"] * 5
    ended = stages(pairmill.json("show", run_id))
    reference = stages(undisturbed)
    for name in (*PAIR_STAGES, "train"):
        assert ended[name]["content_digest"] == reference[name]["content_digest"], name
    attempts = [attempt["flow_run_id"] for attempt in pairmill.json("show", run_id)["attempts"]]
    assert {t["state_type"] for one in attempts for t in task_runs(one)} == {"COMPLETED", "CRASHED"}
    log = (Path(pairmill.folder) / "killed.log").read_text()
    assert f"{run_id}: stopped by Ctrl-C; finished work is kept\n" in log
    assert f"rerun {run_id}` continues this run\n" in log
    assert not re.findall("Traceback|Crash detected|Finished in state|\x1b", log)


def test_run_exits_5_without_a_champion_when_the_gate_refuses(pairmill, undisturbed):
    config = pairmill.folder / "undisturbed.toml"
    floor = 'register.floors={"shapes-seen/top1" = 0.99}'
    result = pairmill.json("run", config, "--set", floor, "--set", "register.model_name=refused", code=5)
    assert result["error"]["exit_code"] == 5
    assert "shapes-seen/top1" in result["error"]["message"]
    assert result["model_version"] is None
    assert stages(result)["evaluate"]["state"] == "Reused"


def test_prefect_and_mlflow_record_the_run(pairmill, undisturbed):
    prefect, mlflow = prefect_api(), services.status()[1].url
    flow_run_id = undisturbed["attempts"][0]["flow_run_id"]
    flow_run = prefect.get(f"flow_runs/{flow_run_id}")
    assert (flow_run["name"], flow_run["state_type"]) == (undisturbed["run_id"], "COMPLETED")
    if "prefect" in plugins.load("listeners"):  # of the plugin deployment
        artefacts = prefect.post("artifacts/filter", {"flow_runs": {"id": {"any_": [flow_run_id]}}})
        assert sorted(a["key"] for a in artefacts) == ["checks", "config", "funnel", "progress", "result"]
        database = services.home() / "services" / "prefect" / "prefect.db"
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            events_of_artefacts = connection.execute("SELECT payload FROM events WHERE event LIKE 'prefect.artifact%'")
            payloads = str([*events_of_artefacts])
        assert "result" in payloads
        assert "data:image" not in payloads, "a takedown cannot delete events"
    made = {t["name"].split()[0]: t for t in task_runs(flow_run_id)}
    assert made.keys() == {*STAGES}
    edges = {(one["id"], stage) for stage, t in made.items() for one in t["task_inputs"].get("wait_for", [])}
    assert edges == {(made[first]["id"], second) for first, second in pairwise(STAGES)}
    name, version = undisturbed["model_version"].removeprefix("models:/").split("/")
    url = f"{mlflow}/api/2.0/mlflow/model-versions/get"
    found = httpx.get(url, params={"name": name, "version": version}, timeout=60).json()["model_version"]
    tags = {tag["key"]: tag["value"] for tag in found["tags"]}
    assert tags["dataset_key"] == stages(undisturbed)["pack"]["key"]
    assert f"/runs/{found['run_id']}?" in undisturbed["model_links"]["run"]
    run = httpx.get(f"{mlflow}/api/2.0/mlflow/runs/get", params={"run_id": found["run_id"]}, timeout=60).json()["run"]
    assert run["inputs"]["dataset_inputs"]
    seconds = sum(stage["seconds"] for stage in undisturbed["result"]["stages"])
    assert run["info"]["end_time"] - run["info"]["start_time"] >= 1000 * seconds
