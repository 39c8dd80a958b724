"""Curate's choice alone, over made-up tables of judged pictures: what it costs as there are more, without their pixels."""

import hashlib
import time
from multiprocessing import get_context

import numpy as np
import pyarrow as pa

from benchmarks.cases.scale_job import SHARD_ROWS, Job
from benchmarks.inputs.rows import drawn, share
from dataops.snapshot import Draft, read_table
from dataops.store import FolderStore, open_store
from tasks.curate.choose import choose_rows, decisions_name
from tasks.curate.config import CurateConfig
from tasks.curate.inspect_images import INSPECTED, inspected_name
from tasks.curate.steps import Step
from tasks.engine.map_parts import map_parts, shared_workers
from tasks.engine.partition_steps import run

THUMBNAIL = 6
"""Words of eight bytes; a real one has 96, of which the choice sees few."""


def make_judged(store: FolderStore, rows: int) -> None:
    """Judged tables of so many pictures, the same in a set of any size.

    A tenth show a picture from before: two in five of these the same bytes, three the same pixels, three nearly.
    """
    with get_context("spawn").Pool(2) as pool:
        starts = range(0, rows, SHARD_ROWS)
        pool.starmap(_put, [(store.uri, start, min(SHARD_ROWS, rows - start)) for start in starts], chunksize=1)


def _put(uri: str, start: int, number: int) -> None:
    rows = np.arange(start, start + number, dtype=np.uint64)
    Draft(open_store(uri), "curate", "made").put_table(inspected_name(_number(start)), judged(rows))


def _number(start: int) -> str:
    return f"{start // SHARD_ROWS:05d}"


def judged(rows: np.ndarray) -> pa.Table:
    """Some rows of JUDGED."""
    again, kind = share(rows, 101) < 0.1, share(rows, 102)
    pictures = np.where(again, (rows * share(rows, 103)).astype(np.uint64), rows)
    digests, shown = np.where(again & (kind < 0.4), pictures, rows), np.where(again & (kind < 0.7), pictures, rows)
    changed = again & (kind >= 0.7)
    hashes = drawn(pictures, 104)
    for salt in (105, 106):
        flips = np.uint64(1) << (drawn(rows, salt) % np.uint64(64))
        hashes = np.where(changed, hashes ^ flips, hashes)
    words = np.arange(THUMBNAIL, dtype=np.uint64)
    thumbnails = drawn(pictures[:, None] * np.uint64(THUMBNAIL) + words, 107) >> np.uint64(1)
    thumbnails = (thumbnails & np.uint64(0x7F7F7F7F7F7F7F7F)) + changed[:, None].astype(np.uint64)
    pixels = np.stack([drawn(shown, 108), drawn(shown, 109)], axis=1)
    blank = share(rows, 110) < 0.03
    columns = {
        "uid": [f"{high:016x}{low:016x}" for high, low in zip(drawn(rows, 111).tolist(), rows.tolist(), strict=True)],
        "url": [f"http://host{row % 997}.example/{row}.jpg" for row in rows.tolist()],
        "caption": [f"A made-up picture, number {row}" for row in pictures.tolist()],
        "sha256": [f"{digest:064x}" for digest in digests.tolist()],
        "original_area": pa.array((10_000 + drawn(rows, 112) % np.uint64(1_000_000)).astype(np.int64)),
        "drop_reason": pa.array(["blank" if one else None for one in blank.tolist()], pa.string()),
        "pixels": [one.tobytes() for one in pixels],
        "phash": hashes,
        "thumbnail": [one.tobytes() for one in thumbnails],
        "luminance": pa.nulls(len(rows), pa.binary()),
        "image_digest": pa.nulls(len(rows), pa.string()),
    }
    return pa.table(columns).cast(INSPECTED)


def choice(job: Job) -> tuple[float, str]:
    """Choose among `rows` judged pictures: seconds, and a digest of what was chosen."""
    context, config = job.context(), CurateConfig()
    draft = Draft(context.store, "curate", "made")
    made = [name for name in context.store.names("curate/made") if "/inspected-" not in name]
    context.store.delete(made)  # by another engine
    starts = range(0, job.rows, SHARD_ROWS)
    names, sizes = [_number(start) for start in starts], [min(SHARD_ROWS, job.rows - start) for start in starts]
    started = time.perf_counter()
    with shared_workers(context) as shared:

        def over(tasks: list[Step]) -> None:
            map_parts(run, tasks, draft, shared)

        choose_rows(names, sizes, config, None, over)
    seconds = time.perf_counter() - started
    digest = hashlib.sha256()
    for name in names:
        digest.update(repr(read_table(draft.store, draft.path(decisions_name(name))).to_pydict()).encode())
    return seconds, digest.hexdigest()
