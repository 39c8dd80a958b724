"""`pairmill gc` on real runs and a real registry."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from dataops.snapshot import Manifest
from dataops.stages import STAGES
from tests.kills.loop import Chaos
from tests.small_pipeline import Pairmill

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("chaos")]


def gc(pairmill: Pairmill, store: Path, *arguments: str) -> dict[str, Any]:
    """Run gc on one store and return its report."""
    result = pairmill.json("gc", "--store", store, "--keep-runs", "0", *arguments)
    return result["stores"][0]


def snapshots(store: Path) -> set[str]:
    return {str(path.parent.relative_to(store)) for path in store.glob("*/*/manifest.json")}


OWN = ("--set", "seed=7", "--set", "register.model_name=collected")
"""Settings whose snapshots no other model needs."""


@pytest.fixture(scope="module")
def store(chaos: Chaos, pairmill: Pairmill) -> Path:
    """Return a store with one run and its model, which other tests do not use."""
    store = chaos.environment.folder / "collected"
    pairmill.json("run", chaos.environment.config(store), *OWN)
    return store


def test_gc_deletes_what_no_run_and_no_model_needs_and_a_run_makes_it_again(chaos, pairmill, store):
    of_the_model = snapshots(store)
    assert {name.split("/")[0] for name in of_the_model} == set(STAGES)
    command = ("run", chaos.environment.config(store), "--set", "seed=5", "--until", "filter")
    other = pairmill.json(*command)
    keys = {f"{stage['stage']}/{stage['key']}" for stage in other["stages"]}

    kept = pairmill.json("gc", "--store", store)["stores"][0]
    assert kept["snapshots"] == []
    assert set(kept["kept"]) == {"one of the 10 newest runs of its name", "collected version 1"}

    report = gc(pairmill, store)
    assert {f"{row['stage']}/{row['key']}" for row in report["snapshots"]} == keys
    assert {row["last_run"] for row in report["snapshots"]} == {other["run_id"]}
    assert set(report["kept"]) == {"collected version 1"}
    assert snapshots(store) == of_the_model | keys, "a dry run deletes nothing"

    assert set(gc(pairmill, store, "--yes")["deleted"]) == keys
    assert snapshots(store) == of_the_model
    shown = pairmill("show", other["run_id"]).stdout
    assert shown.count("deleted since") == 2

    again = pairmill.json(*command)
    assert [stage["state"] for stage in again["stages"]] == ["Completed", "Completed"]
    assert {f"{stage['stage']}/{stage['key']}" for stage in again["stages"]} == keys


def test_gc_keeps_ancestors_of_a_model_of_another_registry_and_deletes_those_of_a_deleted_model(pairmill, store):
    manifest = next((store / "register").glob("*/manifest.json"))
    url = next(s["url"] for s in pairmill.json("status") if s["name"] == "mlflow")
    version = {"name": "collected", "version": "1"}
    api = f"{url}/api/2.0/mlflow/model-versions"
    run_id = httpx.get(f"{api}/get", params=version).json()["model_version"]["run_id"]
    httpx.request("DELETE", f"{api}/delete", json=version).raise_for_status()

    set_mlflow_run(manifest, "0" * 32)
    assert set(gc(pairmill, store)["kept"]) == {"a model that this MLflow server has never seen"}

    set_mlflow_run(manifest, run_id)
    deleted = gc(pairmill, store, "--yes")
    assert {name.split("/")[0] for name in deleted["deleted"]} == set(STAGES)
    assert snapshots(store) == set()


def set_mlflow_run(manifest: Path, run_id: str) -> None:
    """Write a register manifest that names another MLflow run."""
    found = Manifest.decode(manifest.read_bytes())
    manifest.write_bytes(found.model_copy(update={"mlflow_run_id": run_id}).encode())
