"""What a row costs as there are more of them, and what a cluster and an orchestrator add to that.

    pip install -e '.[bench,ray]'
    python -m benchmarks.scale [--quick] [--json] [--rows 100000,1000000,10000000] [--pictures 100000,1000000]
                               [--engines local1,local2,ray] [--only stages,parts,orchestration] [--folder DIR]

Each measurement is a process of its own with the memory of all that it started. `extract` and `filter` read made-up pair
lists (benchmarks/filter_rows.py), `curate` and `pack` made-up pictures of 64 pixels. The peer of a stage is the same engine
at the smallest size, so that the ratio says how the cost of a row grows: the goal of 0.85 is 15% more. Ray is two nodes of
one core on this machine; each engine must make the same bytes. `parts` maps 1,000 parts that do nothing. `orchestration`
is the share of `pairmill run`, its servers being up, that is not the work of the two stages.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.filter_rows import make_parts
from benchmarks.measure import Row, TreeMemory, arguments, finish
from benchmarks.scale_cases import Job, Told, forget, make_pictures, run
from dataops.store import FolderStore
from tasks.demo.build import build_demo_web

PACKAGES = ("pyarrow", "polars", "prefect")
FLAT = 0.85
"""Least speed at a greater size, of that at the smallest."""
ROOT = Path(__file__).resolve().parent.parent
CONFIG = """
name = "scale"
store.uri = "{store}"
source = {{ kind = "pairs", paths = {lists} }}
filter.languages = ["en"]
download.contact = "https://example.org/benchmark"
evaluate = {{ suite = "{root}/configs/suites/demo.toml", data = "{data}" }}
register.model_name = "scale"
execution.workers = {workers}
"""


class Measured(NamedTuple):
    """What a process told, and the greatest memory of it and all that it started, in bytes."""

    told: Told
    tree_bytes: int


def _child(job: Job, sink: Any) -> None:
    sink.send(run(job))


def alone(job: Job) -> Measured:
    """Do a job in a process of its own."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(job, sender))
    process.start()
    sender.close()
    with TreeMemory(process.pid or 0) as memory:
        try:
            return Measured(receiver.recv(), memory.peak)
        finally:
            process.join()


@contextmanager
def two_nodes() -> Iterator[str]:
    """The address of a cluster of Ray on loopback, of two nodes with a core each."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 1, "object_store_memory": 80 << 20}
    cluster = Cluster(
        initialize_head=True, head_node_args={**size, "node_ip_address": "127.0.0.2", "include_dashboard": False}
    )
    try:
        cluster.add_node(**size, node_ip_address="127.0.0.3")
        yield str(cluster.address)
    finally:
        cluster.shutdown()


class Scale:
    """The measurements, and the rows that they give."""

    def __init__(self, folder: Path, engines: Sequence[str], address: str | None, say: Callable[[str], Any]):
        self.folder, self.engines, self.address, self.say = folder, engines, address, say
        self.rows: list[Row] = []
        self.costs: list[dict[str, Any]] = []
        """Of each stage, size and engine: what benchmarks/plan.py reads."""
        self.equal = True

    def job(self, what: str, engine: str, store: Path, **more: Any) -> Job:
        """A job on an engine: `local1`, `local2`, ... or `ray`."""
        if engine == "ray":
            return Job(str(store), what, 2, self.address, **more)
        return Job(str(store), what, int(engine.removeprefix("local")), **more)

    def pairs(self, sizes: Sequence[int]) -> None:
        """Extract and filter."""
        for size in sizes:
            paths, _ = make_parts(self.folder / "pairs", size)
            for engine in self.engines:
                with tempfile.TemporaryDirectory(dir=self.folder) as store:
                    for what in ("extract", "filter"):
                        self._measure(
                            self.job(what, engine, Path(store), rows=size, lists=tuple(map(str, paths))), engine
                        )
        self._compare(("extract", "filter"), sizes)

    def pictures(self, sizes: Sequence[int]) -> None:
        """Curate and pack."""
        for size in sizes:
            with tempfile.TemporaryDirectory(dir=self.folder) as store:
                make_pictures(FolderStore(Path(store)), size)
                for engine in self.engines:
                    for what in ("curate", "pack"):
                        self._measure(self.job(what, engine, Path(store), rows=size), engine)
                    forget(store, "curate", "pack")
        self._compare(("curate", "pack"), sizes)

    def _measure(self, job: Job, engine: str) -> None:
        measured = alone(job)
        told = measured.told
        self.costs.append(
            {"stage": job.what, "rows": job.rows, "engine": engine, "tree_bytes": measured.tree_bytes, **asdict(told)}
        )
        self.say(
            f"{job.what} {job.rows:,} {engine}: {told.seconds:.1f} s, {told.cpu_seconds:.1f} s of CPU, driver "
            f"{told.driver_bytes / 1e6:,.0f} MB, all {measured.tree_bytes / 1e6:,.0f} MB, {told.counts}"
        )

    def _compare(self, stages: Sequence[str], sizes: Sequence[int]) -> None:
        for what in stages:
            for size in sizes:
                made = {c["digest"] for c in self.costs if (c["stage"], c["rows"]) == (what, size)}
                self.equal = self.equal and len(made) == 1
            for engine in self.engines:
                first, *others = (self._cost(what, size, engine) for size in sizes)
                for cost in (first, *others):
                    case, goal = f"{what} {cost['rows']} {engine}", FLAT if cost is not first else None
                    peer = f"at {first['rows']:,} rows"
                    speeds = [c["rows"] / c["seconds"] for c in (cost, first)]
                    self.rows.append(Row(case, *speeds, peer, "rows/s", goal))
                    for kind in ("tree_bytes", "driver_bytes"):
                        sizes_mb = [c[kind] / 1e6 for c in (cost, first)]
                        self.rows.append(Row(f"{case} {kind.partition('_')[0]} memory", *sizes_mb, peer, "MB"))

    def _cost(self, what: str, size: int, engine: str) -> dict[str, Any]:
        return next(c for c in self.costs if (c["stage"], c["rows"], c["engine"]) == (what, size, engine))

    def parts(self, number: int) -> None:
        """How many parts a second, that do nothing."""
        speeds = {}
        for engine in self.engines:
            with tempfile.TemporaryDirectory(dir=self.folder) as store:
                speeds[engine] = number / alone(self.job("parts", engine, Path(store), rows=number)).told.seconds
            self.say(f"parts {engine}: {1000 / speeds[engine]:.2f} ms each of {number:,}")
        peer = self.engines[0]
        self.rows += [Row(f"parts {engine}", speed, speeds[peer], peer, "parts/s") for engine, speed in speeds.items()]

    def orchestration(self, size: int) -> None:
        """What a run takes beside the stages' own work."""
        paths, _ = make_parts(self.folder / "pairs", size)
        web = build_demo_web(self.folder / "web", limit=60)  # the config names a suite, which is not run
        with tempfile.TemporaryDirectory(dir=self.folder) as temporary:
            home = Path(temporary)
            config = home / "run.toml"
            values = {"store": home / "store", "lists": json.dumps([str(path) for path in paths]), "root": ROOT}
            config.write_text(CONFIG.format(**values, data=web.suite_root, workers=2))
            try:
                _pairmill(home, "up")
                started = time.perf_counter()
                _pairmill(home, "run", str(config), "--until", "filter")
                wall = time.perf_counter() - started
            finally:
                _pairmill(home, "down")
            bare = home / "bare"
            jobs = [self.job(w, "local2", bare, rows=size, lists=tuple(map(str, paths))) for w in ("extract", "filter")]
            work = sum(alone(job).told.seconds for job in jobs)
        self.say(f"orchestration {size:,}: run {wall:.1f} s, the stages alone {work:.1f} s: {1 - work / wall:.1%}")
        self.rows.append(Row(f"orchestration {size}", work / wall, 1, "the run", "share of the run that is work", 0.95))


