"""`pairmill rerun --from download --retry` fetches only the rows again that failed so; later stages follow."""

import shutil

import pytest

pytestmark = [pytest.mark.long, pytest.mark.timeout(600), pytest.mark.xdist_group("chaos")]


@pytest.fixture
def config(chaos):
    """Return the config of a store with the snapshots of the undisturbed run except those of pack and register."""
    folder = chaos.environment.folder
    shutil.copytree(folder / "peace", folder / "retried", ignore=shutil.ignore_patterns("pack", "register", "runs"))
    return chaos.environment.config(folder / "retried")


def test_rerun_with_retry_fetches_only_rows_that_failed_so(pairmill, config):
    first = pairmill.json("run", config, "--until", "pack")
    shown = pairmill.json("show", first["run_id"])
    before = {stage["stage"]: stage for stage in shown["stages"]}
    assert before["download"]["counts"]["dropped"]["http_404"] > 0

    nothing = pairmill.json("rerun", first["run_id"], "--from", "download", "--retry", "timeout,http_5xx")
    assert [stage["state"] for stage in nothing["stages"]] == ["Reused"] * 5, (
        "no row failed so, and pack is the last stage"
    )
    again = pairmill.json("rerun", first["run_id"], "--from", "download", "--retry", "http_4xx", "--until", "evaluate")
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
