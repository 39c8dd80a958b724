"""Count the tasks, requests and bytes of pack on S3 for any number of images, from the layout that pack itself chooses."""

from dataclasses import dataclass
from math import ceil, sqrt

from dataops.storage.s3 import PARTS, STREAM_PARTS
from plugins.corpus_plan.costs import RAW_ROW_BYTES
from tasks.pack.config import PackConfig
from tasks.pack.sorted_runs import ROW_BYTES, SortLayout, choose_layout
from tasks.pack.stage import IMAGES_SHARE

FENCE = 3
"""Requests of Draft.check_fence (two lists, one read)."""
ROWS_BYTES = 400
"""Bytes of a row in a part of curate."""


@dataclass(frozen=True)
class PackPlan:
    """What pack does for a number of images."""

    layout: SortLayout
    tasks: tuple[int, ...]
    """Tasks of each map."""
    reads: float
    writes: float
    received: float
    """Bytes that workers read from the store."""
    sent: float
    """Bytes that workers write to the store."""
    scratch: float
    """Bytes of the runs, which the store has until the snapshot is complete."""


@dataclass(frozen=True)
class PackCosts:
    """CPU seconds of pack, per row and per byte that is received or sent."""

    row: float
    byte: float


def plan_pack(rows: float, fetched: float, raw_shards: int, image_bytes: int, memory_bytes: float) -> PackPlan:
    """Return the plan.

    Args:
        rows: number of images that are packed.
        fetched: number of images in the raw shards.
        memory_bytes: memory for the images of one task.
    """
    config = PackConfig()
    shards = ceil(rows / config.shard_size)
    per_shard = rows / shards
    raw_bytes = fetched * (image_bytes + RAW_ROW_BYTES)
    expected = int(raw_bytes * rows / fetched)
    layout = choose_layout(int(rows), expected, shards, int(memory_bytes * IMAGES_SHARE), is_remote=True)
    size = rows * (image_bytes + ROW_BYTES)
    runs = ceil(layout.expected_bytes / layout.run_bytes)
    written = ceil(size / runs / STREAM_PARTS.multipart_chunksize) + 2  # parts, begin and end
    # each task: is it finished, its record and the fence before it; each raw shard: its rows and its size
    reads = runs * (1 + FENCE + 1) + raw_shards * (2 + 1 + ceil(raw_bytes / raw_shards / PARTS.multipart_chunksize))
    writes = runs * (written + 1.0)
    tasks, moved = [runs], 1
    if layout.coarse > 1:
        batch = layout.coarse  # runs of a batch: a coarse partition of so many is one run
        merges = ceil(runs / batch) * layout.coarse
        reads += runs + merges * (1 + FENCE + 1 + 1) + runs * layout.coarse  # heads, indexes, pieces
        writes += ceil(runs / batch) + merges * (ceil(size / merges / STREAM_PARTS.multipart_chunksize) + 2 + 1.0)
        tasks, moved, runs = [*tasks, merges], 2, merges
    reads += runs * (1 + ceil(rows / layout.coarse / (1 << 21)))  # heads and keys of the runs, to cut the shards
    writes += layout.coarse
    groups = ceil(rows / per_shard / max(int(layout.run_bytes / (size / shards)), 1))
    pieces = groups * (1 + layout.coarse / groups) * runs / layout.coarse  # a group at a boundary reads from two sets
    reads += groups * (1 + FENCE + 2) + pieces + shards * (3 * FENCE + 1)
    shard_bytes = per_shard * (image_bytes + RAW_ROW_BYTES)
    writes += groups + shards * (ceil(shard_bytes / STREAM_PARTS.multipart_chunksize) + 2 + 2.0)
    edges = 1 + 1 / 16  # a group reads half a partition more at each end
    received = raw_bytes + fetched * ROWS_BYTES + size * (moved - 1 + edges)
    sent = size * moved + rows * (image_bytes + RAW_ROW_BYTES)
    return PackPlan(layout, (*tasks, groups), reads, writes, received, sent, size * moved)


def describe(plan: PackPlan) -> str:
    """Return the sizes that limit the stage."""
    layout = plan.layout
    piece = (
        sqrt(layout.run_bytes**3 / layout.expected_bytes)
        if layout.coarse > 1
        else (layout.run_bytes**2 / layout.expected_bytes)
    )
    passes = "two passes" if layout.coarse > 1 else "one pass"
    return (
        f"{passes}, runs of {layout.run_bytes / 1e6:,.0f} MB in pieces of {piece / 1e6:.1f} MB, "
        f"{plan.scratch / 1e12:,.1f} TB of scratch"
    )
