"""Measure choose_rows of curate alone, on synthetic tables of inspected images."""

import hashlib
import time
from concurrent.futures import Executor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.cases.scale_job import SHARD_ROWS, Job
from benchmarks.inputs.rows import random_bits, random_shares
from dataops.snapshot import Draft, Record
from dataops.store import FolderStore, open_store
from tasks.curate.choose import choose_rows, read_decisions
from tasks.curate.config import CurateConfig, Units
from tasks.curate.inspect_images import INSPECTED, RawShard, inspected_name
from tasks.engine.exchange import Step, run
from tasks.engine.map_parts import map_parts, shared_workers

UNITS = Units()
THUMBNAIL = 6
"""Size of a thumbnail in words of 8 bytes; a real one has 96, but few thumbnails are read."""


def write_inspected(store: FolderStore, rows: int) -> None:
    """Write INSPECTED tables of `rows` images, the same for any number of rows.

    A tenth have an earlier image: two in five of these its bytes, the others its pixels or nearly its pixels.
    """
    with get_context("spawn").Pool(2) as pool:
        starts = range(0, rows, SHARD_ROWS)
        pool.starmap(_put, [(store.uri, start, min(SHARD_ROWS, rows - start)) for start in starts], chunksize=1)


def _put(uri: str, start: int, number: int) -> None:
    rows = np.arange(start, start + number, dtype=np.uint64)
    Draft(open_store(uri), "curate", "made").put_table(inspected_name(_number(start)), make_inspected(rows))


def _number(start: int) -> str:
    return f"{start // SHARD_ROWS:05d}"


def make_inspected(rows: np.ndarray) -> pa.Table:
    """Return rows of INSPECTED."""
    again, kind = random_shares(rows, 101) < 0.1, random_shares(rows, 102)
    pictures = np.where(again, (rows * random_shares(rows, 103)).astype(np.uint64), rows)
    digests, shown = np.where(again & (kind < 0.4), pictures, rows), np.where(again & (kind < 0.7), pictures, rows)
    changed = again & (kind >= 0.7)
    hashes = random_bits(pictures, 104)
    for salt in (105, 106):
        flips = np.uint64(1) << (random_bits(rows, salt) % np.uint64(64))
        hashes = np.where(changed, hashes ^ flips, hashes)
    words = np.arange(THUMBNAIL, dtype=np.uint64)
    thumbnails = random_bits(pictures[:, None] * np.uint64(THUMBNAIL) + words, 107) >> np.uint64(1)
    thumbnails = (thumbnails & np.uint64(0x7F7F7F7F7F7F7F7F)) + changed[:, None].astype(np.uint64)
    pixels = np.stack([random_bits(shown, 108), random_bits(shown, 109)], axis=1)
    blank = random_shares(rows, 110) < 0.03
    columns = {
        "uid": [
            f"{high:016x}{low:016x}" for high, low in zip(random_bits(rows, 111).tolist(), rows.tolist(), strict=True)
        ],
        "url": [f"http://host{row % 997}.example/{row}.jpg" for row in rows.tolist()],
        "caption": [f"A made-up picture, number {row}" for row in pictures.tolist()],
        "sha256": [f"{digest:064x}" for digest in digests.tolist()],
        "source": pa.nulls(len(rows), pa.string()),
        "original_area": pa.array((10_000 + random_bits(rows, 112) % np.uint64(1_000_000)).astype(np.int64)),
        "drop_reason": pa.array(["blank" if one else None for one in blank.tolist()], pa.string()),
        "pixels": [one.tobytes() for one in pixels],
        "phash": hashes,
        "thumbnail": [one.tobytes() for one in thumbnails],
        "luminance": pa.nulls(len(rows), pa.binary()),
        "image_digest": pa.nulls(len(rows), pa.string()),
    }
    return pa.table(columns).cast(INSPECTED)


def time_choice(job: Job, pool: Executor | None = None, units: Units = UNITS) -> tuple[float, str]:
    """Run choose_rows on `rows` images; return the seconds, and a digest of the decisions."""
    context, config = replace(job.context(), pool=pool), CurateConfig().with_units(units)
    draft = Draft(context.store, "curate", "made")
    written = [name for name in context.store.names("curate/made") if "/inspected-" not in name]
    context.store.delete(written)  # by another engine
    starts = range(0, job.rows, SHARD_ROWS)
    shards = [
        RawShard("", min(SHARD_ROWS, job.rows - start), f"raw/{_number(start)}.tar", "jpg", config) for start in starts
    ]
    started = time.perf_counter()
    with shared_workers(context) as shared:

        def run_steps(tasks: list[Step[Any]]) -> list[Record]:
            return map_parts(run, tasks, draft, shared)

        choose_rows(shards, config, None, run_steps)
    seconds = time.perf_counter() - started
    digest = hashlib.sha256()
    for shard in shards:
        digest.update(repr(read_decisions(draft, shard.number).to_pydict()).encode())
    return seconds, digest.hexdigest()
