"""Soak: 50,000 pairs of a local web from extract to pack, on three Ray nodes with faults and on one worker.

    pip install 'pairmill[ray]'
    python -m benchmarks.soak [--number 50000] [--json]

One node is ten times as slow as the others (its workers are stopped for nine tenths of the time). While `download`
runs, a worker is killed as the kernel kills one that is out of memory, another node is killed, and a node is added.
All snapshots must be those of one worker, and at most a tenth of the attempts, and of the time and CPU time that
workers spent on them, may be lost.
"""

import signal
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import psutil

from benchmarks.cases.ray_cluster import NODE, ray_cluster
from benchmarks.cases.soak_work import NotingExecutor
from benchmarks.inputs.image_server import host_address, is_dead, is_late, run_server, write_images
from benchmarks.inputs.images import noise_jpeg
from benchmarks.measure import Row, finish, make_parser, make_printer, require_peers
from dataops.store import FolderStore
from tasks.curate.config import CurateConfig
from tasks.curate.stage import CURATE
from tasks.download.config import DownloadConfig
from tasks.download.stage import DOWNLOAD
from tasks.engine.context import Context
from tasks.engine.stage import make, plan
from tasks.extract.sources.warc import WarcSource
from tasks.extract.stage import EXTRACT
from tasks.filter.config import FilterConfig
from tasks.filter.stage import FILTER
from tasks.pack.config import PackConfig
from tasks.pack.stage import PACK
from tests.crawl_pages import write_warc

FILES, PAGE_IMAGES, SIDE = 20, 25, 64
FAST = [host for host in range(500) if not (is_dead(host) or is_late(host))]
RUN_SECONDS, STOP_SECONDS = 0.05, 0.45
"""How a worker is made ten times as slow."""
FAULTS = ((0.2, "out of memory"), (0.4, "node killed"), (0.6, "node added"))
"""At which share of `download` each happens."""


@contextmanager
def local_web(folder, number):
    """Serve images of which one in 20 is a copy, and write pages that show them; yield the port."""
    write_images(folder, (noise_jpeg(n - n % 20 if n % 20 == 19 else n, SIDE, SIDE) for n in range(number)))
    with run_server(folder) as port:
        pages = [range(start, min(start + PAGE_IMAGES, number)) for start in range(0, number, PAGE_IMAGES)]
        for file in range(FILES):
            shown = {f"http://site{page.start}.example/": draw_page(page, port) for page in pages[file::FILES]}
            write_warc(folder / f"archive/{file:03d}.warc.gz", shown)
        yield port


def draw_page(numbers, port):
    """Return a page that shows images."""
    urls = {n: f"http://{host_address(FAST[n % len(FAST)])}:{port}/{n}.jpg" for n in numbers}
    return "".join(
        f'<img src="{url}" alt="An old boat number {n} in the harbour of the town">' for n, url in urls.items()
    )


class Faults:
    """Does what happens to the nodes of a cluster."""

    def __init__(self, cluster, slow, doomed, say):
        self._cluster, self._slow, self._doomed, self._say = cluster, slow, doomed, say
        self._left, self._done = list(FAULTS), threading.Event()
        self._thread, self._faults = ThreadPoolExecutor(1), []  # the run continues meanwhile
        self.happened = []

    @contextmanager
    def slow_node(self):
        """Stop the workers of a node for most of the time inside the `with`."""

        def slow_down():
            while not self._done.wait(RUN_SECONDS):
                stopped = [
                    one for worker in list_workers(self._slow) for one in (worker, *worker.children(recursive=True))
                ]
                send(stopped, signal.SIGSTOP)
                self._done.wait(STOP_SECONDS)
                send(stopped, signal.SIGCONT)

        thread = threading.Thread(target=slow_down)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()
            for fault in self._faults:
                fault.result()

    def progress(self, done, total, line):
        """Let the next fault happen, if it is time."""
        while self._left and done >= self._left[0][0] * total:
            what = self._left.pop(0)[1]
            if what == "node added":  # Ray sets signal handlers, which only the main thread may
                self._happen(what)
            else:
                self._faults.append(self._thread.submit(self._happen, what))

    def _happen(self, what):
        if what == "out of memory":  # by SIGKILL, as by the kernel
            self._find_worker(self._cluster.head_node).kill()
        elif what == "node killed":
            self._find_worker(self._doomed)
            self._cluster.remove_node(self._doomed, allow_graceful=False)
        else:
            self._cluster.add_node(**NODE, node_ip_address="127.0.0.5")
        self.happened.append(what)
        self._say(what)

    def _find_worker(self, node):
        """Return a worker of a node, once one executes a call."""
        while not self._done.wait(0.1):
            if workers := list_workers(node):
                return workers[0]
        raise RuntimeError("no worker of a node executed a call until the end")


