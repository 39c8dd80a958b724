"""Measure the cost of a row as the number of rows grows.

    pip install -e '.[bench,ray]'
    python -m benchmarks.scale [--quick] [--json] [--rows 100000,1000000,10000000]
                               [--engines local1,local2,ray] [--folder DIR] [--filter-memory 4294967296]

Each measurement is its own process, with the memory of all its descendants. `extract` and `filter` read synthetic
pair lists (benchmarks/inputs/rows.py). The peer of a stage is the same engine at the smallest size, so that the ratio
shows how the cost of a row grows: the goal of 0.85 is 15% more. Ray is two nodes of one core on this machine; each
engine must write the same bytes. Above a million rows, only local2 is measured.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.cases.scale_cases import JobResult, run_job
from benchmarks.cases.scale_job import Job
from benchmarks.cases.scale_services import ray_cluster
from benchmarks.inputs.rows import make_parts
from benchmarks.measure import Row, finish, make_parser, make_printer, require_peers, run_in_process

PACKAGES = ("pyarrow", "polars", "prefect")
MANY_PAIRS = 1_000_000
ENGINE_FOR_MANY = "local2"
FLAT = 0.85
"""Minimum speed at a larger size, as a share of that at the smallest."""


class Scale:
    """The measurements and their rows."""

    filter_memory = 4 << 30

    def __init__(self, folder: Path, engines: Sequence[str], say: Callable[[str], Any]):
        self.folder, self.engines, self.say = folder, engines, say
        self.cluster: str | None = None
        """Address of the Ray cluster."""
        self.rows: list[Row] = []
        self.costs: list[dict[str, Any]] = []
        """Costs of each stage, size and engine."""
        self.equal = True

    def job(self, what: str, engine: str, store: Path, **more: Any) -> Job:
        """Return a job on an engine: `local1`, `local2`, ... or `ray`."""
        more["filter_memory"] = self.filter_memory
        if engine == "ray":
            return Job(str(store), what, 2, self.cluster, **more)
        return Job(str(store), what, int(engine.removeprefix("local")), **more)

    def pairs(self, sizes: Sequence[int]) -> None:
        """Measure extract and filter."""
        for size in sizes:
            paths, _ = make_parts(self.folder / "pairs", size)
            for engine in self._engines(size):
                with tempfile.TemporaryDirectory(dir=self.folder) as store:
                    for what in ("extract", "filter"):
                        self._measure(
                            self.job(what, engine, Path(store), rows=size, lists=tuple(map(str, paths))), engine
                        )
        self._compare(sizes)

    def _engines(self, size: int) -> Sequence[str]:
        """Return the engines for a size: large ones take minutes, and the engines are compared on smaller ones."""
        return [e for e in self.engines if e == ENGINE_FOR_MANY] or self.engines if size > MANY_PAIRS else self.engines

    def _measure(self, job: Job, engine: str) -> None:
        found, memory = run_in_process(run_job, job)
        result: JobResult = found
        sizes = {"tree_bytes": memory.peak, "own_bytes": memory.own}
        self.costs.append({"stage": job.what, "rows": job.rows, "engine": engine, **sizes, **asdict(result)})
        self.say(
            f"{job.what} {job.rows:,} {engine}: {result.seconds:.1f} s, {result.cpu_seconds:.1f} s of CPU, driver "
            f"{result.driver_bytes / 1e6:,.0f} MB, all {memory.peak / 1e6:,.0f} MB, without files "
            f"{memory.own / 1e6:,.0f} MB, {result.counts}"
        )

    def _compare(self, sizes: Sequence[int]) -> None:
        for what in ("extract", "filter"):
            for size in sizes:
                digests = {c["digest"] for c in self.costs if (c["stage"], c["rows"]) == (what, size)}
                self.equal = self.equal and len(digests) == 1
            for engine in self.engines:
                costs = [c for c in self.costs if (c["stage"], c["engine"]) == (what, engine)]
                first = costs[0]
                for cost in costs:
                    case, goal = f"{what} {cost['rows']} {engine}", FLAT if cost is not first else None
                    peer = f"at {first['rows']:,} rows"
                    speeds = [c["rows"] / c["seconds"] for c in (cost, first)]
                    self.rows.append(Row(case, *speeds, peer, "rows/s", goal))
                    for kind in ("tree_bytes", "own_bytes", "driver_bytes"):
                        sizes_mb = [c[kind] / 1e6 for c in (cost, first)]
                        self.rows.append(Row(f"{case} {kind.partition('_')[0]} memory", *sizes_mb, peer, "MB"))


def main() -> int:
    """Run the benchmark."""
    parser = make_parser(__doc__ or "")
    parser.add_argument("--rows", default="100000,1000000,10000000", help="sizes")
    parser.add_argument("--engines", default="local1,local2,ray")
    parser.add_argument("--folder", type=Path, help="folder of the stores, which keeps the pairs")
    parser.add_argument("--filter-memory", type=int, default=4 << 30, help="filter.memory_limit_bytes")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.engines = "20000,40000", "local1"
    say = make_printer(options.json)
    engines = options.engines.split(",")
    require_peers("wordfreq")
    require_peers(*(["ray"] if "ray" in engines else []), command="pip install -e '.[ray]'")
    with tempfile.TemporaryDirectory(prefix="pairmill-benchmark-") as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        scale = Scale(folder, engines, say)
        scale.filter_memory = options.filter_memory
        with ExitStack() as servers:
            if "ray" in engines:
                scale.cluster = str(servers.enter_context(ray_cluster()).address)
            scale.pairs([int(number) for number in options.rows.split(",")])
    packages = (*PACKAGES, *(["ray"] if "ray" in engines else []))
    return finish(
        "scale", scale.rows, packages, equal=scale.equal, as_json=options.json, details={"stages": scale.costs}
    )


if __name__ == "__main__":
    sys.exit(main())
