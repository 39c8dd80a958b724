"""`pairmill rerun --from download --retry` fetches only the rows again that failed so; later stages follow."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.kills.loop import Chaos
from tests.small_pipeline import Pairmill

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("chaos")]


@pytest.fixture
def config(pairmill: Pairmill, chaos: Chaos) -> Iterator[Path]:
    """Return the config of a store with the snapshots of the undisturbed run except those of pack and register."""
    folder = chaos.environment.folder
    shutil.copytree(folder / "peace", folder / "retried", ignore=shutil.ignore_patterns("pack", "register", "runs"))
    yield chaos.environment.config(folder / "retried")
    registry = next(service["url"] for service in pairmill.json("status") if service["name"] == "mlflow")
    # test_chaos.py expects one model that needs the snapshots of `peace`, which have the same keys.
    delete = f"{registry}/api/2.0/mlflow/registered-models/delete"
    httpx.request("DELETE", delete, json={"name": "retried"}).raise_for_status()


def test_rerun_with_retry_fetches_only_rows_that_failed_so(pairmill: Pairmill, config: Path) -> None:
    first = pairmill.json("run", config, "--until", "pack", "--set", "register.model_name=retried")
    shown = pairmill.json("show", first["run_id"])
    before = {stage["stage"]: stage for stage in shown["stages"]}
    page = shown["model_links"]["run"]
    assert re.match(r"http://127\.0\.0\.1:\d+/#/experiments/\d+/runs/[0-9a-f]{32}\?", page), "its run in MLflow"
    assert before["download"]["counts"]["dropped"]["http_404"] > 0

    nothing = pairmill.json("rerun", first["run_id"], "--from", "download", "--retry", "timeout,http_5xx")
    assert [stage["state"] for stage in nothing["stages"]] == ["Reused"] * 5, (
        "no row failed so, and pack is the last stage"
    )
    pairmill.json("rerun", first["run_id"], "--until", "register")

    assert pairmill.json("show", first["run_id"])["model_links"]["run"] == page, "registered in the same run"

    again = pairmill.json("rerun", first["run_id"], "--from", "download", "--retry", "http_4xx")
    after = {stage["stage"]: stage for stage in pairmill.json("show", first["run_id"])["stages"]}
    states = {stage["stage"]: stage["state"] for stage in again["stages"]}
    assert states["filter"] == "Reused"
    assert states["download"] == "Completed"
    assert after["download"]["key"] == before["download"]["key"]
    assert after["download"]["counts"] == before["download"]["counts"], "the site is what it was"
    kept = {part["name"]: part["sha256"] for part in before["download"]["parts"] if part["name"].endswith(".tar")}
    now = {part["name"]: part["sha256"] for part in after["download"]["parts"]}
    assert kept.items() <= now.items()
    assert after["pack"]["content_digest"] == before["pack"]["content_digest"]
    assert states["train"] == states["evaluate"] == "Reused", "the dataset is the same"
