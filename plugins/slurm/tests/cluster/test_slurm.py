"""Stages on a real SLURM of two nodes on loopback: Debian's slurmctld, slurmd and munge. `make slurm` runs this."""

import multiprocessing
import os
import re
import signal
import socket
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dataops.errors import ContractError, JobFailed, PairmillError
from dataops.snapshot import Draft, Record
from dataops.store import FolderStore
from plugins.slurm.config import SlurmConfig
from plugins.slurm.engine import SlurmExecutor
from tasks.engine.context import Context
from tasks.engine.map_parts import map_parts
from tests.servers.slurm_nodes import MISSING, slurm_cluster, wait_for

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        bool(MISSING), reason=f"{', '.join(MISSING)} is not installed: SLURM is not tested; see `make slurm`"
    ),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm_cluster(tmp_path_factory.mktemp("slurm") / "c") as cluster:
        yield cluster


@dataclass(frozen=True)
class Task:
    id: str
    notes: str
    """Folder in which each try leaves a line, and the file `go` lets tasks of the kind `waits` end."""
    kind: str = "plain"


def part(draft, task):
    """Write a part, fail or die, as the kind of the task says."""
    with (Path(task.notes) / task.id).open("a") as file:
        file.write(f"{os.environ.get('SLURMD_NODENAME')}\n")
    if task.kind == "wrong":
        raise ContractError(task.id)
    if task.kind == "bug":
        raise ZeroDivisionError
    if task.kind == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    while task.kind == "waits" and not (Path(task.notes) / "go").exists():
        time.sleep(0.1)
    return Record(task=task.id, parts=[draft.put_bytes(f"{task.id}.bin", task.id.encode())])


def nodes_of(folder, name):
    return (folder / name).read_text().split() if (folder / name).exists() else []


@pytest.fixture
def executor(cluster, monkeypatch, tmp_path):
    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path / "home"))
    yield SlurmExecutor(SlurmConfig(partition="low", poll_seconds=0.3))
    (tmp_path / "go").touch()
    monkeypatch.undo()
    cluster.clear()


def run_tasks(folder, executor, *kinds):
    draft = Draft(FolderStore(folder / "store"), "filter", "k")
    draft.put_bytes("there.bin", b"x")  # as the lease is, in a real run
    tasks = [Task(f"{kind}-{n}", str(folder), kind) for n, kind in enumerate(kinds)]
    return map_parts(part, tasks, draft, Context(store=draft.store, home=folder / "home", executor=executor))


def in_thread(call):
    """Begin a call in a thread, and return a function that waits for its result."""
    results = []

    def work():
        try:
            results.append(call())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=work)
    thread.start()

    def join():
        thread.join(500)
        if isinstance(results[0], BaseException):
            raise results[0]
        return results[0]

    return join


def test_tasks_return_records_and_raise_the_errors_of_the_job(cluster, executor, tmp_path, caplog):
    records = run_tasks(tmp_path, executor, *["plain"] * 9)
    (tmp_path / "go").touch()
    assert [record.task for record in records] == [f"plain-{n}" for n in range(9)]
    assert {node for n in range(9) for node in nodes_of(tmp_path, f"plain-{n}")} == {"n1", "n2"}
    with pytest.raises(ContractError, match="wrong-0"):
        run_tasks(tmp_path, executor, "wrong")
    assert len(nodes_of(tmp_path, "wrong-0")) == 1, "an error is not retried"
    with pytest.raises(RuntimeError, match="ZeroDivisionError") as bug:
        run_tasks(tmp_path, executor, "bug")
    assert "in part" in str(bug.value), "where it was"
    with pytest.raises(JobFailed, match=r"1 of 2 tasks failed.*: dies-0: SLURM job \d+_0 ended as FAILED") as failed:
        run_tasks(tmp_path, executor, "dies", "waits")
    assert re.search(r"filter dies-0: SLURM job \d+_0 ended as FAILED .*\.log", caplog.text)
    assert len(nodes_of(tmp_path, "waits-1")) == 1, "a job that dies costs its own task only"
    assert failed.value.exit_code == 75
    wait_for(lambda: not cluster.jobs())


