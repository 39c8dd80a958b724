"""Measure `pairmill trace` on a dataset of five million pairs, with and without the index.

    python -m benchmarks.trace [--quick] [--json] [--rows N]

There is no peer. The reference is reading the columns of the Parquet files, as the command does with --no-index. Both must
find the same rows.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from benchmarks.measure import Row, finish, make_parser
from dataops.schema import CURATED, conform
from dataops.snapshot import Counts, Draft, Manifest, content_digest
from dataops.store import FolderStore
from dataops.trace.targets import Target
from tasks.lineage.graph import KEPT
from tasks.lineage.search import Rows, Search

PART_ROWS = 10_000
LIMIT_SECONDS = 2.0


def make_rows(start: int, count: int) -> pa.Table:
    """Return rows of a packed dataset: unique hashes, 400,000 hosts, seven images per page."""
    numbers = np.arange(start, start + count, dtype=np.uint64)
    mixed = [numbers * np.uint64(factor) for factor in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)]
    halves = pl.DataFrame({"a": mixed[0], "b": mixed[1], "n": numbers})
    text = halves.select(
        a=pl.col("a").map_elements(lambda x: f"{x:016x}", pl.String),
        b=pl.col("b").map_elements(lambda x: f"{x:016x}", pl.String),
        host=pl.format("img{}.site{}.example", pl.col("n") % 7, pl.col("n") % 399_989),
        site=pl.format("www.site{}.example", pl.col("n") % 399_989),
        n=pl.col("n"),
    ).with_columns(
        uid=pl.col("a") + pl.col("b"),
        url=pl.format("https://{}/pictures/{}/{}.jpg", "host", pl.col("n") % 100, "n"),
        page_url=pl.format("https://{}/page/{}", "site", pl.col("n") // 7),
        caption=pl.format("a picture of thing {} beside thing {}", pl.col("n") % 9973, pl.col("n") % 101),
        sha256=pl.col("b") + pl.col("a") + pl.col("b") + pl.col("a"),
        phash=pl.col("b"),
        shard=pl.lit(f"{start // PART_ROWS:05d}.tar"),
        source=pl.format("crawl-data/CC-MAIN-2026-10/{}.warc.gz", pl.col("n") // 40_000),
        source_offset=pl.col("n").cast(pl.Int64) * 1000,
    )
    return conform(text.with_columns(key="uid").drop("a", "b", "host", "site", "n").to_arrow(), CURATED, "benchmark")


def write_dataset(store: FolderStore, total: int) -> Manifest:
    """Write a snapshot of pack without tars, which trace does not read."""
    draft, parts = Draft(store, "pack", "benchmark0000000"), []
    for start in range(0, total, PART_ROWS):
        table = make_rows(start, min(PART_ROWS, total - start))
        parts.append(draft.put_table(f"part-{start // PART_ROWS:05d}.parquet", table))
    counts = Counts(input=total, kept=total)
    fields = {
        "stage_version": 4,
        "inputs": [],
        "config": {},
        "seed": 0,
        "code": {},
        "created_at": "2026-01-01T00:00:00+00:00",
    }
    return draft.commit(
        Manifest(
            stage="pack", key=draft.key, parts=parts, counts=counts, content_digest=content_digest(parts), **fields
        )
    )


def run_trace(store: FolderStore, home: Path, what: str, *more: str) -> tuple[float, float, set[str]]:
    """Run `pairmill trace WHAT`; return wall time and CPU time with its start, and the uids that it found."""
    environment = {**os.environ, "PAIRMILL_HOME": str(home), "MLFLOW_TRACKING_URI": ""}
    command = [sys.executable, "-m", "flows.cli", "trace", what, "--store", str(store.root), "--json", *more]
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    seconds = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, cpu, {pair["uid"] for one in json.loads(done.stdout)["stores"] for pair in one["pairs"]}


def measure_targets(
    store: FolderStore, home: Path, some: Mapping[str, Any], repeats: int
) -> tuple[list[Row], dict[str, dict[str, float]], bool]:
    """Return a row and median seconds for each kind of target, and whether reading the columns finds the same."""
    searched = {
        "uid": some["uid"],
        "domain": some["page_url"].split("/")[2].removeprefix("www."),
        "url": some["url"],
        "page": some["page_url"],
        "sha256": some["sha256"],
        "phash": f"phash:{some['phash']}~2",
    }
    found, seconds, equal, scanned = list[Row](), dict[str, dict[str, float]](), True, 0.0
    for name, what in searched.items():
        timed = [run_trace(store, home, what) for _ in range(repeats)]
        clock, cpu = (statistics.median(one[index] for one in timed) for index in (0, 1))
        seconds[name] = {"clock": round(clock, 3), "processor": round(cpu, 3)}
        if name in ("uid", "domain"):  # the others read the same columns
            scanned, _, expected = run_trace(store, home, what, "--no-index")
            equal &= all(uids == expected for _, _, uids in timed)
        equal &= all(some["uid"] in uids for _, _, uids in timed)
        found.append(Row(f"trace {name}", 1 / clock, 1 / scanned, "reading the columns", "traces/s", goal=1.0))
    return found, seconds, equal


def main() -> int:
    """Run the benchmark."""
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=5_000_000)
    options = parser.parse_args()
    total, repeats = (100_000, 3) if options.quick else (options.rows, 3)
    with tempfile.TemporaryDirectory(prefix="pairmill-trace-") as folder:
        home, store = Path(folder) / "home", FolderStore(Path(folder) / "store")
        manifest = write_dataset(store, total)
        some = make_rows(total // 2, 1).to_pylist()[0]
        started = time.monotonic()
        Search(store).find(Rows(manifest, KEPT), [Target("uid", some["uid"])])
        indexed = time.monotonic() - started
        found, seconds, equal = measure_targets(store, home, some, repeats)
        size = sum(entry.bytes for entry in store.entries(f"pack/{manifest.key}/trace"))
    details = {
        "rows_of_dataset": total,
        "seconds": seconds,
        "under_two_seconds": all(one["clock"] < LIMIT_SECONDS for one in seconds.values()),
        "seconds_to_make_the_index": round(indexed, 1),
        "bytes_of_the_index": size,
    }
    packages = ("pyarrow", "polars", "xxhash")
    return finish("trace", found, packages, equal=equal, as_json=options.json, details=details)


if __name__ == "__main__":
    sys.exit(main())
