"""Trace over a dataset of five million pairs: the whole command, and the look-up alone, with the index and without.

    python -m benchmarks.trace [--quick] [--json] [--rows N]

There is no peer: nobody else answers the question. The reference is reading the columns, which is what one would do by
hand with Parquet files, and is what the command does with --no-index. Equal output: both find the same rows.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from benchmarks.measure import machine
from dataops.digest import canonical_json
from dataops.schema import PACKED, conform
from dataops.snapshot import Counts, Draft, Manifest, content_digest
from dataops.store import FolderStore
from dataops.targets import Target
from tasks.lineage import KEPT
from tasks.trace_search import Rows, Search

PART_ROWS = 10_000
LIMIT_SECONDS = 2.0


def rows(start: int, count: int) -> pa.Table:
    """Rows as a packed dataset has them: every hash another, 400,000 hosts, seven pictures a page."""
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
    return conform(text.with_columns(key="uid").drop("a", "b", "host", "site", "n").to_arrow(), PACKED, "benchmark")


def dataset(store: FolderStore, total: int) -> Manifest:
    """A snapshot of pack, without its tars, which no trace reads."""
    draft, parts = Draft(store, "pack", "benchmark0000000"), []
    for start in range(0, total, PART_ROWS):
        table = rows(start, min(PART_ROWS, total - start))
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


def command(store: FolderStore, home: Path, what: str, *more: str) -> tuple[float, set[str]]:
    """Seconds of `pairmill trace WHAT`, its start included, and the uids that it told."""
    environment = {**os.environ, "PAIRMILL_HOME": str(home), "MLFLOW_TRACKING_URI": ""}
    words = [sys.executable, "-m", "flows.cli", "trace", what, "--store", str(store.root), "--json", *more]
    started = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
    seconds = time.monotonic() - started
    return seconds, {pair["uid"] for one in json.loads(done.stdout)["stores"] for pair in one["pairs"]}


def main() -> None:
    """Measure, print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", type=int, default=5_000_000)
    given = parser.parse_args()
    total, repeats = (100_000, 3) if given.quick else (given.rows, 5)
    with tempfile.TemporaryDirectory(prefix="pairmill-trace-") as folder:
        home, store = Path(folder) / "home", FolderStore(Path(folder) / "store")
        started = time.monotonic()
        manifest = dataset(store, total)
        made = time.monotonic() - started
        some = rows(total // 2, 1).to_pylist()[0]
        searched = {
            "uid": some["uid"],
            "url": some["url"],
            "page": some["page_url"],
            "domain": some["page_url"].split("/")[2].removeprefix("www."),
            "sha256": some["sha256"],
            "phash": f"phash:{some['phash']}~2",
        }
        started = time.monotonic()
        Search(store).find(Rows(manifest, KEPT), [Target("uid", some["uid"])])
        indexed = time.monotonic() - started
        found, equal = [], True
        for name, what in searched.items():
            timed = [command(store, home, what) for _ in range(repeats)]
            scanned, plainly = command(store, home, what, "--no-index")
            seconds = statistics.median(one[0] for one in timed)
            equal &= all(uids == plainly and some["uid"] in uids for _, uids in timed)
            found.append(
                {
                    "case": f"command by {name}",
                    "ours": round(seconds, 3),
                    "peer": round(scanned, 3),
                    "peer_name": "reading the columns",
                    "unit": "s",
                    "ratio": round(scanned / seconds, 2),
                    "limit": LIMIT_SECONDS,
                    "goal": LIMIT_SECONDS,
                    "met": seconds < LIMIT_SECONDS,
                }
            )
        size = sum(entry.bytes for entry in store.entries(f"pack/{manifest.key}/trace"))
    facts = {"rows_of_dataset": total, "seconds_to_make_index": round(indexed, 1), "bytes_of_index": size}
    result = {
        "benchmark": "trace",
        "date": date.today().isoformat(),  # noqa: DTZ011 - the day of whoever measures
        "machine": machine(),
        "versions": {"python": sys.version.split()[0], "pyarrow": pa.__version__, "polars": pl.__version__},
        "dataset": facts,
        "rows": found,
        "equal_output": bool(equal),
    }
    if given.json:
        sys.stdout.write(canonical_json(result) + "\n")
        return
    sys.stdout.write(f"{total:,} rows (made in {made:.0f} s), index of {size / 1e6:,.0f} MB made in {indexed:.1f} s\n")
    for row in found:
        sys.stdout.write(f"{row['case']:<18}{row['ours']:>7.2f} s   reading the columns {row['peer']:>7.2f} s\n")
    sys.stdout.write(f"equal output: {bool(equal)}\n")


if __name__ == "__main__":
    main()