@pytest.mark.parametrize("event", ["lost", "preempted"])
def test_only_the_tasks_of_a_lost_node_or_a_preempted_job_are_repeated(cluster, executor, tmp_path, event):
    join = in_thread(lambda: run_tasks(tmp_path, executor, *["waits"] * 4))
    names = [f"waits-{n}" for n in range(4)]
    wait_for(lambda: all(nodes_of(tmp_path, name) for name in names))
    lost = [name for name in names if nodes_of(tmp_path, name) == ["n2"]]
    assert len(lost) == 2
    if event == "lost":
        cluster.lose_node("n2")
        cluster.set_node("n2", "DOWN")
        wait_for(lambda: sum(job[1] == "PENDING" for job in cluster.jobs()) == 2)
        cluster.start_node("n2")
    else:
        cluster.run("srun", "--partition=high", "--nodelist=n2", "--cpus-per-task=2", "sleep", "1")
    wait_for(lambda: all(len(nodes_of(tmp_path, name)) == 2 for name in lost))
    (tmp_path / "go").touch()
    assert [record.task for record in join()] == names
    assert [len(nodes_of(tmp_path, name)) for name in names] == [2 if name in lost else 1 for name in names]
    wait_for(lambda: not cluster.jobs())


def test_cancelled_run_leaves_no_job_and_that_of_a_killed_run_is_cancelled_by_the_next(cluster, executor, tmp_path):
    flow = spawn_flow(tmp_path)
    wait_for(lambda: nodes_of(tmp_path, "waits-0"))
    flow.terminate()
    flow.join(300)
    assert flow.exitcode == 1
    wait_for(lambda: not cluster.jobs())

    flow = spawn_flow(tmp_path)
    wait_for(lambda: len(nodes_of(tmp_path, "waits-0")) == 2)
    flow.kill()
    flow.join()
    left = {job[0] for job in cluster.jobs()}
    assert left
    join = in_thread(lambda: run_tasks(tmp_path, executor, "waits"))
    wait_for(lambda: (jobs := {job[0] for job in cluster.jobs()}) and not jobs & left)
    (tmp_path / "go").touch()
    assert [record.task for record in join()] == ["waits-0"]


def spawn_flow(folder):
    """Run a task in a process that ends as a flow that is cancelled."""
    process = multiprocessing.get_context("spawn").Process(target=run_flow, args=(folder,))
    process.start()
    return process


def run_flow(folder):
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))  # as Prefect's cancel does
    run_tasks(folder, SlurmExecutor(SlurmConfig(poll_seconds=0.3)), "waits")


def test_partition_that_does_not_exist_and_a_silent_controller_are_clear_errors(
    cluster, executor, tmp_path, monkeypatch
):
    def fail(**slurm):
        with pytest.raises(PairmillError) as caught:
            run_tasks(tmp_path, SlurmExecutor(SlurmConfig(**slurm)), "plain")
        return caught.value

    error = fail(partition="nope")
    assert (error.exit_code, "correct execution.slurm.partition" in str(error)) == (2, True)
    error = fail(account="a", gres="gpu:9", poll_seconds=0.3)
    assert (error.exit_code, "Invalid generic resource" in str(error)) == (2, True)
    assert "CPU count per node" in str(fail(cpus=64))
    config = (cluster.folder / "slurm.conf").read_text()
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections and answers nothing
        port = f"SlurmctldPort={silent.getsockname()[1]}"
        (tmp_path / "slurm.conf").write_text(re.sub(r"SlurmctldPort=\d+", port, config))
        monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
        error = fail()
    assert (error.exit_code, error.retryable) == (75, True)
    assert "SLURM's controller does not answer: see `scontrol ping`" in str(error)


@pytest.mark.timeout(1800)
def test_pipeline_on_slurm_has_the_digests_of_a_local_run(cluster, pairmill):
    pairmill = replace(pairmill, env=pairmill.env | {"SLURM_CONF": os.environ["SLURM_CONF"]})
    on_slurm = ("execution.engine=slurm", "execution.slurm.poll_seconds=0.5", "train.launch=slurm")
    ours, shown = (
        pairmill.json("show", pairmill.json("run", config, "--until", "train", *options)["run_id"])
        for config, *options in (
            (pairmill.write_config("here", train={"precision": "fp32"}),),
            (pairmill.write_config("there", train={"precision": "fp32"}), *(f"--set={one}" for one in on_slurm)),
        )
    )
    digests = [
        [(stage["stage"], stage["key"], stage["content_digest"]) for stage in run["stages"]] for run in (ours, shown)
    ]
    assert digests[0] == digests[1]
    assert len(digests[0]) == 6
    logs = shown["model_links"]["SLURM logs"]
    assert Path(logs).parent == pairmill.folder / "home" / "slurm"
    assert {path.name.split("-")[1] for path in Path(logs).parent.iterdir()} == {stage for stage, *_ in digests[0]}
    wait_for(lambda: not cluster.jobs())
