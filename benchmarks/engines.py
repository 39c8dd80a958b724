"""Compare ways to run the map of a stage on two Ray nodes of one core: ours, Ray's tasks, Ray Data and Daft.

Each runs extract's own function on the same files into a store, so that the parts must be equal. The second run has a
worker that is killed once in a task, the third one a task that kills its worker each time.

    pip install 'pairmill[ray]' daft
    python -m benchmarks.engines

`--stages` runs all stages from extract to pack on the web of benchmarks/soak.py instead, on local processes, plugins/ray
and plain Ray tasks, which make the calls of all maps; the snapshots must be the same.
"""

import inspect
import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.cases.engine_cases import ENGINES, TasksExecutor, Try, run_engine
from benchmarks.cases.scale_services import ray_cluster
from benchmarks.measure import Row, finish, make_parser, make_printer, require_peers
from benchmarks.soak import local_web, run_stages
from dataops.store import FolderStore
from plugins.ray.engine import RayExecutor
from tasks.engine.context import Context, LocalExecutor

KILLS = (0, 1, 9)
"""How often a worker is killed in a task, by run."""
LOOK_SECONDS = 0.2


@contextmanager
def cpu_meter() -> Iterator[Callable[[], float]]:
    """Yield a function that returns the CPU time of this process and of all that it has started, in seconds.

    Also of those that have ended: all are looked at several times a second, and what that costs is left out.
    """
    me, known, done, spent = psutil.Process(), dict[psutil.Process, float](), threading.Event(), [0.0]
    lock = threading.Lock()

    def look() -> float:
        began = time.thread_time()
        with lock:
            for process in (me, *me.children(recursive=True)):
                with suppress(psutil.Error):
                    known[process] = sum(process.cpu_times()[:2])
            spent[0] += time.thread_time() - began
            return sum(known.values()) - spent[0]

    def look_often() -> None:
        while not done.wait(LOOK_SECONDS):
            look()

    thread = threading.Thread(target=look_often)
    thread.start()
    try:
        yield look
    finally:
        done.set()
        thread.join()


def measure(name: str, one: Try, limit: float, cpu_time: Callable[[], float]) -> dict[str, Any]:
    """Run an engine; return its times, how it ended, and the tasks that finished."""
    (one.folder / "kills").mkdir(parents=True)
    (one.folder / "store").mkdir()
    for number in range(one.kills):
        (one.folder / "kills" / str(number)).touch()
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=run_engine, args=(name, one, theirs))
    started, cpu = time.perf_counter(), cpu_time()
    process.start()
    theirs.close()
    try:
        how = ours.recv() if ours.poll(limit) else f"has not ended after {limit:.0f} s"
    except EOFError:
        how = "its driver dies"
    took = time.perf_counter() - started
    process.terminate()
    process.join(10)
    process.kill()
    process.join()
    cpu = cpu_time() - cpu
    parts = {part: (one.folder / "store/extract/k" / part).read_bytes() for part in sorted(list_parts(one))}
    deaths = one.kills - len(list((one.folder / "kills").iterdir()))
    return {"how": how, "seconds": took, "cpu": cpu, "parts": parts, "deaths": deaths}


def list_parts(one: Try) -> list[str]:
    """Return the names of the parts that were written."""
    return [path.name for path in (one.folder / "store/extract/k").glob("part-*.parquet")]


def put_lists(folder: Path, files: int, rows: int) -> tuple[str, ...]:
    """Write lists of pairs."""
    folder.mkdir()
    for number in range(files):
        urls = [f"http://h{n % 97}.example/{number}/{n}.jpg" for n in range(rows)]
        texts = [f"An old boat number {n} in the harbour of {n % 41}" for n in range(rows)]
        pq.write_table(pa.table({"url": urls, "text": texts}), folder / f"{number:03d}.parquet")
    return tuple(str(path) for path in sorted(folder.iterdir()))


def measure_stages(say: Callable[[str], Any], pairs: int) -> tuple[list[Row], bool]:
    """Return the CPU time of each stage on each engine, and whether all snapshots are the same."""
    rows, digests = list[Row](), dict[str, list[str]]()
    local = dict[str, float]()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pairmill-scratch-engines-")))
        port = stack.enter_context(local_web(folder, pairs))
        cpu_time = stack.enter_context(cpu_meter())
        cluster = stack.enter_context(ray_cluster())
        address = str(cluster.address)
        executors = (LocalExecutor(), RayExecutor(address), TasksExecutor(address))
        for name, executor in zip(ENGINES, executors, strict=False):
            context = Context(FolderStore(folder / name), folder, workers=2, inline_rows=0, executor=executor)
            began, cpu = time.perf_counter(), cpu_time()
            for manifest in run_stages(context, folder, port, pairs // 10):
                took, stage = cpu_time() - cpu, manifest.stage
                rows.append(Row(f"{stage}, {name}, CPU time", took, local.setdefault(stage, took), "local", "s"))
                digests.setdefault(stage, []).append(manifest.content_digest)
                say(f"{stage}, {name}: {took:.1f} s of CPU time, {time.perf_counter() - began:.1f} s")
                began, cpu = time.perf_counter(), cpu_time()
    return rows, all(len(set(found)) == 1 for found in digests.values())


def main() -> int:
    """Run the benchmark and return its exit code."""
    parser = make_parser(__doc__ or "")
    parser.add_argument("--limit", type=float, default=75.0, help="seconds after which a run counts as one that hangs")
    parser.add_argument("--stages", action="store_true", help="run all stages from extract to pack, without faults")
    options = parser.parse_args()
    peers = ("ray",) if options.stages else ("ray", "daft")
    require_peers(*peers, command="pip install 'pairmill[ray]' daft")
    say, rows, details, equal = make_printer(options.json), list[Row](), list[dict[str, Any]](), True
    if options.stages:
        rows, equal = measure_stages(say, 400 if options.quick else 2000)
        return finish("engines_stages", rows, ["ray"], equal=equal, as_json=options.json)
    with (
        tempfile.TemporaryDirectory(prefix="pairmill-scratch-engines-") as scratch,
        cpu_meter() as cpu_time,
        ray_cluster() as cluster,
    ):
        lists = put_lists(Path(scratch) / "lists", 12, 20_000 if options.quick else 100_000)
        expected: dict[str, bytes] = {}
        for name, function in ENGINES.items():
            found = []
            for kills in KILLS:
                one = Try(str(cluster.address), Path(scratch) / f"{name}-{kills}", lists, kills)
                found.append(measure(name, one, options.limit, cpu_time))
                say(f"{name}, {kills} kills: {found[-1]['how']}, {len(found[-1]['parts'])} of {len(lists)} parts")
            expected = expected or found[0]["parts"]
            equal &= all(expected[part] == data for run in found for part, data in run["parts"].items())
            equal &= len(found[0]["parts"]) == len(lists)
            calm = found[0]
            local = float(details[0]["cpu_seconds"]) if details else calm["cpu"]
            rows.append(Row(f"{name}, CPU time", calm["cpu"], local, "local processes", "s"))
            details.append({
                "engine": name, "seconds": calm["seconds"], "cpu_seconds": calm["cpu"], "calm": calm["how"],
                "lines": len(inspect.getsource(function).splitlines()),
                "killed once": found[1]["how"], "parts after that": len(found[1]["parts"]),
                "killed always": found[2]["how"], "parts then": len(found[2]["parts"]), "tries then": found[2]["deaths"],
            })  # fmt: skip
    return finish("engines", rows, ["ray"], equal=equal, as_json=options.json, details={"engines": details})


if __name__ == "__main__":
    sys.exit(main())
