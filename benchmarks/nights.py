"""What a night costs that adds 1,000 pairs to a dataset: the second and the hundredth, in a folder and on S3.

    python -m benchmarks.nights [--quick] [--json]

Each night brings a list of 1,000 pairs, of which 200 were in the lists of earlier nights, and runs `extract` to `pack` with
`[grow]`. The images are requested from a server on loopback. Each store has a process, which makes all stages; both make a
night at the same time, so that each night meets the same load. CPU time is that of the process. Requests and bytes are
those to the store: of S3 (SeaweedFS on loopback) those that botocore sends, of a folder the calls of the store and the
bytes that the process reads and writes. Each figure is the mean of five nights: 2 to 6, and the last. The peer is the last
nights, so that a ratio of 1 means that night 100 costs what night 2 does; the goal allows 1.15 times as much. A last row
makes the same dataset in one run, over the lists of all nights.

The outputs are equal if each image was requested once, the dataset has the pairs that a set of URLs leaves, and the pairs
are those of the run over everything.
"""

import csv
import multiprocessing
import os
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from threading import Event
from unittest.mock import patch

import numpy as np
import psutil

from benchmarks.inputs.images import noise_jpeg
from benchmarks.measure import Row, finish, make_parser, make_printer
from dataops.schema import uid
from dataops.store import FolderStore, open_store
from flows.config import RunConfig
from tasks.engine.scratch_folders import scratch_folder
from tasks.growth.versions import find_packs, list_newest
from tests.growing import list_uids, run
from tests.kills.seaweed import SeaweedFS
from tests.servers.loopback import Handler, serving

HOST, NEW, REPEATED, GOAL = "photos.test", 800, 200, 1.15
SIDES = (240, 180)
METHODS = ("size", "find", "put", "put_chunks", "create", "copy", "entries", "delete", "open", "local", "read_each")
make_image = lru_cache(10_000)(noise_jpeg)
"""Both stores ask for the same images at nearly the same time."""


class Images(Handler):
    """Answers /N.jpg with an image of about 12 KB that no other number has, and counts requests in a shared array."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        name = self.path.strip("/").removesuffix(".jpg")
        if name.isdecimal():
            vars(self.server)["asked"][int(name)] += 1
            self.answer(200, make_image(int(name), *SIDES), Content_Type="image/jpeg")
        else:
            self.answer(404)


@contextmanager
def served(names, count):
    """Yield a port of the images for each name, and how often each was requested there; a process of its own serves all."""
    context = multiprocessing.get_context("fork")
    asked, ports = {name: context.Array("i", count, lock=False) for name in names}, context.Queue()

    def serve():
        with ExitStack() as stack:
            servers = {name: stack.enter_context(serving(Images, asked=one)) for name, one in asked.items()}
            ports.put({name: server.server_port for name, server in servers.items()})
            Event().wait()

    process = context.Process(target=serve, daemon=True)
    process.start()
    try:
        yield ports.get(), asked
    finally:
        process.terminate()
        process.join()


@contextmanager
def counted():
    """Count the CPU time of this process, and the requests and bytes to a store, inside the `with`."""
    from botocore.httpsession import URLLib3Session

    costs, process, send, depth = Counter(), psutil.Process(), URLLib3Session.send, [0]

    def count(session, request):
        response = send(session, request)
        costs["S3 requests"] += 1
        sent = (request, response) if request.method != "HEAD" else ()  # an answer to HEAD has the size only
        costs["S3 bytes"] += sum(int(one.headers.get("content-length") or 0) for one in sent)
        return response

    def wrap(method):
        def call(*arguments, **options):
            costs["folder requests"] += not depth[0]
            depth[0] += 1
            try:
                return method(*arguments, **options)
            finally:
                depth[0] -= 1

        return call

    before, started = process.io_counters(), time.process_time()
    wrapped = {name: wrap(getattr(FolderStore, name)) for name in METHODS}
    with patch.object(URLLib3Session, "send", count), patch.multiple(FolderStore, **wrapped):
        yield costs
    after = process.io_counters()
    costs["CPU ms"] += round(1_000 * (time.process_time() - started))
    costs["folder bytes"] += after.read_chars + after.write_chars - before.read_chars - before.write_chars


def list_night(number):
    """Return the images of a night's list: new ones, and some of earlier nights; all of the first night are new."""
    start = REPEATED + (number - 1) * NEW
    return [*range(start, start + NEW), *np.random.default_rng(number).choice(start, REPEATED, replace=False).tolist()]


