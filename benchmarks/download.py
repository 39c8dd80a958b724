"""Compare downloading with img2dataset 1.47's `download()`: the same list, server and options, in turn.

    python -m benchmarks.download [--quick] [--json] [--number 20000] [--case all]

The server (benchmarks/inputs/image_server.py) has 20,000 different JPEGs, crops of three real photographs, on hosts on
loopback, 40 images each. Ours also requests robots.txt, tdmrep.json and ai.txt of each host, and limits its rates.
Each side is its own process with two workers of 64 threads, shards of 10,000 rows (the default of both; one for each worker
of a shorter list), images of 256 pixels; its wall time with imports is measured (A B A B, medians). Cases: `all`, in which
all hosts respond; `slow-hosts`, in which 2.5% of the hosts respond after 4 s and 2.5% never (the timeout is 10 s), and the
same with 8 images a host.
Both sides must return the same bytes for each image that both have, and 99% of the images must be of both: on a busy
machine some of either run into the timeout.

The rows `by CPU` compare the CPU time of all processes. The limit is libcurl alone (pycurl), in as many processes with as
many connections, which keeps nothing.

`--quick` uses 4,000 images, once; of its time the start of both sides is a larger part (img2dataset's takes 14 s of CPU
time).
"""

import hashlib
import json
import multiprocessing
import os
import statistics
import tarfile
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.inputs.image_server import HOSTS, host_address, is_dead, is_late, run_server, write_photographs
from benchmarks.measure import Row, finish, make_parser, make_printer, require_peers, run_in_process
from dataops.process import cpu_seconds
from dataops.schema import FILTERED, conform, uid

SIDE, THREADS, WORKERS, TIMEOUT = 256, 64, 2, 10
CASES = {"all": (40, 1.0), "slow-hosts": (40, 1.3), "slow-hosts, 8 a host": (8, 1.3)}
"""Images of a host, and the goal."""


def write_list(path, number, port, hosts):
    """Write the list of image URLs, on the hosts in turn, each with a caption."""
    urls = [f"http://{host_address(hosts[n % len(hosts)])}:{port}/{n}.jpg" for n in range(number)]
    captions = [f"picture {n} of a list" for n in range(number)]
    uids = [uid(url, caption) for url, caption in zip(urls, captions, strict=True)]
    pq.write_table(conform(pa.table({"uid": uids, "url": urls, "caption": captions}), FILTERED, "list"), path)


# Each side runs in a process of its own -------------------------------------------------------------------------------


def ours(spec):
    """Run our stage on the list."""
    from dataops.snapshot import Draft
    from dataops.store import FolderStore
    from tasks.download.config import DownloadConfig
    from tasks.download.stage import DOWNLOAD
    from tasks.engine.context import Context
    from tasks.engine.stage import make, plan
    from tests.manifests import build_manifest

    folder = Path(spec["output"])
    store = FolderStore(folder)
    draft = Draft(store, "filter", "0" * 16)
    filtered = build_manifest("filter", [draft.put_table("part-00000.parquet", pq.read_table(spec["list"]))])
    config = DownloadConfig.model_validate(
        {
            "image_size": SIDE,
            "threads": THREADS,
            "timeout": TIMEOUT,
            "retries": 0,
            "retry": {"rounds": 0},
            "shard_size": spec["shard"],
            "contact": "https://example.org/benchmark",
            "connect_to": {host_address(host): f"{host_address(host)}:{spec['port']}" for host in range(HOSTS)},
        }
    )
    make(plan(DOWNLOAD, config, 0, [filtered]), Context(store=store, home=folder, workers=WORKERS))


