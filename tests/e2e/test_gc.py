"""`pairmill gc` on real runs and a real registry."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from dataops.stages import STAGES
from tests.e2e.conftest import Mill

pytestmark = pytest.mark.timeout(300)


def gc(mill: Mill, store: Path, *arguments: str) -> dict[str, Any]:
    """What gc says of one store."""
    result = mill.json("gc", "--store", store, "--keep-runs", "0", *arguments)
    return result["stores"][0]


def snapshots(store: Path) -> set[str]:
    return {str(path.parent.relative_to(store)) for path in store.glob("*/*/manifest.json")}


def test_what_no_run_and_no_model_needs_goes_and_is_made_again_when_asked(chaos, mill):
    store = chaos.ground.folder / "peace"
    of_the_model = snapshots(store)
    assert {name.split("/")[0] for name in of_the_model} == set(STAGES)
    command = ("run", chaos.ground.config(store), "--set", "seed=5", "--until", "filter")
    other = mill.json(*command)
    keys = {f"{stage['stage']}/{stage['key']}" for stage in other["stages"]}

    kept = mill.json("gc", "--store", store)["stores"][0]
    assert kept["snapshots"] == []
    assert set(kept["kept"]) == {"one of the 10 newest runs of its name", "chaos version 1"}

    said = gc(mill, store)
    assert {f"{row['stage']}/{row['key']}" for row in said["snapshots"]} == keys
    assert {row["last_run"] for row in said["snapshots"]} == {other["run_id"]}
    assert set(said["kept"]) == {"chaos version 1"}
    assert snapshots(store) == of_the_model | keys, "a dry run deletes nothing"

    assert set(gc(mill, store, "--yes")["deleted"]) == keys
    assert snapshots(store) == of_the_model
    shown = mill("show", other["run_id"]).stdout
    assert shown.count("deleted since") == 2

    again = mill.json(*command)
    assert [stage["state"] for stage in again["stages"]] == ["Completed", "Completed"]
    assert {f"{stage['stage']}/{stage['key']}" for stage in again["stages"]} == keys


def test_without_its_registry_gc_refuses(chaos, mill):
    away = Mill(mill.folder, mill.web, mill.site, {**mill.env, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
    store = chaos.ground.folder / "peace"
    before = snapshots(store)
    refused = away("gc", "--store", store, "--keep-runs", "0", "--yes", code=75)
    assert "http://127.0.0.1:9" in refused.stderr
    assert snapshots(store) == before


def test_a_model_that_another_registry_holds_keeps_its_ancestors_and_a_deleted_one_lets_them_go(chaos, mill):
    store = chaos.ground.folder / "peace"
    manifest = next((store / "register").glob("*/manifest.json"))
    text = manifest.read_text()
    url = next(s["url"] for s in mill.json("status") if s["name"] == "mlflow")
    version = {"name": "chaos", "version": "1"}
    api = f"{url}/api/2.0/mlflow/model-versions"
    run_id = httpx.get(f"{api}/get", params=version).json()["model_version"]["run_id"]
    httpx.request("DELETE", f"{api}/delete", json=version).raise_for_status()

    manifest.write_text(text.replace(run_of(text), "0" * 32))
    assert set(gc(mill, store)["kept"]) == {"a model that this MLflow server has never seen"}

    manifest.write_text(text.replace(run_of(text), run_id))
    gone = gc(mill, store, "--yes")
    assert {name.split("/")[0] for name in gone["deleted"]} == set(STAGES)
    assert snapshots(store) == set()


def run_of(manifest: str) -> str:
    """The MLflow run that a register manifest names."""
    return manifest.split('"mlflow_run_id": "')[1].split('"')[0]