def put_list(folder, number):
    """Write the list of a night, and return its rows."""
    rows = [
        (f"http://{HOST}/{n}.jpg", f"A picture of many coloured blocks with the number {n}") for n in list_night(number)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{number:03d}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("url", "caption"), *rows])
    return rows


def configure(uri, lists, port, *, grows):
    """Return the config of a night, or of a run over all lists."""
    return RunConfig.model_validate(
        {
            "name": "nights",
            "store": {"uri": uri},
            "source": {"kind": "pairs", "paths": [str(lists / "*.csv")]},
            "download": {"connect_to": {HOST: f"127.0.0.1:{port}"}, "host_rate": 0, "host_concurrency": 16},
            "register": {"model_name": "nights"},
            **({"grow": {}} if grows else {}),
        }
    )


def run_night(uri, lists, port, *, grows):
    """Make a night, or the run over all lists; return its costs and its dataset."""
    with counted() as costs:
        _, manifests = run(configure(uri, lists, port, grows=grows), lists.with_name("home"))
    return costs, manifests["pack"]


def measure(uris, folder, nights, say):
    """Return the costs of each night and of one run over all lists, by store; and whether all outputs are right."""
    costs, equal, pairs, spawn = {name: [] for name in uris}, True, {}, multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        ports, asked = stack.enter_context(served(uris, REPEATED + NEW * nights))
        processes = {name: stack.enter_context(ProcessPoolExecutor(1, spawn)) for name in uris}
        packs, requested = {}, {}
        for number in range(1, nights + 2):
            if grows := number <= nights:
                for name in uris:
                    pairs |= {url: uid(url, caption) for url, caption in put_list(folder / name / "lists", number)}
            else:
                requested = {name: list(one[: len(pairs)]) for name, one in asked.items()}
            made = {
                name: processes[name].submit(run_night, uri, folder / name / "lists", ports[name], grows=grows)
                for name, uri in uris.items()
            }
            for name, future in made.items():
                cost, packs[name] = future.result()
                costs[name].append(cost)
                say(f"{name}, {f'night {number}' if grows else 'all lists'}: {dict(cost)}")
        for name, uri in uris.items():
            store = open_store(uri)
            [newest] = list_newest(store)
            ours = list_uids(store, find_packs(store, newest))
            equal &= ours == set(pairs.values()) == list_uids(store, [packs[name]]) and {*requested[name]} == {1}
    return costs, equal


def list_rows(name, costs):
    """Yield what nights 2 to 6, the last five and the run over all cost on a store."""
    last = f"night {len(costs) - 1}"
    for kind, unit in (("CPU ms", "ms"), (f"{name} requests", "requests"), (f"{name} bytes", "bytes")):
        early, late = (sum(one[kind] for one in part) / 5 for part in (costs[1:6], costs[-6:-1]))
        suffix = "" if name in kind else f", {name}"
        yield Row(f"{kind} of night 2{suffix}", early, late, last, unit, goal=1 / GOAL)
        yield Row(f"{kind} of {last}{suffix}", late, costs[-1][kind], "one run over all", unit)


def main():
    """Run the benchmark and return its exit code."""
    arguments = make_parser(__doc__).parse_args()
    nights, say = 12 if arguments.quick else 100, make_printer(arguments.json)
    with scratch_folder("nights") as scratch:
        server = SeaweedFS(scratch)
        os.environ.update(server.environment)
        server.start()
        try:
            server.create_bucket("nights")
            uris = {"folder": str(scratch / "store"), "S3": "s3://nights/store"}
            costs, equal = measure(uris, scratch, nights, say)
        finally:
            server.stop()
    rows = [row for name, of_store in costs.items() for row in list_rows(name, of_store)]
    return finish("nights", rows, ["boto3", "polars", "pyarrow"], equal=equal, as_json=arguments.json)


if __name__ == "__main__":
    raise SystemExit(main())
