"""What a row costs as there are more of them, and what a cluster and an orchestrator add to that.

    pip install -e '.[bench,ray]'
    python -m benchmarks.scale [--quick] [--json] [--rows 100000,1000000,10000000] [--pictures 20000,200000]
                               [--engines local1,local2,ray] [--only stages,choice,parts,orchestration,dispatch]
                               [--folder DIR]

Each measurement is a process of its own with the memory of all that it started. `extract` and `filter` read made-up pair
lists (benchmarks/inputs/rows.py), `curate` and `pack` made-up pictures of 64 pixels. The peer of a stage is the same engine
at the smallest size, so that the ratio says how the cost of a row grows: the goal of 0.85 is 15% more. Ray is two nodes of
one core on this machine; each engine must make the same bytes. Above a million rows or a hundred thousand pictures, local2
is measured alone. `choice` is curate's choice among made-up rows, without their pictures. `parts` maps 1,000 parts that do
nothing. `orchestration` is the share of `pairmill run`, its servers being up, that is not the work of the two stages.
`dispatch`, which has to be asked for and needs `pip install prefect-ray`, gives such parts to Ray as we do, and each as a
Prefect task run by prefect-ray's task runner.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.cases.scale_cases import Told, forget, make_pictures, run
from benchmarks.cases.scale_choice import make_judged
from benchmarks.cases.scale_job import Job
from benchmarks.cases.scale_places import pairmill, servers, two_nodes
from benchmarks.inputs.rows import make_parts
from benchmarks.measure import Row, TreeMemory, arguments, finish
from dataops.home import CHECKOUT
from dataops.store import FolderStore
from tasks.demo.build import build_demo_web

PACKAGES = ("pyarrow", "polars", "prefect")
MANY_PAIRS, MANY_PICTURES = 1_000_000, 100_000
ENGINE_FOR_MANY = "local2"
FLAT = 0.85
"""Least speed at a greater size, of that at the smallest."""
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
            for engine in self._engines(size, MANY_PAIRS):
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
                for engine in self._engines(size, MANY_PICTURES):
                    for what in ("curate", "pack"):
                        self._measure(self.job(what, engine, Path(store), rows=size), engine)
                    forget(store, "curate", "pack")
        self._compare(("curate", "pack"), sizes)

    def choice(self, sizes: Sequence[int]) -> None:
        """Curate's choice alone."""
        for size in sizes:
            with tempfile.TemporaryDirectory(dir=self.folder) as store:
                make_judged(FolderStore(Path(store)), size)
                for engine in self._engines(size, MANY_PAIRS):
                    self._measure(self.job("choice", engine, Path(store), rows=size), engine)
        self._compare(("choice",), sizes)

    def _engines(self, size: int, many: int) -> Sequence[str]:
        """Those that so many rows are measured on: many take minutes, and the engines were compared on fewer."""
        return [e for e in self.engines if e == ENGINE_FOR_MANY] or self.engines if size > many else self.engines

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
                costs = [c for c in self.costs if (c["stage"], c["engine"]) == (what, engine)]
                first = costs[0]
                for cost in costs:
                    case, goal = f"{what} {cost['rows']} {engine}", FLAT if cost is not first else None
                    peer = f"at {first['rows']:,} rows"
                    speeds = [c["rows"] / c["seconds"] for c in (cost, first)]
                    self.rows.append(Row(case, *speeds, peer, "rows/s", goal))
                    for kind in ("tree_bytes", "driver_bytes"):
                        sizes_mb = [c[kind] / 1e6 for c in (cost, first)]
                        self.rows.append(Row(f"{case} {kind.partition('_')[0]} memory", *sizes_mb, peer, "MB"))

    def parts(self, number: int) -> None:
        """How many parts a second, that do nothing."""
        speeds = {}
        for engine in self.engines:
            with tempfile.TemporaryDirectory(dir=self.folder) as store:
                speeds[engine] = number / alone(self.job("parts", engine, Path(store), rows=number)).told.seconds
            self.say(f"parts {engine}: {1000 / speeds[engine]:.2f} ms each of {number:,}")
        peer = self.engines[0]
        self.rows += [Row(f"parts {engine}", speed, speeds[peer], peer, "parts/s") for engine, speed in speeds.items()]

    def dispatch(self, number: int) -> None:
        """Parts that do nothing on Ray: as we give them to it, and each as a Prefect task run."""
        spent = {}
        with tempfile.TemporaryDirectory(dir=self.folder) as temporary, servers(Path(temporary)):
            os.environ["PAIRMILL_HOME"] = str(Path(temporary) / "home")  # by which the child finds the servers
            for what in ("parts", "prefect-ray"):
                job = self.job(what, "ray", Path(temporary) / what, rows=number)
                spent[what] = alone(job).told
                self.say(f"dispatch {what}: {1000 * spent[what].seconds / number:.2f} ms each of {number:,}")
        speeds = [number / spent[what].seconds for what in ("parts", "prefect-ray")]
        self.rows.append(Row("dispatch ray", *speeds, "prefect-ray's task runner", "parts/s"))

    def orchestration(self, size: int) -> None:
        """What a run takes beside the stages' own work."""
        paths, _ = make_parts(self.folder / "pairs", size)
        web = build_demo_web(self.folder / "web", limit=60)  # the config names a suite, which is not run
        with tempfile.TemporaryDirectory(dir=self.folder) as temporary:
            home = Path(temporary)
            config = home / "run.toml"
            values = {"store": home / "store", "lists": json.dumps([str(path) for path in paths]), "root": CHECKOUT}
            config.write_text(CONFIG.format(**values, data=web.suite_root, workers=2))
            with servers(home):
                started = time.perf_counter()
                pairmill(home, "run", str(config), "--until", "filter")
                wall = time.perf_counter() - started
            work = self._work(size, home / "bare", tuple(map(str, paths)))
        self.say(f"orchestration {size:,}: run {wall:.1f} s, the stages alone {work:.1f} s: {1 - work / wall:.1%}")
        self.rows.append(Row(f"orchestration {size}", work / wall, 1, "the run", "share of the run that is work", 0.95))

    def _work(self, size: int, store: Path, lists: tuple[str, ...]) -> float:
        """Seconds of the two stages by themselves: as they were measured in this run, where they were."""
        measured = [c for c in self.costs if (c["engine"], c["rows"]) == ("local2", size)]
        known = {c["stage"]: c["seconds"] for c in measured}
        jobs = [self.job(what, "local2", store, rows=size, lists=lists) for what in ("extract", "filter")]
        return sum(known.get(job.what) or alone(job).told.seconds for job in jobs)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def main() -> int:
    """Run the benchmark."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--rows", default="100000,1000000,10000000", help="sizes for extract and filter")
    parser.add_argument("--pictures", default="20000,200000", help="sizes for curate and pack")
    parser.add_argument("--engines", default="local1,local2,ray")
    parser.add_argument("--only", default="stages,choice,parts,orchestration", help="what to measure")
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
        if "ray" in engines and {*only} - {"orchestration"}:
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
    if "choice" in only:
        scale.choice(_numbers(options.rows))
    if "parts" in only:
        scale.parts(200 if options.quick else 1000)
    if "dispatch" in only:
        scale.dispatch(1000)


def print_line(line: str) -> None:
    """A line of progress."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
