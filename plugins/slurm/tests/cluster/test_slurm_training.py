"""`train.launch = "slurm"` on a real SLURM of two nodes on loopback. `make slurm` runs this."""

import json
import logging
import multiprocessing
import signal

import pytest

from dataops.errors import ConfigError
from dataops.store import FolderStore
from plugins.slurm.config import SlurmConfig
from plugins.slurm.training import train_on_slurm
from tasks.engine.context import Context
from tasks.engine.stage import make, plan
from tasks.train.stage import TRAIN
from tests.servers.slurm_nodes import MISSING, slurm_cluster, wait_for
from tests.trainings import VIT, dataset
from training.config import TrainConfig

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(MISSING), reason=f"NOT INSTALLED: {', '.join(MISSING)}; nothing of SLURM is tested"),
]
LOW = SlurmConfig(partition="low", poll_seconds=0.3)
LONG = {"epochs": 200, "max_spike": 0, "checkpoint_every": 50, "log_every": 20}


@pytest.fixture(scope="module")
def running_cluster(tmp_path_factory):
    with slurm_cluster(tmp_path_factory.mktemp("slurm") / "c", grace=60) as cluster:
        yield cluster


@pytest.fixture
def cluster(running_cluster, monkeypatch, tmp_path):
    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path / "home"))
    yield running_cluster
    running_cluster.clear()


def planned_in(folder, **train):
    folder.mkdir(exist_ok=True)
    model = folder.parent / "vit.json"  # its path is in the key
    model.write_text(json.dumps(VIT))
    settings = {"model": str(model), "batch_size": 8, "vocab_size": 300, "threads": 1, "epochs": 6}
    settings |= {"checkpoint_every": 4, "log_every": 1, "precision": "fp32", "device": "cpu", "launch": "slurm"}
    store = FolderStore(folder / "store")
    planned = plan(TRAIN, TrainConfig.model_validate(settings | train), 0, [dataset(store)])
    return planned, Context(store=store, home=folder / "home", run_id="run-1")


def run_flow(folder, log, train):
    logging.basicConfig(filename=log, level=logging.INFO)
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))  # as Prefect's cancel does
    train_on_slurm(*planned_in(folder, **train), LOW)


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a flow in a process of its own; it returns the process and its log."""
    flows = []

    def begin(**train):
        log = tmp_path / f"flow-{len(flows)}.log"
        flows.append(multiprocessing.get_context("spawn").Process(target=run_flow, args=(tmp_path, log, train)))
        flows[-1].start()
        return flows[-1], log

    yield begin
    for flow in flows:
        flow.kill()
        flow.join()


def weights_of(manifest):
    return [(part.name, part.sha256) for part in manifest.parts if "evidence" not in part.name]


def has_checkpoint(folder):
    return any(folder.glob("home/jobs/train-*/checkpoints/step-*"))


def test_training_of_two_ranks_has_the_bytes_of_a_local_one_on_one_node_and_on_two(cluster, tmp_path, caplog):
    ours = make(*planned_in(tmp_path / "here", nproc=2))
    planned, context = planned_in(tmp_path / "there", nproc=2)
    progress = []
    context = Context(store=context.store, home=context.home, progress=lambda n, of, _: progress.append((n, of)))
    with caplog.at_level(logging.INFO):
        theirs = train_on_slurm(planned, context, LOW)
    assert (theirs.key, theirs.content_digest) == (ours.key, ours.content_digest)
    assert weights_of(theirs) == weights_of(ours)
    assert "step 1/" in caplog.text
    assert progress[-1][0] == progress[-1][1] > 0
    on_two = train_on_slurm(*planned_in(tmp_path / "two", nnodes="2"), LOW)
    assert weights_of(on_two)[:1] == weights_of(ours)[:1], "the number of nodes changes no sum"
    wait_for(lambda: not cluster.jobs())


def test_preempted_training_is_requeued_and_resumes_from_its_checkpoint_to_the_same_bytes(
    cluster, tmp_path, caplog, start
):
    ours = make(*planned_in(tmp_path / "here", **LONG))
    flow, log = start(**LONG)
    wait_for(lambda: has_checkpoint(tmp_path), seconds=400)
    (job,) = cluster.jobs()
    cluster.run("srun", "--partition=high", "--nodes=2", "--ntasks=2", "--cpus-per-task=2", "sleep", "1")
    flow.join(300)
    assert flow.exitcode == 0, log.read_text()[-3000:]
    text = log.read_text()
    assert text.count("logs in") == 1, "it is the same job"
    controller = (cluster.folder / "slurmctld.log").read_text()
    assert controller.count(f"Requeuing JobId={job[0]}\n") == 1, "SLURM and the job do not both requeue it"
    assert f"SLURM job {job[0]}: PENDING" in text
    assert "resumed from step-" in text
    assert weights_of(train_on_slurm(*planned_in(tmp_path, **LONG), LOW)) == weights_of(ours)


def test_training_survives_a_killed_flow_and_ends_with_a_checkpoint_when_cancelled(cluster, tmp_path, start):
    endless = LONG | {"epochs": 100_000}
    first, _ = start(**endless)
    wait_for(lambda: has_checkpoint(tmp_path), seconds=400)
    before = cluster.jobs()
    first.kill()
    first.join()
    again, log = start(**endless)
    wait_for(lambda: log.exists() and "makes this snapshot: waiting for it" in log.read_text())
    wait_for(lambda: "step " in log.read_text())
    assert cluster.jobs() == before, "the training continued, and was not started again"
    again.terminate()
    again.join(300)
    assert again.exitcode == 1
    wait_for(lambda: not cluster.jobs())
    (failure,) = tmp_path.glob("home/jobs/train-*/failure.json")
    stopped = json.loads(failure.read_text())["message"]
    assert stopped.startswith("stopped after step")
    assert (failure.parent / "checkpoints" / f"step-{int(stopped.split()[3]):06d}").is_dir(), "with a checkpoint"


def test_error_of_the_training_is_raised_here(cluster, tmp_path):
    with pytest.raises(ConfigError, match="pairs a step are too few"):
        train_on_slurm(*planned_in(tmp_path, batch_size=2), LOW)
    with pytest.raises(ConfigError, match=r"SLURM rejects sbatch \(.*: correct \[execution\.slurm\]"):
        train_on_slurm(*planned_in(tmp_path / "large", nproc=64), LOW)
