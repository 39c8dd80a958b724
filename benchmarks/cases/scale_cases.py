"""Run the jobs of benchmarks/scale.py, each in its own process."""

import io
import multiprocessing
import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import simplejpeg

from benchmarks.cases.scale_job import SHARD_ROWS, Job
from benchmarks.inputs.rows import random_bits
from dataops.schema import DOWNLOADED, conform, uid
from dataops.shards.tar import ShardWriter
from dataops.snapshot import Counts, Draft, Manifest, Part, content_digest, load_manifest
from dataops.store import FolderStore, open_store
from plugins.own_images.pairs import PairsSource
from tasks.curate.config import CurateConfig
from tasks.curate.stage import CURATE
from tasks.engine.context import Context
from tasks.engine.stage import Stage, make, plan
from tasks.extract.stage import EXTRACT
from tasks.filter.config import FilterConfig
from tasks.filter.stage import FILTER
from tasks.pack.config import PackConfig
from tasks.pack.stage import PACK

SIDE = 64
"""Side of the images in pixels; it affects the cost of an image, not how the cost grows with their number."""


@dataclass(frozen=True)
class JobResult:
    """Result of a job in its own process."""

    seconds: float
    cpu_seconds: float
    """CPU time of the process and its workers, without Ray's workers."""
    driver_bytes: int
    """Peak memory of the driver, without its workers."""
    digest: str
    counts: str
    stored_bytes: int


def run_job(job: Job) -> JobResult:
    """Run the job."""
    started = time.perf_counter()
    manifest = make_stage(job)
    seconds = time.perf_counter() - started
    for worker in multiprocessing.active_children():  # their CPU time is known after a wait
        worker.join()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu, peak = sum(u.ru_utime + u.ru_stime for u in used), used[0].ru_maxrss * 1024
    size = sum(part.bytes for part in manifest.parts)
    return JobResult(seconds, cpu, peak, manifest.content_digest, manifest.counts.model_dump_json(), size)


def make_stage(job: Job) -> Manifest:
    """Make a stage's snapshot; the snapshots that it reads must be in the store."""
    context = job.context()
    reads: list[Manifest] = []
    if job.what == "filter":
        reads = [load_only_snapshot(context, "extract")]
    elif job.what in ("curate", "pack"):
        reads = [load_manifest(context.store, "download", "made")]  # type: ignore[list-item]
        reads = [load_only_snapshot(context, "curate"), *reads] if job.what == "pack" else reads
    stages: dict[str, tuple[Stage, Callable[[], Any]]] = {
        "extract": (EXTRACT, lambda: PairsSource(paths=list(job.lists))),
        "filter": (FILTER, lambda: FilterConfig(languages=["en"], memory_limit_bytes=job.filter_memory)),
        "curate": (CURATE, CurateConfig),
        "pack": (PACK, PackConfig),
    }
    what, config = stages[job.what]
    return make(plan(what, config(), 0, reads, context.store), context)


def load_only_snapshot(context: Context, name: str) -> Manifest:
    """Return the only complete snapshot of a stage in the store."""
    (key,) = {entry.split("/")[1] for entry in context.store.names(name) if entry.endswith("/manifest.json")}
    found = load_manifest(context.store, name, key)
    assert found is not None
    return found


def write_raw_shards(store: FolderStore, rows: int) -> None:
    """Write a snapshot of download with synthetic images, the same for any number of rows; one in 20 is a copy."""
    draft, parts = Draft(store, "download", "made"), list[Part]()
    starts = range(0, rows, SHARD_ROWS)
    shards = [(store.uri, f"{i:05d}", range(at, min(at + SHARD_ROWS, rows))) for i, at in enumerate(starts)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for written in pool.starmap(_shard, shards, chunksize=1):
            parts += written
    draft.commit(
        Manifest(
            stage="download", stage_version=1, key="made", inputs=[], config={"encode_format": "jpg"}, seed=0, code={},
            parts=parts, counts=Counts(input=rows, kept=rows), content_digest=content_digest(parts), created_at="",
        )
    )  # fmt: skip


def _shard(uri: str, name: str, numbers: range) -> list[Part]:
    draft = Draft(open_store(uri), "download", "made")
    out, rows = io.BytesIO(), []
    writer = ShardWriter(out)
    for n in numbers:
        seed = n - n % 20 if n % 20 == 19 else n  # every twentieth is a copy of an earlier one
        data = make_jpeg(seed)
        url, caption = f"http://host{n % 997}.example/{n}.jpg", f"A made-up picture, number {seed}"
        key = uid(url, caption)
        writer.write(key, {"jpg": data, "json": b"{}", "txt": caption.encode()})
        rows.append({
            "uid": key, "key": key, "url": url, "caption": caption, "status": "success", "shard": f"{name}.tar",
            "original_width": 640, "original_height": 640, "width": SIDE, "height": SIDE, "sha256": f"{seed:064x}",
            "language_score": 0.9,
        })  # fmt: skip
    writer.close()
    table = conform(pa.Table.from_pylist(rows, DOWNLOADED), DOWNLOADED, name)
    return [
        draft.put_bytes(f"{name}.tar", out.getvalue(), len(rows)),
        draft.put_table(f"part-{name}.parquet", table),
    ]


def make_jpeg(seed: int) -> bytes:
    """Return a JPEG of colours by chance, SIDE pixels wide."""
    noise = random_bits(np.arange(24, dtype=np.uint64) + np.uint64(seed * 24), 90).view(np.uint8).reshape(8, 8, 3)
    return simplejpeg.encode_jpeg(cv2.resize(noise, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), quality=90)


def delete_snapshots(store: str, *stages: str) -> None:
    """Delete the snapshots of stages."""
    for name in stages:
        shutil.rmtree(Path(store) / name, ignore_errors=True)
