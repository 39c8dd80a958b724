"""Measure the cost of a row as the number of rows grows.

    pip install -e '.[bench,ray]'
    python -m benchmarks.scale [--quick] [--json] [--rows 100000,1000000,10000000]
                               [--engines local1,local2,ray] [--folder DIR]

Each measurement is its own process, with the memory of all its descendants. `extract` and `filter` read synthetic
pair lists (benchmarks/inputs/rows.py). The peer of a stage is the same engine at the smallest size, so that the ratio
shows how the cost of a row grows: the goal of 0.85 is 15% more. Ray is two nodes of one core on this machine; each
engine must write the same bytes. Above a million rows, only local2 is measured.
"""

import multiprocessing
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.cases.ray_cluster import ray_cluster
from benchmarks.inputs.rows import make_parts
from benchmarks.measure import Row, finish, make_parser, make_printer, peak_bytes, require_peers, run_in_process
from dataops.process import cpu_seconds
from dataops.store import FolderStore
from plugins.own_images.pairs import PairsSource
from plugins.ray.engine import RayExecutor
from tasks.engine.context import Context, LocalExecutor
from tasks.engine.stage import make, plan, reuse
from tasks.extract.stage import EXTRACT
from tasks.filter.config import FilterConfig
from tasks.filter.stage import FILTER

MANY_PAIRS, ENGINE_FOR_MANY = 1_000_000, "local2"
FLAT = 0.85
"""Minimum speed at a larger size, as a share of that at the smallest."""


def make_stage(stage, folder, lists, engine, cluster):
    """Make the snapshot of a stage; return what it took.

    Args:
        engine: `local1`, `local2`, ... or `ray`.
        cluster: address of the Ray cluster.
    """
    started, store = time.perf_counter(), FolderStore(folder)
    workers = 2 if engine == "ray" else int(engine.removeprefix("local"))
    executor = RayExecutor(cluster, workers) if engine == "ray" else LocalExecutor()
    context = Context(store=store, home=folder / "home", workers=workers, executor=executor)
    planned = plan(EXTRACT, PairsSource(paths=list(lists)), 0, [], store)
    if stage == "filter":
        planned = plan(
            FILTER, FilterConfig(languages=["en"], memory_limit_bytes=4 << 30), 0, [reuse(planned, context)], store
        )
    made, seconds = make(planned, context), time.perf_counter() - started
    for worker in multiprocessing.active_children():  # their CPU time is known after a wait
        worker.join()
    took = {"seconds": seconds, "cpu_seconds": cpu_seconds(), "driver_bytes": peak_bytes()}
    return {**took, "digest": made.content_digest, "counts": made.counts.model_dump_json()}


def compare(costs):
    """Return the rows of a stage on an engine, whose first size is the peer of all."""
    first, rows = costs[0], []
    peer = f"at {first['rows']:,} rows"
    for cost in costs:
        case = f"{cost['stage']} {cost['rows']} {cost['engine']}"
        speeds = [one["rows"] / one["seconds"] for one in (cost, first)]
        rows.append(Row(case, *speeds, peer, "rows/s", None if cost is first else FLAT))
        for kind in ("tree_bytes", "own_bytes", "driver_bytes"):
            memory = [one[kind] / 1e6 for one in (cost, first)]
            rows.append(Row(f"{case} {kind.partition('_')[0]} memory", *memory, peer, "MB"))
    return rows


def main():
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", default="100000,1000000,10000000", help="sizes")
    parser.add_argument("--engines", default="local1,local2,ray")
    parser.add_argument("--folder", type=Path, help="folder of the stores, which keeps the pairs")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.engines = "20000,40000", "local1"
    say, engines = make_printer(options.json), options.engines.split(",")
    ray = ["ray"] if "ray" in engines else []
    require_peers("wordfreq")
    require_peers(*ray, command="pip install -e '.[ray]'")
    costs = {}
    digests = {}
    with tempfile.TemporaryDirectory(prefix="pairmill-benchmark-") as temporary, ExitStack() as servers:
        folder = (options.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        cluster = str(servers.enter_context(ray_cluster()).address) if ray else ""
        for size in map(int, options.rows.split(",")):
            lists = [str(path) for path in make_parts(folder / "pairs", size)]
            chosen = [one for one in engines if size <= MANY_PAIRS or one == ENGINE_FOR_MANY]
            for engine in chosen or engines:
                with tempfile.TemporaryDirectory(dir=folder) as store:
                    for stage in ("extract", "filter"):
                        found, memory = run_in_process(make_stage, stage, Path(store), lists, engine, cluster)
                        cost = {"stage": stage, "rows": size, "engine": engine, **found}
                        cost |= {"tree_bytes": memory.peak, "own_bytes": memory.own}
                        costs.setdefault((stage, engine), []).append(cost)
                        digests.setdefault((stage, size), set()).add(cost["digest"])
                        say(str(cost))
    return finish(
        "scale", [row for one in costs.values() for row in compare(one)], ["pyarrow", "polars", "prefect", *ray],
        equal=all(len(found) == 1 for found in digests.values()), as_json=options.json,
        details={"stages": [cost for one in costs.values() for cost in one]},
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
