"""Run the jobs of benchmarks/scale.py, each in its own process."""

import multiprocessing
import resource
import time
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg

from benchmarks.cases.scale_job import Job
from benchmarks.inputs.rows import random_bits
from dataops.snapshot import Manifest, load_manifest
from plugins.own_images.pairs import PairsSource
from tasks.engine.context import Context
from tasks.engine.stage import make, plan
from tasks.extract.stage import EXTRACT
from tasks.filter.config import FilterConfig
from tasks.filter.stage import FILTER

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
    """Make a stage's snapshot; the snapshot that filter reads must be in the store."""
    context = job.context()
    if job.what == "extract":
        planned = plan(EXTRACT, PairsSource(paths=list(job.lists)), 0, [], context.store)
    else:
        config = FilterConfig(languages=["en"], memory_limit_bytes=job.filter_memory)
        planned = plan(FILTER, config, 0, [load_only_snapshot(context, "extract")], context.store)
    return make(planned, context)


def load_only_snapshot(context: Context, name: str) -> Manifest:
    """Return the only complete snapshot of a stage in the store."""
    (key,) = {entry.split("/")[1] for entry in context.store.names(name) if entry.endswith("/manifest.json")}
    found = load_manifest(context.store, name, key)
    assert found is not None
    return found


def make_jpeg(seed: int) -> bytes:
    """Return a JPEG of colours by chance, SIDE pixels wide."""
    noise = random_bits(np.arange(24, dtype=np.uint64) + np.uint64(seed * 24), 90).view(np.uint8).reshape(8, 8, 3)
    return simplejpeg.encode_jpeg(cv2.resize(noise, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), quality=90)
