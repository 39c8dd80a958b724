"""Stages on a real cluster of Ray: two nodes on loopback, with their own addresses. `make ray` installs Ray and runs this.

A node is a raylet with its workers, as on a machine of its own: what is killed here dies as it would there.
"""

import os
import signal
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from dataops.errors import ConfigError, ContractError, JobFailed, ServiceError
from dataops.snapshot import Draft, Record
from dataops.store import FolderStore
from plugins.ray import pool as pools
from plugins.ray.engine import RayExecutor
from tasks.curate.config import CurateConfig, Units
from tasks.curate.stage import CURATE
from tasks.engine import exchange
from tasks.engine.context import Context, LocalExecutor, TaskLimits
from tasks.engine.exchange import Exchange, Step
from tasks.engine.map_parts import map_parts, shared_workers
from tasks.engine.stage import make, plan
from tasks.extract.sources.warc import WarcSource
from tasks.extract.stage import EXTRACT
from tasks.filter import stage as filters
from tasks.filter.config import FilterConfig
from tasks.filter.stage import FILTER
from tests.concurrency import wait_for
from tests.growing import put_night
from tests.servers.ray_nodes import NODE, OTHER, head_node
from tests.unit.tasks.raw_images import downloaded, some_pairs

pytest.importorskip("ray", reason="RAY IS NOT INSTALLED: nothing of execution.engine = ray is tested; `make ray` does")
pytestmark = [pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def cluster():
    with head_node() as cluster:
        cluster.add_node(**NODE, **OTHER)
        yield cluster


@dataclass(frozen=True)
class Task:
    id: str
    kind: str = "plain"
    notes: str = ""
    """Folder in which each try leaves a line."""
    doomed: str = "-"
    """A node on which it takes for ever."""


def part(draft, task):
    """Write a part, fail or die, as the kind of the task says."""
    tries = Path(task.notes) / task.id
    with tries.open("a") as file:
        file.write(f"{_node()}\n")
    first = len(tries.read_text().splitlines()) == 1
    if task.kind == "wrong":
        raise ContractError(task.id)
    if task.kind == "bug":
        raise ZeroDivisionError
    if task.kind == "dies" or (task.kind == "dies once" and first):
        os.kill(os.getpid(), signal.SIGKILL)
    if task.kind == "needs memory" and _memory() < 150 << 20:
        os.kill(os.getpid(), signal.SIGKILL)
    if task.kind == "hangs once" and first:
        time.sleep(600)
    if task.kind == "slow":
        time.sleep(60 if _node() == task.doomed else 0.3)
    written = draft.put_bytes(f"{task.id}.bin", task.id.encode())
    return Record(task=task.id, parts=[written], facts={"pid": os.getpid()})


def _node():
    import ray

    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else "this machine"


def _memory():
    import ray

    return ray.get_runtime_context().get_assigned_resources().get("memory", 0.0)


def tries(folder, name):
    return len((folder / name).read_text().splitlines())


@pytest.fixture
def ray_cluster(cluster):
    return RayExecutor(cluster.address, max_retries=1)


def draft_in(folder):
    draft = Draft(FolderStore(folder / "store"), "filter", "k")
    draft.put_bytes("there.bin", b"x")  # as the lease is, in a real run
    return draft


def put_pages(folder):
    """Write three archives of 100 pairs, with duplicates within and between them, and return their paths."""
    for number in range(3):
        rows = [
            (f"http://h{n % 7}.example/{(n * 7 + number) % 200}.jpg", f"The {n % 90} old boats of harbour {n % 41}")
            for n in range(100)
        ]
        put_night(folder, number, rows)
    return [f"{folder}/nights/*.warc"]


def three_stages(folder, paths, executor):
    store = FolderStore(folder)
    context = Context(store=store, home=folder, workers=1, executor=executor, inline_rows=0)
    pairs = make(plan(EXTRACT, WarcSource(paths=paths), 0, []), context)
    config = FilterConfig.model_validate({
        "languages": ["en"], "dedupe": ["url", "pair", "caption"],
    })  # fmt: skip
    kept = make(plan(FILTER, config, 0, [pairs]), context)
    curate = CurateConfig(same_caption=True).with_units(Units(6, 8, 10))
    curated = make(plan(CURATE, curate, 0, [downloaded(store, some_pairs(), 5)]), context)
    return [pairs, kept, curated]


def test_stages_on_two_nodes_write_the_same_bytes_as_one_machine(ray_cluster, tmp_path, monkeypatch):
    for module, name, value in (  # several ranges of hashes, and none too small to be worth a worker
        (filters, "_MIN_PARTITION_ROWS", 100),
    ):
        monkeypatch.setattr(module, name, value)
    paths = put_pages(tmp_path)
    here, there = (
        three_stages(tmp_path / "here", paths, LocalExecutor()),
        three_stages(tmp_path / "there", paths, ray_cluster),
    )
    assert [(m.key, m.content_digest) for m in here] == [(m.key, m.content_digest) for m in there]
    assert [(p.name, p.sha256) for m in here for p in m.parts] == [(p.name, p.sha256) for m in there for p in m.parts]
    assert here[1].counts.dropped["duplicate_caption"] > 0
    assert here[1].counts.kept > 0


def test_only_the_part_of_a_dead_worker_is_repeated_and_errors_are_not_retried(ray_cluster, tmp_path, caplog):
    draft = draft_in(tmp_path)

    def tasks(*kinds):
        return [Task(f"{kind}-{n}".replace(" ", "-"), kind, str(tmp_path)) for n, kind in enumerate(kinds)]

    with shared_workers(Context(store=draft.store, home=tmp_path, executor=ray_cluster)) as shared:
        assert (shared.workers, shared.workers_per_machine) == (2, 1)
        records = map_parts(part, tasks("plain", "dies once", "plain", "plain"), draft, shared)
        assert [record.task for record in records] == ["plain-0", "dies-once-1", "plain-2", "plain-3"]
        assert tries(tmp_path, "dies-once-1") == 2
        assert "dies-once-1: its worker on Ray died: WorkerCrashedError" in caplog.text
        with pytest.raises(ContractError, match="wrong-0"):
            map_parts(part, tasks("wrong"), draft, shared)
        assert tries(tmp_path, "wrong-0") == 1
        with pytest.raises(ZeroDivisionError) as bug:
            map_parts(part, tasks("bug"), draft, shared)
        assert "in part" in bug.value.__notes__[0], "where it was"
        quick = replace(shared, task_limits=TaskLimits(least=3))
        with pytest.raises(JobFailed, match=r"1 of 12 tasks failed.*: dies-0: a worker process died") as failed:
            map_parts(part, tasks("dies", "hangs once", *["plain"] * 12), draft, quick)
        assert failed.value.exit_code == 75
        assert [tries(tmp_path, name) for name in ("dies-0", "hangs-once-1", "plain-7")] == [2, 2, 1]


def test_a_task_that_dies_for_lack_of_memory_is_repeated_with_more(ray_cluster, tmp_path):
    draft, hungry = draft_in(tmp_path), Task("a", "needs memory", str(tmp_path))
    executor = replace(ray_cluster, memory_bytes=100 << 20)
    map_parts(part, [hungry], draft, Context(store=draft.store, home=tmp_path, executor=executor))
    assert tries(tmp_path, "a") == 2


def test_cluster_that_is_missing_or_too_small_raises_a_clear_error(ray_cluster, tmp_path):
    store = FolderStore(tmp_path)
    with (
        pytest.raises(ServiceError, match="no Ray cluster answers at"),
        pools.ray_pool(RayExecutor("127.0.0.1:9"), store),
    ):
        pass
    with (
        pytest.raises(ConfigError, match="lower execution"),
        pools.ray_pool(RayExecutor(ray_cluster.address, cpus=64), store),
    ):
        pass


def test_cluster_scaled_to_zero_is_waited_for(tmp_path, caplog):
    draft, done = draft_in(tmp_path), []
    with head_node(num_cpus=0) as growing:
        context = Context(store=draft.store, home=tmp_path, executor=RayExecutor(growing.address))
        flow = threading.Thread(
            target=lambda: done.append(map_parts(part, [Task("a", notes=str(tmp_path))], draft, context))
        )
        flow.start()
        wait_for(lambda: "has no machine yet: waiting until it grows" in caplog.text)
        growing.add_node(**NODE, **OTHER)
        flow.join(500)
    assert [record.task for record in done[0]] == ["a"]


def test_only_the_parts_of_a_dead_node_are_repeated(cluster, ray_cluster, tmp_path):
    draft = draft_in(tmp_path)
    doomed = cluster.add_node(**NODE, node_ip_address="127.0.0.4")
    tasks = [Task(f"p{n}", "slow", str(tmp_path), doomed.node_id) for n in range(30)]
    killed = []

    def progress(done, total, line):
        if not killed and any(doomed.node_id in file.read_text() for file in tmp_path.glob("p*")):
            killed.append(done)
            cluster.remove_node(doomed, allow_graceful=False)

    records = map_parts(
        part, tasks, draft, Context(store=draft.store, home=tmp_path, executor=ray_cluster, progress=progress)
    )
    assert killed
    assert [record.task for record in records] == [task.id for task in tasks]
    assert len(list(tmp_path.glob("store/filter/k/p*.bin"))) == len(tasks)
    again = sum(tries(tmp_path, task.id) for task in tasks) - len(tasks)
    assert 1 <= again <= 3, "its parts, and no others, are repeated"


def put_numbers(draft, step):
    """Write a row for each partition."""
    numbers = pl.DataFrame({"number": np.arange(step.job.partitions, dtype=np.uint64) * 1000 + step.number})
    step.job.write(draft, step.number, numbers, np.arange(step.job.partitions))


def merge_slowly(draft, step):
    """Merge tables once the node that the input names has begun a merge, which never finishes there."""
    notes, doomed = Path(step.inputs[0]), step.inputs[1]
    with (notes / step.id).open("a") as file:
        file.write(f"{_node()}\n")
    while _node() == doomed or not any(doomed in file.read_text() for file in notes.glob("merge_slowly-*")):
        time.sleep(0.05)
    exchange.merge_tables(draft, step)


def list_numbers(draft, step):
    """Return the rows of a partition."""
    rows = step.job.read(draft, step.number)
    return Record(task=step.id, facts={name: rows[name].to_list() for name in ("number", "part")})


def test_exchange_moves_the_same_rows_when_a_node_dies_during_its_merges(cluster, ray_cluster, tmp_path):
    draft, size, doomed = draft_in(tmp_path), 70, cluster.add_node(**NODE, node_ip_address="127.0.0.5")
    moved, killed = Exchange("numbers", size, size, expected_bytes=1 << 20, memory_bytes=1 << 18), []
    assert moved.merges.writers < size, "there are several merges"

    def progress(done, total, line):
        if not killed and any(doomed.node_id in file.read_text() for file in tmp_path.glob("merge_slowly-*")):
            killed.append(int(done))
            cluster.remove_node(doomed, allow_graceful=False)

    merges = [
        replace(step, function=merge_slowly, inputs=(str(tmp_path), doomed.node_id)) for step in moved.merge_steps()
    ]
    with shared_workers(Context(store=draft.store, home=tmp_path, executor=ray_cluster)) as shared:
        map_parts(exchange.run_step, [Step(put_numbers, number, moved) for number in range(size)], draft, shared)
        map_parts(exchange.run_step, merges, draft, replace(shared, progress=progress))
        read = map_parts(
            exchange.run_step, [Step(list_numbers, number, moved) for number in range(size)], draft, shared
        )
    assert killed
    assert killed[0] < len(merges)
    again = sum(tries(tmp_path, step.id) for step in merges) - len(merges)
    assert again >= 1, "what the node was merging is repeated"
    for partition, record in enumerate(read):
        assert record.facts["number"] == [partition * 1000 + writer for writer in range(size)]
        assert record.facts["part"] == [*range(size)]


def test_next_run_resumes_after_the_head_died(cluster, ray_cluster, tmp_path, monkeypatch):
    """Check that the next run resumes. This is the last test because it stops the cluster."""
    draft = draft_in(tmp_path)
    tasks = [Task(f"p{n:02d}", "slow", str(tmp_path)) for n in range(40)]
    killed = []

    def progress(done, total, line):
        if done >= 5 and not killed:
            killed.append(done)
            cluster.head_node.kill_gcs_server()
            cluster.head_node.kill_raylet()

    context = Context(store=draft.store, home=tmp_path, executor=ray_cluster, progress=progress)
    with pytest.raises(ServiceError, match=r"the Ray cluster at .* is lost: .* `pairmill rerun` continues") as caught:
        map_parts(part, tasks, draft, context)
    assert caught.value.exit_code == 75
    before = {task.id for task in tasks if draft.done(task.id)}
    assert len(before) >= 5
    fast = [Task(task.id, "plain", task.notes) for task in tasks]
    records = map_parts(part, fast, draft, Context(store=draft.store, home=tmp_path, workers=1))
    assert len(records) == 40
    assert all(tries(tmp_path, name) == 1 for name in before), "nothing is made twice"
