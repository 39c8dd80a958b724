"""`train.launch = "ray"` on a real cluster: two nodes on loopback. `make ray` installs Ray and runs this."""

import json
import logging
import multiprocessing
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from dataops.errors import ConfigError
from dataops.snapshot import find_manifest
from dataops.store import FolderStore
from plugins.ray import launcher as ray_launcher
from plugins.ray.engine import RayExecutor
from plugins.ray.launcher import train_on_ray
from tasks.engine.context import Context
from tasks.engine.stage import make, plan
from tasks.train.stage import TRAIN
from tests import concurrency
from tests.servers.ray_nodes import NODE, OTHER, head_node
from tests.trainings import VIT, dataset
from training.config import TrainConfig

pytest.importorskip("ray", reason="RAY IS NOT INSTALLED: train.launch = ray is not tested; `make ray` tests it")
pytestmark = [pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PAIRMILL_HOME", raising=False)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with head_node() as head:
            head.add_node(**NODE, **OTHER)
            yield RayExecutor(str(head.address), max_retries=1)


def planned_in(folder, **train):
    (folder / "vit.json").write_text(json.dumps(VIT))
    settings = {"model": str(folder / "vit.json"), "batch_size": 8, "vocab_size": 300, "threads": 1, "epochs": 6}
    settings |= {"checkpoint_every": 4, "log_every": 1, "precision": "fp32", "device": "cpu", "launch": "ray"}
    store = FolderStore(folder / "store")
    planned = plan(TRAIN, TrainConfig.model_validate(settings | train), 0, [dataset(store)])
    return planned, Context(store=store, home=folder / "home", run_id="run-1")


LONG = {"epochs": 100_000, "max_spike": 0, "checkpoint_every": 50, "log_every": 20}


def find_trainers(folder):
    """Return the processes of training.train, torchrun included, whose job is in the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if b"training.train" in words and os.fsencode(folder) in words:
            found.append(int(entry.name))
    return found


wait_for = partial(concurrency.wait_for, seconds=300, pause=0.1)


def list_checkpoints(folder):
    return list(folder.glob("home/jobs/train-*/checkpoints/step-*"))


class FlowProcess:
    """A flow in its own process, which a test may kill; its log is in the folder."""

    def __init__(self, folder, cluster):
        self.log = folder / f"flow-{time.monotonic_ns()}.log"
        spawn = multiprocessing.get_context("spawn")
        self.process = spawn.Process(target=run_flow, args=(folder, cluster, self.log))
        self.process.start()

    def has_logged(self, text):
        return self.log.exists() and text in self.log.read_text()


@pytest.fixture
def start(tmp_path):
    """Return a function that starts flows; at the end they are cancelled, with their trainings."""
    flows = []

    def begin(cluster):
        flows.append(FlowProcess(tmp_path, cluster))
        return flows[-1]

    yield begin
    for flow in flows:
        flow.process.terminate()
        flow.process.join(300)


def run_flow(folder, cluster, log):
    logging.basicConfig(filename=log, level=logging.INFO)
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))  # as Prefect's cancel does
    train_on_ray(*planned_in(folder, **LONG), cluster)


def test_training_on_ray_makes_the_same_snapshot_as_here_and_forwards_its_log(cluster, tmp_path, caplog):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    ours = make(*planned_in(here))
    planned, context = planned_in(there)
    progress = []
    context = Context(store=context.store, home=context.home, progress=lambda n, of, _: progress.append((n, of)))
    with caplog.at_level(logging.INFO):
        theirs = train_on_ray(planned, context, cluster)
    assert [(p.name, p.sha256) for p in theirs.parts if "evidence" not in p.name] == [
        (p.name, p.sha256) for p in ours.parts if "evidence" not in p.name
    ]
    assert "step 1/" in caplog.text
    assert progress[-1][0] == progress[-1][1]
    assert not find_trainers(there)


def test_training_on_ray_raises_when_no_node_fits_and_when_the_trainer_fails(cluster, tmp_path):
    planned, context = planned_in(tmp_path, nproc=64)
    with pytest.raises(ConfigError, match=r"room for 0 of these: lower train\.nproc"):
        train_on_ray(planned, context, cluster)
    planned, context = planned_in(tmp_path, batch_size=2)
    with pytest.raises(ConfigError, match="pairs a step are too few"):
        train_on_ray(planned, context, cluster)


def test_training_survives_a_killed_flow_and_a_killed_worker_and_ends_when_cancelled(cluster, tmp_path, start):
    first = start(cluster)
    wait_for(lambda: list_checkpoints(tmp_path))
    before = find_trainers(tmp_path)
    first.process.kill()
    first.process.join()
    again = start(cluster)
    wait_for(lambda: again.has_logged("makes this snapshot: waiting for it") and again.has_logged("step "))
    assert set(before) == set(find_trainers(tmp_path)), "the training continued, and was not restarted"

    (job,) = tmp_path.glob("home/jobs/train-*/job.json")
    os.kill(json.loads(job.read_text())["parent_pid"], signal.SIGKILL)
    wait_for(lambda: again.has_logged("its worker on Ray died") and again.has_logged("resumed from step-"))
    assert again.process.is_alive()
    wait_for(lambda: find_trainers(tmp_path))
    assert not set(before) & set(find_trainers(tmp_path))

    again.process.terminate()
    again.process.join(300)
    assert again.process.exitcode not in (None, 0)
    wait_for(lambda: not find_trainers(tmp_path))
    stopped = json.loads((job.parent / "failure.json").read_text())["message"]
    step = int(stopped.split()[3])
    assert stopped.startswith("stopped after step")
    assert (job.parent / "checkpoints" / f"step-{step:06d}").is_dir(), "it wrote a checkpoint first"


def test_training_is_retryable_when_its_worker_dies_too_often(cluster, tmp_path, start):
    flow = start(RayExecutor(cluster.address, max_retries=0))
    wait_for(lambda: list_checkpoints(tmp_path))
    (job,) = tmp_path.glob("home/jobs/train-*/job.json")
    os.kill(json.loads(job.read_text())["parent_pid"], signal.SIGKILL)
    flow.process.join(300)
    assert flow.process.exitcode == 1
    wait_for(lambda: not find_trainers(tmp_path))
    planned, context = planned_in(tmp_path, **LONG)
    assert find_manifest(context.store, "train", planned.key) is None


def test_training_on_two_nodes_resumes_from_a_checkpoint_when_one_is_lost(cluster, tmp_path, caplog):
    planned, context = planned_in(tmp_path, nnodes="2", epochs=60)
    killed = []

    def progress(done, total, line):
        others = list(tmp_path.glob("home/jobs/train-*-1/job.json"))
        if not killed and list_checkpoints(tmp_path) and others:
            killed.append(json.loads(others[0].read_text())["parent_pid"])
            os.kill(killed[0], signal.SIGKILL)

    context = Context(store=context.store, home=context.home, progress=progress)
    with caplog.at_level(logging.INFO):
        manifest = train_on_ray(planned, context, cluster)
    assert killed
    assert "cpu x 2" in caplog.text
    assert "resumed from step-" in caplog.text
    rows = [json.loads(line) for line in context.store.read(manifest.path("metrics.jsonl")).splitlines()]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert manifest.facts["final"]["samples_seen"] == rows[-1]["samples_seen"]
    assert not find_trainers(tmp_path)


def test_training_raises_a_lost_cluster_when_the_driver_ends(cluster, tmp_path, monkeypatch):
    """End the driver, as Ray does with the processes that are connected to a head that dies."""
    monkeypatch.setattr(ray_launcher, "run_driver", exit_at_once)
    with pytest.raises(Exception, match="is lost; `pairmill rerun` finds the training") as caught:
        train_on_ray(*planned_in(tmp_path), cluster)
    assert getattr(caught.value, "exit_code", None) == 75


def exit_at_once(*_):
    os._exit(1)