def list_workers(node):
    """Return the processes of a node that execute calls now."""
    with suppress(psutil.Error, KeyError):  # it was killed
        found = psutil.Process(node.all_processes["raylet"][0].process.pid).children()
        return [one for one in found if "_make_call" in " ".join(one.cmdline())]
    return []


def send(processes, number):
    """Send a signal to processes."""
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(number)


def run_stages(context, folder, port, shard):
    """Make the snapshots from extract to pack. The context's progress is that of `download` alone."""
    download = {
        "image_size": 64, "resize_mode": "border", "shard_size": shard, "host_rate": 0, "timeout": 120, "threads": 16,
        "connect_to": {host_address(host): f"{host_address(host)}:{port}" for host in FAST},
    }  # fmt: skip
    stages = [
        (EXTRACT, WarcSource(paths=[f"{folder}/archive/*.warc.gz"])),
        (FILTER, FilterConfig.model_validate({"languages": ["en"]})),
        (DOWNLOAD, DownloadConfig.model_validate(download)),
        (CURATE, CurateConfig()),
        (PACK, PackConfig(shard_size=shard)),
    ]
    made = {}
    for stage, config in stages:
        reads = {"pack": ["curate", "download"]}.get(stage.name, list(made)[-1:])
        planned = plan(stage, config, 0, [made[name] for name in reads], context.store)
        made[stage.name] = make(planned, context if stage is DOWNLOAD else context.without_progress())
        yield made[stage.name]


def main():
    """Run the soak and return its exit code."""
    parser = make_parser(__doc__)
    parser.add_argument("--number", type=int, default=50_000, help="number of pairs")
    options = parser.parse_args()
    require_peers("ray", command="pip install 'pairmill[ray]'")
    say, number = make_printer(options.json), 1000 if options.quick else options.number
    with tempfile.TemporaryDirectory(prefix="pairmill-scratch-soak-") as scratch, ExitStack() as stack:
        folder = Path(scratch)
        (folder / "notes").mkdir()
        port = stack.enter_context(local_web(folder, number))
        cluster = stack.enter_context(ray_cluster())
        (doomed,) = cluster.worker_nodes
        slow = cluster.add_node(**NODE, node_ip_address="127.0.0.4")
        faults = Faults(cluster, slow, doomed, say)
        there = NotingExecutor(cluster.address, notes=folder / "notes")
        manifests = {}
        context = Context(FolderStore(folder), folder, workers=1, inline_rows=0)
        runs = {
            "three nodes": (replace(context, executor=there, progress=faults.progress), faults.slow_node()),
            "one worker": (context, nullcontext()),
        }
        for name, (there_or_here, during) in runs.items():
            began = time.monotonic()
            with during:
                for manifest in run_stages(
                    replace(there_or_here, store=FolderStore(folder / name)), folder, port, number // 50
                ):
                    manifests.setdefault(name, []).append(manifest)
                    counts = manifest.counts.model_dump_json()
                    say(f"{name}: {manifest.stage} {counts} after {time.monotonic() - began:.0f} s")
        ours, one = ([(m.key, m.content_digest) for m in made] for made in manifests.values())
        work, lost = there.lost()
    rows = [
        Row(f"{unit} that were not lost", 1 - work[f"{unit} lost"], 1.0, "all", f"of the {unit}", goal=0.9)
        for unit in ("attempts", "seconds", "CPU seconds")
    ]
    details = {
        "pairs": number,
        "kept": manifests["one worker"][-1].counts.kept,
        "faults": faults.happened,
        "work": work,
        "lost": sorted(lost, key=lambda one: -one[1])[:20],
    }
    return finish("soak", rows, ["ray", "polars"], equal=ours == one, as_json=options.json, details=details)


if __name__ == "__main__":
    raise SystemExit(main())
