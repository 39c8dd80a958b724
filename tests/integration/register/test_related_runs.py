"""The runs around a registration: its child runs, that of an unregistered pipeline run, and live training curves."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from dataops.snapshot import Draft
from dataops.store import FolderStore
from tasks.engine import stage
from tasks.engine.context import Context
from tasks.engine.stage import Work
from tasks.tracking import client as tracking
from tasks.tracking import parent_run
from tasks.tracking.parent_run import RunOutcome
from tests.concurrency import wait_for
from tests.kills.seaweed import free_port
from tests.registrations import connect, plan_registration

pytestmark = pytest.mark.xdist_group("register")


def test_training_and_evaluation_are_child_runs_of_each_registration(registered, upstream):
    _, plan, context = registered
    stage.discard(plan, context)
    again = stage.make(plan, context)  # a second time changes nothing
    experiment = connect().get_experiment_by_name("demo")
    found = connect().search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{again.mlflow_run_id}'")
    runs = {run.info.run_name.partition(" ")[0]: run for run in found}
    assert (sorted(runs), len(found)) == (["evaluate", "train"], 2)
    assert {run.info.status for run in found} == {"FINISHED"}
    curve = connect().get_metric_history(again.mlflow_run_id, "train/loss")
    nested = connect().get_metric_history(runs["train"].info.run_id, "train/loss")
    assert [(p.step, p.value) for p in nested] == [(p.step, p.value) for p in curve]
    other, _ = plan_registration(upstream, model_name="twin")
    theirs = stage.make(other, context).mlflow_run_id
    under = connect().search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{theirs}'")
    assert sorted(run.info.run_name for run in under) == ["evaluate demo-20260102-abcd", "train demo-20260102-abcd"]


def test_registration_continues_the_run_of_a_pipeline_run_that_ended_early(mlflow_url, upstream, monkeypatch, caplog):
    plan, context = plan_registration(upstream, model_name="late")
    context = replace(context, run_name="early", run_id="early-20260102T030405-abcd")
    manifests = {m.stage: m for m in reversed(upstream.manifests) if m.stage not in ("train", "evaluate")}
    reached = [{"stage": m.stage, "key": m.key, "state": "Completed", "seconds": 1.5} for m in manifests.values()]
    failed = [*reached, {"stage": "train", "key": "train00000000000", "state": "Failed", "seconds": 2.0}]
    mlflow = connect()
    training = tracking.open_run(mlflow, "early", "train-train00000000000", "its live curve", {})
    checks = {"checks": "1 check passed; failed: max_host_share (blocks)"}, {"checks/max_host_share": 0.9}
    error = "JobFailed: <script>[x](javascript:1) s3://u:hunter2@bucket"
    opened = parent_run.open_run(context, 5)
    (run,) = mlflow.search_runs([training.info.experiment_id], f"tags.`{tracking.PIPELINE_TAG}` = '{context.run_id}'")
    assert (run.info.status, run.info.start_time, run.info.end_time) == ("RUNNING", 5, None)
    parent_run.end_killed(context.run_name, str(context.run_id))
    assert mlflow.get_run(run.info.run_id).info.status == "KILLED"
    assert parent_run.open_run(context, 7) is not None
    assert mlflow.get_run(run.info.run_id).info.status == "RUNNING"
    page = parent_run.record_outcome(context, manifests, RunOutcome("FINISHED", "up to pack", reached, 5))
    assert opened == page == parent_run.open_run(context, 7)
    page = parent_run.record_outcome(context, manifests, RunOutcome("FAILED", error, failed, 6, *checks))
    parent_run.end_killed(context.run_name, str(context.run_id))  # it has ended, and stays as it is

    def parents():
        found = mlflow.search_runs(
            [training.info.experiment_id], f"tags.`{tracking.PIPELINE_TAG}` = '{context.run_id}'"
        )
        return list(found)

    (run,) = parents()
    assert (run.info.status, run.info.run_name, run.info.start_time) == ("FAILED", "2 Jan 03:04 abcd", 5)
    assert run.data.tags["snapshot.curate"] == manifests["curate"].key
    note = run.data.tags["mlflow.note.content"]
    assert r"JobFailed: \<script\>\[x\]" in note
    assert "hunter2" not in note
    assert (run.data.tags["checks"], run.data.metrics) == (checks[0]["checks"], checks[1])
    assert [one.dataset.name for one in run.inputs.dataset_inputs] == [f"pack-{manifests['pack'].key}"]
    assert mlflow.get_run(training.info.run_id).data.tags["mlflow.parentRunId"] == run.info.run_id

    manifest = stage.make(plan, context)
    assert manifest.mlflow_run_id == run.info.run_id
    registered = [*failed, {"stage": "register", "key": plan.key, "state": "Failed", "seconds": 2.0}]
    refused = RunOutcome("FAILED", "refused by the gate", registered, 7, {"checks": "2 checks passed"})
    assert parent_run.record_outcome(context, manifests, refused) == page
    (run,) = parents()
    assert (run.info.status, run.info.start_time, run.data.tags["checks"]) == ("FAILED", 5, "2 checks passed")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    assert parent_run.record_outcome(context, manifests, RunOutcome("KILLED", "stopped", reached, 5)) is None
    assert "does not answer" in caplog.text
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert parent_run.record_outcome(context, manifests, RunOutcome("KILLED", "stopped", reached, 5)) is None


def test_live_run_logs_curves_during_the_training(mlflow_url, tmp_path, monkeypatch):
    from tasks.train import curves as train_live
    from training.config import TrainConfig

    context = Context(store=FolderStore(tmp_path / "store"), home=tmp_path, run_name="live", run_id="live-1")
    work = Work(TrainConfig(), 0, {}, Draft(context.store, "train", "1" * 16), context)

    def write(first, last):
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.writelines(f'{{"step":{step},"loss":{1 / step},"lr":0.1}}\n' for step in range(first, last + 1))
        with (tmp_path / "evidence-throughput.jsonl").open("a") as file:
            file.write(f'{{"step":{last},"samples_per_second":10.0,"mfu":0.4,"gpu_peak_memory_gb":61.5}}\n')

    def history(metric):
        runs = client.search_runs([client.get_experiment_by_name("live").experiment_id])
        assert len(runs) <= 1
        return sorted(point.step for run in runs for point in client.get_metric_history(run.info.run_id, metric))

    def follows(steps):
        wait_for(lambda: client.get_experiment_by_name("live") is not None and history("train/loss") == steps)

    def live_run():
        (run,) = client.search_runs([client.get_experiment_by_name("live").experiment_id])
        return run

    client = tracking.connect()
    with train_live.LiveRun(work, tmp_path, 0.2, 1):
        write(1, 5)
        follows([1, 2, 3, 4, 5])  # while it runs
        wait_for(lambda: any(name.startswith("system/") for name in live_run().data.metrics))
        write(6, 8)
    assert history("train/loss") == list(range(1, 9))
    for name in ("samples_per_second", "mfu", "gpu_peak_memory_gb"):
        assert history(f"train/{name}") == [5, 8]
    write(9, 9)
    (tmp_path / "trace.json.gz").write_bytes(b"a trace")
    monkeypatch.setattr(train_live, "used_hooks", lambda _: [SimpleNamespace(artifacts=("trace.json.gz", "missing"))])
    with (
        pytest.raises(ValueError, match="spike"),
        train_live.LiveRun(work, tmp_path, 0.2, 1),
    ):  # another try goes on in it
        raise ValueError("spike")
    assert history("train/loss") == list(range(1, 10))
    run = live_run()
    assert Path(client.download_artifacts(run.info.run_id, "trace.json.gz", str(tmp_path))).read_bytes() == b"a trace"
    assert run.info.status == "FAILED"
    assert run.data.params["train.model"] == "ViT-B-32"