def peer(spec):
    """Run img2dataset on the list."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    from img2dataset import download

    download(
        url_list=spec["list"],
        input_format="parquet",
        url_col="url",
        caption_col="caption",
        save_additional_columns=["uid"],
        output_folder=spec["output"],
        output_format="webdataset",
        image_size=SIDE,
        resize_mode="keep_ratio",
        processes_count=WORKERS,
        thread_count=THREADS,
        number_sample_per_shard=spec["shard"],
        timeout=TIMEOUT,
        extract_exif=False,
    )


def curl(spec):
    """Fetch the images with libcurl alone, in as many processes with as many connections."""
    urls = pq.read_table(spec["list"])["url"].to_pylist()
    with multiprocessing.get_context("fork").Pool(WORKERS) as pool:
        pool.map(_fetch_all, [urls[n::WORKERS] for n in range(WORKERS)], 1)


def _fetch_all(urls):
    import pycurl

    multi, waiting, free, busy = pycurl.CurlMulti(), list(urls), [pycurl.Curl() for _ in range(THREADS)], 0
    while waiting or busy:
        while waiting and free:
            handle = free.pop()
            handle.setopt(pycurl.URL, waiting.pop())
            handle.setopt(pycurl.TIMEOUT, TIMEOUT)
            handle.setopt(pycurl.WRITEFUNCTION, len)
            multi.add_handle(handle)
            busy += 1
        multi.perform()
        multi.select(0.1)
        _, ended, failed = multi.info_read()
        for handle in (*ended, *(one for one, *_ in failed)):
            multi.remove_handle(handle)
            free.append(handle)
            busy -= 1


SIDES = {"ours": ours, "peer": peer, "limit": curl}


def run_side(side, spec):
    """Run a side in this process; return its CPU time in seconds, with that of its processes."""
    SIDES[side](spec)
    return cpu_seconds()


# The measuring side -----------------------------------------------------------------------------------------------------


def digest_images(folder):
    """Return the SHA-256 of each image in the shards below a folder, by uid."""
    found = {}
    for path in sorted(folder.rglob("*.tar")):
        with tarfile.open(path) as tar:  # img2dataset's have extended headers, which pairmill's reader rejects
            read = {member.name: file.read() for member in tar if (file := tar.extractfile(member)) is not None}
        for name, text in read.items():
            key, _, extension = name.rpartition(".")
            if extension == "json" and f"{key}.jpg" in read:
                found[json.loads(text)["uid"]] = hashlib.sha256(read[f"{key}.jpg"]).hexdigest()
    return found


def compare(case, folder, spec, number, times, goal, say):
    """Measure all sides in turn; return the rows, and the number of images that both have, of one, and of other bytes."""
    wall, cpu = ({side: [] for side in SIDES} for _ in range(2))
    found = {}
    for turn in range(times):
        for side in SIDES:
            with tempfile.TemporaryDirectory(dir=folder) as output:
                started = time.perf_counter()
                took, memory = run_in_process(run_side, side, {**spec, "output": f"{output}/out"})
                wall[side].append(time.perf_counter() - started)
                cpu[side].append(took)
                if turn == 0:
                    found[side] = digest_images(Path(output))
                say(f"{case} {side}: {wall[side][-1]:.1f} s, {took:.1f} s of CPU time, {memory.peak / 1e6:,.0f} MB")
    walls, cpus = ([number / statistics.median(some) for some in one.values()] for one in (wall, cpu))
    both = found["ours"].keys() & found["peer"].keys()
    counts = {"both": len(both), **{f"only {side}": len(found[side].keys() - both) for side in ("ours", "peer")}}
    counts["different"] = sum(found["ours"][uid] != found["peer"][uid] for uid in both)
    say(f"{case}: of {number:,} images: {counts}")
    name = "img2dataset 1.47"
    rows = [
        Row(case, *walls[:2], name, "images/s", goal, walls[2]),
        Row(f"{case}, by CPU", *cpus[:2], name, "images/s/core", 1.0, cpus[2]),
    ]
    return rows, counts


def main():
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--number", type=int, default=20_000)
    parser.add_argument("--case", action="append", choices=CASES, help="run only this case")
    parser.add_argument("--times", type=int, help="number of turns; 2 by default")
    options = parser.parse_args()
    number, times = (4_000, 1) if options.quick else (options.number, options.times or 2)
    say = make_printer(options.json)
    require_peers("img2dataset", "pycurl")
    rows, images = [], {}
    with tempfile.TemporaryDirectory(prefix="pairmill-benchmark-") as name:
        folder = Path(name)
        write_photographs(folder, number)
        with run_server(folder) as port:
            for case in options.case or CASES:
                of_each, goal = CASES[case]
                hosts = range(min(HOSTS, max(80, number // of_each)))
                hosts = [one for one in hosts if case != "all" or (not is_late(one) and not is_dead(one))]
                write_list(folder / "list.parquet", number, port, hosts)
                spec = {
                    "list": str(folder / "list.parquet"),
                    "port": port,
                    "shard": min(10_000, number // WORKERS),
                }
                more, images[case] = compare(case, folder, spec, number, times, goal, say)
                rows += more
    equal = all(
        not one["different"] and one["both"] >= 99 * (one["only ours"] + one["only peer"]) for one in images.values()
    )
    return finish(
        "download",
        rows,
        ["img2dataset", "pycurl", "opencv-python-headless", "albumentations", "webdataset"],
        equal=equal,
        as_json=options.json,
        details={"images": images},
    )


if __name__ == "__main__":
    raise SystemExit(main())
