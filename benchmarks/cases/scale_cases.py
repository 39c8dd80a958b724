"""What benchmarks/scale.py measures, each in a process of its own: a stage whole, and parts that are next to nothing."""

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
from benchmarks.inputs.rows import drawn
from dataops.schema import DOWNLOADED, conform, uid
from dataops.shards.tar import ShardWriter
from dataops.snapshot import Counts, Draft, Manifest, Part, Record, content_digest, load_manifest
from dataops.store import FolderStore, open_store
from tasks.curate.config import CurateConfig
from tasks.curate.stage import CURATE
from tasks.engine.context import Context
from tasks.engine.map_parts import map_parts, shared_workers
from tasks.engine.stage import Stage, make, plan
from tasks.extract.sources.pairs import PairsSource
from tasks.extract.stage import EXTRACT
from tasks.filter.config import FilterConfig
from tasks.filter.stage import FILTER
from tasks.pack.config import PackConfig
from tasks.pack.stage import PACK

SIDE = 64
"""Pixels of the pictures: what a stage costs a picture grows with them, how that grows with their number does not."""


@dataclass(frozen=True)
class Told:
    """What a measurement found in its own process."""

    seconds: float
    cpu_seconds: float
    """Of the process and those of its workers that it waited for; workers of Ray are none of them."""
    driver_bytes: int
    """The greatest memory of the process that maps, without its workers."""
    digest: str = ""
    counts: str = ""
    stored_bytes: int = 0


def run(job: Job) -> Told:
    """Do the job."""
    started = time.perf_counter()
    made, seconds, digest = None, 0.0, ""
    if job.what == "parts":
        seconds = tiny_parts(job)
    elif job.what == "prefect-ray":
        seconds = task_runs(job)
    elif job.what == "choice":
        from benchmarks.cases.scale_choice import choice

        seconds, digest = choice(job)
    else:
        made = stage(job)
        seconds = time.perf_counter() - started
    for worker in multiprocessing.active_children():  # only of those that were waited for is the time known
        worker.join()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu, peak = sum(u.ru_utime + u.ru_stime for u in used), used[0].ru_maxrss * 1024
    if made is None:
        return Told(seconds, cpu, peak, digest)
    size = sum(part.bytes for part in made.parts)
    return Told(seconds, cpu, peak, made.content_digest, made.counts.model_dump_json(), size)


def stage(job: Job) -> Manifest:
    """Make a stage's snapshot; those that it reads must be in the store (their keys follow from the lists)."""
    context = job.context()
    reads: list[Manifest] = []
    if job.what == "filter":
        reads = [the_only(context, "extract")]
    elif job.what in ("curate", "pack"):
        reads = [load_manifest(context.store, "download", "made")]  # type: ignore[list-item]
        reads = [the_only(context, "curate"), *reads] if job.what == "pack" else reads
    stages: dict[str, tuple[Stage, Callable[[], Any]]] = {
        "extract": (EXTRACT, lambda: PairsSource(paths=list(job.lists))),
        "filter": (FILTER, lambda: FilterConfig(languages=["en"])),
        "curate": (CURATE, CurateConfig),
        "pack": (PACK, PackConfig),
    }
    what, config = stages[job.what]
    return make(plan(what, config(), 0, reads, context.store), context)


def the_only(context: Context, name: str) -> Manifest:
    """The one complete snapshot of a stage that the store has."""
    (key,) = {entry.split("/")[1] for entry in context.store.names(name) if entry.endswith("/manifest.json")}
    found = load_manifest(context.store, name, key)
    assert found is not None
    return found


@dataclass(frozen=True)
class Tiny:
    """A part that is next to nothing."""

    id: str


def nothing(draft: Draft, task: Tiny) -> Record:
    """Its record alone."""
    return Record(task=task.id)


def tiny_parts(job: Job) -> float:
    """Seconds that a map over `rows` parts that do nothing takes, by workers that have started."""
    context = job.context()
    draft = Draft(context.store, "filter", "tiny")
    context.store.put(draft.path("there"), b"")
    with shared_workers(context) as shared:
        map_parts(nothing, [Tiny(f"warm{n}") for n in range(4 * shared.workers)], draft, shared)
        started = time.perf_counter()
        map_parts(nothing, [Tiny(f"p{n}") for n in range(job.rows)], draft, shared)
        return time.perf_counter() - started


def task_runs(job: Job) -> float:
    """The same, each part a task run of Prefect on prefect-ray's task runner."""
    from infra.local.services import apply_environment

    apply_environment()  # which Prefect reads when it is imported
    from prefect import flow, task
    from prefect_ray import RayTaskRunner  # pyright: ignore[reportMissingImports]

    uri = job.context().store.uri

    @task
    def part(name: str) -> None:
        draft = Draft(open_store(uri), "filter", "tiny")
        draft.finish(nothing(draft, Tiny(name)))

    @flow(task_runner=RayTaskRunner(address=job.ray, init_kwargs={"log_to_driver": False}))
    def parts() -> float:
        part.map([f"warm{n}" for n in range(4 * job.workers)]).result()
        started = time.perf_counter()
        part.map([f"p{n}" for n in range(job.rows)]).result()
        return time.perf_counter() - started

    return parts()


def make_pictures(store: FolderStore, rows: int) -> None:
    """A snapshot of download: shards of SHARD_ROWS made-up pictures, the same in a set of any size, one in 20 a copy."""
    draft, parts = Draft(store, "download", "made"), list[Part]()
    starts = range(0, rows, SHARD_ROWS)
    shards = [(store.uri, f"{i:05d}", range(at, min(at + SHARD_ROWS, rows))) for i, at in enumerate(starts)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for some in pool.starmap(_shard, shards, chunksize=1):
            parts += some
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
        seed = n - n % 20 if n % 20 == 19 else n  # every twentieth is a copy of one before
        data = _picture(seed)
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


def _picture(seed: int) -> bytes:
    noise = drawn(np.arange(24, dtype=np.uint64) + np.uint64(seed * 24), 90).view(np.uint8).reshape(8, 8, 3)
    return simplejpeg.encode_jpeg(cv2.resize(noise, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), quality=90)


def forget(store: str, *stages: str) -> None:
    """Delete stages' snapshots, so that they are made again."""
    for name in stages:
        shutil.rmtree(Path(store) / name, ignore_errors=True)