def _pairmill(home: Path, *command: str) -> None:
    environment = {**os.environ, "PAIRMILL_HOME": str(home / "home"), "PYTHONPATH": str(ROOT)}
    code = "from flows.cli import main; main()"
    subprocess.run(
        [sys.executable, "-c", code, *command], env=environment, cwd=home, check=True, stdout=subprocess.DEVNULL
    )


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def main() -> int:
    """Run the benchmark."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--rows", default="100000,1000000,10000000", help="sizes for extract and filter")
    parser.add_argument("--pictures", default="100000,1000000", help="sizes for curate and pack")
    parser.add_argument("--engines", default="local1,local2,ray")
    parser.add_argument("--only", default="stages,parts,orchestration", help="what to measure")
    parser.add_argument("--folder", type=Path, help="where pairs are kept for the next time, and all stores are made")
    options = parser.parse_args()
    if options.quick:
        quick = {"rows": "20000,40000", "pictures": "2000", "engines": "local1", "only": "stages,parts"}
        vars(options).update(quick)
    say: Callable[[str], Any] = (lambda line: None) if options.json else print_line
    engines, only = options.engines.split(","), options.only.split(",")
    with tempfile.TemporaryDirectory(prefix="pairmill-benchmark-") as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        scale = Scale(folder, engines, None, say)
        if "ray" in engines and {"stages", "parts"} & {*only}:
            with two_nodes() as address:
                scale.address = address
                _measure(scale, only, options)
        else:
            _measure(scale, only, options)
        if "orchestration" in only:
            for size in _numbers(options.rows)[1:] or _numbers(options.rows):
                scale.orchestration(size)
    packages = (*PACKAGES, *(["ray"] if "ray" in engines else []))
    details = {"stages": scale.costs}
    return finish("scale", scale.rows, packages, equal=scale.equal, as_json=options.json, details=details)


def _measure(scale: Scale, only: Sequence[str], options: Any) -> None:
    if "stages" in only:
        scale.pairs(_numbers(options.rows))
        scale.pictures(_numbers(options.pictures))
    if "parts" in only:
        scale.parts(200 if options.quick else 1000)


def print_line(line: str) -> None:
    """A line of progress."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
