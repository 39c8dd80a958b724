"""Kill a node of a Ray cluster in the middle of an exchange, and compare exchanges through the store and through Ray."""

import hashlib
import logging
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.cases.scale_cases import load_only_snapshot
from benchmarks.cases.scale_exchange import ExchangeJob, exchange_through_ray, exchange_through_store
from benchmarks.cases.scale_services import BUCKET, RayNodes
from benchmarks.measure import run_in_process
from dataops.store import FolderStore
from plugins.ray.engine import RayExecutor
from tasks.engine.context import Context
from tasks.engine.stage import make, plan
from tasks.filter.config import FilterConfig
from tasks.filter.stage import FILTER

MEMORY_BYTES = 64 << 20
"""`memory_limit_bytes` of the filter whose node is killed: so little that ten million rows need merges."""
_MERGE = re.compile(r"merge_tables-keys-(\d+)x(\d+)-(\d+)x(\d+)-\d+\.json")


@dataclass(frozen=True)
class Disturbed:
    """Result of a filter on two nodes, one of which is killed."""

    seconds: float
    digest: str
    again: int
    """Number of tasks that ran again because their worker died."""
    failed: int
    """Number of tasks that ran again because they failed."""


def filter_on_ray(store: str, address: str) -> Disturbed:
    """Filter with two tasks on each node. One process calls this function."""
    repeated: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: repeated.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("tasks.engine").addHandler(handler)
    folder = Path(store)
    cluster = RayExecutor(address, cpus=0.5, shared_store=True)
    context = Context(store=FolderStore(folder), home=folder / "home", executor=cluster)
    config = FilterConfig(languages=["en"], memory_limit_bytes=MEMORY_BYTES)
    started = time.perf_counter()
    made = make(plan(FILTER, config, 0, [load_only_snapshot(context, "extract")], context.store), context)
    seconds = time.perf_counter() - started
    again = sum("its worker on Ray died" in line for line in repeated)
    return Disturbed(seconds, made.content_digest, again, sum("attempt" in line for line in repeated))


@contextmanager
def kill_in_exchange(work: Path, nodes: RayNodes) -> Iterator[dict[str, int]]:
    """Kill the second node when half of the merges of the keys are done; or, without merges, one of the partitions.

    Yields: how many tasks of the exchange were done then, of how many.
    """
    over, found = threading.Event(), dict[str, int]()

    def watch() -> None:
        while not over.wait(0.05):
            names = [path.name for path in work.glob("*/_work/*.json")]
            merges = [match for match in map(_MERGE.fullmatch, names) if match]
            done = sum(name.startswith("drop_duplicates-") for name in names)
            total = 1
            if merges:
                writers, partitions, *size = map(int, merges[0].groups())
                done, total = len(merges), -(-writers // size[0]) * -(-partitions // size[1])
            if done >= max(total // 2, 1):
                nodes.kill_second()
                found.update(done=done, total=total)
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def compare_exchanges(
    nodes: RayNodes, folder: Path, shape: tuple[int, int, int, int], times: int, say: Callable[[str], Any]
) -> list[dict[str, Any]]:
    """Exchange through a folder, through S3 and through Ray's object store, in turn; in the last turn, kill a node.

    Args:
        shape: numbers of rows, writers and partitions, and the memory of a merge in bytes.
        times: number of turns without a kill.
    """
    found: list[dict[str, Any]] = []
    for turn in range(times + 1):
        for place in ("folder", "s3", "ray"):
            with tempfile.TemporaryDirectory(dir=folder) as temporary:
                job = ExchangeJob(*shape, notes=temporary)
                uri = f"s3://{BUCKET}/{Path(temporary).name}" if place == "s3" else f"{temporary}/store"
                found.append(_exchange(place, uri, nodes, job, is_killed=turn == times))
            say(f"exchange {place}: {found[-1]}")
    return found


def _exchange(place: str, uri: str, nodes: RayNodes, job: ExchangeJob, *, is_killed: bool) -> dict[str, Any]:
    def tries(kind: str) -> list[int]:
        return [path.stat().st_size for path in Path(job.notes).glob(f"{kind}-[0-9]*")]

    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            if len(tries("write")) == job.writers:
                nodes.kill_second()
                return

    thread = threading.Thread(target=watch)
    if is_killed:
        thread.start()
    before = _cpu_seconds()
    try:
        if place == "ray":
            exchanged, _ = run_in_process(exchange_through_ray, nodes.address, job)
        else:
            exchanged, _ = run_in_process(exchange_through_store, uri, nodes.address, job)
    finally:
        over.set()
    spent = {what: seconds - before[what] for what, seconds in _cpu_seconds().items()}
    if is_killed:
        thread.join()
        nodes.add_second()
    return {
        **{"place": place, "rows": job.rows, "writers": job.writers, "partitions": job.partitions},
        **{"merges": len(job.exchange.merge_steps()), "is_killed": is_killed, "seconds": exchanged.seconds},
        "cpu_seconds": None if is_killed else spent["ray"],
        "server_cpu_seconds": spent["s3"],
        "written_again": sum(tries("write")) - job.writers,
        "reduced_again": sum(tries("reduce")) - job.partitions,
        "digest": hashlib.sha256("".join(exchanged.digests).encode()).hexdigest(),
    }


def _cpu_seconds() -> dict[str, float]:
    """Return the CPU time of the nodes with their workers (of those that live), and of the S3 server."""
    spent = {"ray": 0.0, "s3": 0.0}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            times = process.cpu_times()
            spent["s3" if process.name() == "weed" else "ray"] += times.user + times.system
    return spent
