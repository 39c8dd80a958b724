"""Compare the CPU time of the stages from extract to pack on local processes, on plugins/ray and on plain Ray tasks.

    pip install 'pairmill[ray]'
    python -m benchmarks.engines [--quick] [--json]

The pairs are those of the local web of benchmarks/soak.py; Ray has two nodes of one core. Plain tasks, with Ray's own
retries, make the calls of all maps. The snapshots must be the same.
"""

import tempfile
import threading
import time
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.cases.ray_cluster import ray_cluster
from benchmarks.measure import Row, finish, make_parser, make_printer, require_peers
from benchmarks.soak import local_web, run_stages
from dataops.store import FolderStore
from plugins.ray.engine import RayExecutor
from tasks.engine.context import Context, LocalExecutor, OpenWorkers

LOOK_SECONDS = 0.2


class _TasksPool(Executor):
    """Makes each call as a plain Ray task."""

    def submit(self, fn, /, *args, **kwargs):
        import ray

        return ray.remote(num_cpus=1, max_retries=3)(fn).remote(*args, **kwargs).future()


@dataclass(frozen=True)
class TasksExecutor:
    """Lets plain Ray tasks make the calls of all maps of a stage."""

    address: str
    shares_disk: bool = False

    @contextmanager
    def open(self, workers, store):
        """Use the cluster."""
        import ray

        ray.init(address=self.address, log_to_driver=False)
        try:
            yield OpenWorkers(_TasksPool(), 2, 1)
        finally:
            ray.shutdown()


@contextmanager
def cpu_meter():
    """Yield a function that returns the CPU time of this process and of all that it has started, in seconds.

    Also of those that have ended: all are looked at several times a second, and what that costs is left out.
    """
    me, known, done, spent = psutil.Process(), {}, threading.Event(), [0.0]
    lock = threading.Lock()

    def look():
        began = time.thread_time()
        with lock:
            for process in (me, *me.children(recursive=True)):
                with suppress(psutil.Error):
                    known[process] = sum(process.cpu_times()[:2])
            spent[0] += time.thread_time() - began
            return sum(known.values()) - spent[0]

    def look_often():
        while not done.wait(LOOK_SECONDS):
            look()

    thread = threading.Thread(target=look_often)
    thread.start()
    try:
        yield look
    finally:
        done.set()
        thread.join()


def main():
    """Run the benchmark and return its exit code."""
    options = make_parser(__doc__).parse_args()
    require_peers("ray", command="pip install 'pairmill[ray]'")
    say, pairs = make_printer(options.json), 400 if options.quick else 2000
    rows, digests, local = [], {}, {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pairmill-scratch-engines-")))
        port = stack.enter_context(local_web(folder, pairs))
        cpu_time = stack.enter_context(cpu_meter())
        address = str(stack.enter_context(ray_cluster()).address)
        engines = {"local processes": LocalExecutor(), "ours on Ray": RayExecutor(address)}
        for name, executor in {**engines, "Ray tasks": TasksExecutor(address)}.items():
            context = Context(FolderStore(folder / name), folder, workers=2, inline_rows=0, executor=executor)
            began = cpu_time()
            for manifest in run_stages(context, folder, port, pairs // 10):
                took, stage = cpu_time() - began, manifest.stage
                rows.append(Row(f"{stage}, {name}, CPU time", took, local.setdefault(stage, took), "local", "s"))
                digests.setdefault(stage, set()).add(manifest.content_digest)
                say(f"{stage}, {name}: {took:.1f} s of CPU time")
                began = cpu_time()
    equal = all(len(found) == 1 for found in digests.values())
    return finish("engines_stages", rows, ["ray"], equal=equal, as_json=options.json)


if __name__ == "__main__":
    raise SystemExit(main())
