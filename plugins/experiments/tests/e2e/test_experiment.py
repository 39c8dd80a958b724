"""`pairmill experiment` over a small web, killed during the second training, and continued."""

import httpx
import pytest

from dataops.store import FolderStore
from infra.local import services
from tests.servers.prefect_api import PrefectApi

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def list_mlflow_runs(url):
    """Return the tags of the runs of the config in MLflow, by id."""
    api = f"{url}/api/2.0/mlflow"
    found = httpx.get(f"{api}/experiments/get-by-name", params={"experiment_name": "small"}, timeout=60).json()
    ids = [found["experiment"]["experiment_id"]]
    runs = httpx.post(f"{api}/runs/search", json={"experiment_ids": ids, "max_results": 100}, timeout=60).json()["runs"]
    return {run["info"]["run_id"]: {tag["key"]: tag["value"] for tag in run["data"]["tags"]} for run in runs}


def test_an_experiment_that_is_killed_continues_and_decides(pairmill):
    """Two variants with two seeds over one dataset: each training is made once, and one variant hardly trains."""
    pages = {"paths": [f"{pairmill.web.archive}/*-00000.warc.gz"]}
    config = pairmill.write_config("variants", source=pages, train={"epochs": 2})
    store = FolderStore(pairmill.folder / "store-variants")
    file = pairmill.folder / "which.toml"
    file.write_text(
        f'name = "which"\nbase = "{config.name}"\nseeds = 2\n'
        '[variants]\ntrained = {}\nhardly = { "train.lr" = 1e-9 }\n[decide]\nmetric = "shapes-seen/top1"\n'
    )
    pairmill.run_and_kill(
        "experiment", file, when=lambda: any(store.names("evaluate")), pause=0.1
    )  # one training is recorded
    page = pairmill.folder / "which.html"
    result = pairmill.json("experiment", file, "--page", page)
    assert [one["state"] for one in result["runs"]] == ["complete"] * 4
    made = {stage: len({name.split("/")[1] for name in store.names(stage)}) for stage in ("pack", "train", "evaluate")}
    assert made == {"pack": 1, "train": 4, "evaluate": 4}
    assert result["comparisons"][0]["difference"] == pytest.approx(
        sum(result["variants"][1]["values"]) / 2 - sum(result["variants"][0]["values"]) / 2
    )
    prefect = PrefectApi(services.status()[0].url)
    flows = prefect.post("flow_runs/filter", {"flow_runs": {"name": {"any_": ["experiment-which"]}}})
    assert sorted(one["state_type"] for one in flows) == ["COMPLETED", "CRASHED"]
    runs = list_mlflow_runs(str(services.status()[1].url))
    (parent,) = [run for run, tags in runs.items() if tags.get("pairmill.experiment") == "which"]
    nested = [tags for tags in runs.values() if tags.get("mlflow.parentRunId") == parent]
    assert {one for cell in result["runs"] for one in cell["run_ids"]} >= {one["pairmill.run_id"] for one in nested}
    assert len(nested) >= 4
    assert runs[parent]["mlflow.note.content"] == result["decision"]
    shared, alone = result["variants"][0]["seconds"], result["variants"][1]["seconds"]
    assert min(shared, alone) > 0  # also of the stages that the killed run made
    assert "<svg" in page.read_text()
    assert result["decision"] == pairmill.json("experiment", "show", "which")["decision"]
