"""Count the tasks, requests, bytes and core hours of the stages on S3 for any number of pairs.

Requests and tasks are counted as the code makes them. A simulation assigns the tasks of each map to the cores, as the
driver does. The costs of a row are in costs.json, from the results in benchmarks/results/. All other values are prices and
rates in `Prices`.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dataops import plugins
from plugins.corpus_plan.costs import RAW_ROW_BYTES, Costs
from plugins.corpus_plan.pack_requests import FENCE, PackCosts, describe, plan_pack
from tasks.curate.choose import EXCHANGES, batch_shards, plan_job
from tasks.curate.config import CurateConfig
from tasks.curate.inspect_images import RawShard, inspect_shard
from tasks.curate.stage import group_shards
from tasks.engine.exchange import Exchange
from tasks.filter.config import FilterConfig
from tasks.filter.stage import cut_batches, join_batches, plan_sizes
from tasks.filter.steps import FilterJob

PUT = 1
"""Requests of writing a part (dataops/snapshot.py)."""
TASK, PIECE = FENCE + 1, 2
"""Reads of a task besides its input (whether its record exists, the fence of its record), and of a piece of a table."""
OUTCOME_BYTES = 100
"""Stored bytes of a row that download dropped, and of the evidence of a row."""
BATCH_BYTES = 256 << 20
"""Bytes that a task of a search reads."""
ROUNDS = 7
"""Rounds in which the links of duplicates are connected: 5 to 7 for chains, stars and random graphs of 100,000 rows."""


@dataclass(frozen=True)
class Prices:
    """Assumptions: prices in dollars, and rates that depend on the corpus."""

    core_hour: float = 0.04
    """Price of a virtual core: half a c6i.large, $0.085 in us-east-1. Source: aws.amazon.com/ec2/pricing, 2025."""
    gpu_hour: float = 2.5
    """Price of an H100 on demand; clouds charge $2 to $5. Source: mercatus-ai.com/blog/cloud-gpu-pricing, May 2026."""
    get_million: float = 0.4
    put_million: float = 5.0
    gigabyte_month: float = 0.023
    """Price of S3 Standard in us-east-1, the first 50 TB. Source: aws.amazon.com/s3/pricing, 2025."""
    cores: int = 512
    cores_of_machine: int = 64
    memory_limit_bytes: int = 128 << 30
    """`filter.memory_limit_bytes`: half of the machine's memory."""
    archive_bytes: float = 200e6
    """Size of a WAT file. Source: Common Crawl's crawls of 2024, 90,000 files of 18 TB."""
    request_seconds: float = 0.02
    """Round trip from a core to S3."""
    network_bytes: float = 195e6
    """Bytes that a core sends, and receives at the same time, in a second: 100 Gbit/s of a c6in.16xlarge with 64 cores,
    which costs $0.057 per core hour. A c6i.16xlarge has a quarter of it. Source: aws.amazon.com/ec2/instance-types."""
    fetched: float = 0.75
    """Share of the URLs that return an image."""
    curated: float = 0.9
    """Share of the images that curate keeps."""
    gpus: int = 64
    sample_flops: float = 3 * 14.78e9
    """FLOPs of a step of ViT-B-32 per sample. Source: open_clip, model_profile.csv."""
    gpu_flops: float = 0.35 * 990e12
    """FLOP/s that a GPU reaches: 35% of an H100's bfloat16 peak."""
    image_bytes: int = 25_000
    """Size of a stored image of 256 pixels. Source: LAION-400M, 10 TB."""
    fetched_bytes: int = 120_000
    """Size of a downloaded image: 11.3 MB/s at 92 a second in docs/data/download-rows.md."""
    samples_of_pair: int = 1
    """Number of times that training uses each pair of a dataset."""


@dataclass(frozen=True)
class StagePlan:
    """Cost of one stage of one corpus."""

    stage: str
    rows: float
    parts: int
    core_hours: float
    wall_hours: float
    """Simulated wall time on the cores of Prices."""
    waiting: float
    """Share of the cores' time in which they are idle."""
    reads: float
    writes: float
    moved: float
    """Bytes sent over the network."""
    stored: float
    scarce: str = ""
    """Scarcest resource at this size."""


def simulate(parts: int, seconds: float, cores: int, driver: float) -> float:
    """Return the wall time of a map: every `driver` seconds the driver sends a task to the first idle core."""
    free = [0.0] * min(cores, max(parts, 1))
    for part in range(parts):
        heapq.heapreplace(free, max(free[0], part * driver) + seconds)
    return max(free)


def plan_stage(
    stage: str,
    rows: float,
    maps: Sequence[tuple[int, float]],
    requests: tuple[float, float],
    p: Prices,
    c: Costs,
    *,
    moved: float,
    stored: float,
    scarce: str = "",
    at_once: int = 1,
) -> StagePlan:
    """Return the cost of a stage of several maps (tasks, core seconds), with its requests distributed over them.

    Args:
        at_once: requests that a task has sent and waits for, on average.
    """
    waited = sum(requests) * p.request_seconds / at_once
    work = sum(seconds for _, seconds in maps) + waited
    wall = 0.0
    for parts, seconds in maps:
        share = seconds + waited * (parts / max(sum(n for n, _ in maps), 1))
        wall += simulate(parts, share / max(parts, 1), p.cores, c.part)
    total = sum(parts for parts, _ in maps)
    idle = max(1 - work / (wall * p.cores), 0.0) if wall else 0.0
    return StagePlan(stage, rows, total, work / 3600, wall / 3600, idle, *requests, moved, stored, scarce)


def plan_stages(pairs: float, p: Prices, c: Costs) -> list[StagePlan]:
    """Return the costs of the stages for `pairs` candidate pairs in WAT files."""
    archive = pairs / c.pairs_of_archive_byte
    files = max(math.ceil(archive / p.archive_bytes), 1)
    each = (FENCE + PUT) * 2 + (FENCE + PUT) + 2  # kept and dropped part, record, check and memory
    extract = plan_stage("extract", pairs, [(files, pairs * c.extract)], (files * each, files * 4.0), p, c, moved=archive,
                     stored=pairs * c.stored["extract"])  # fmt: skip
    kept = pairs * c.filter_kept
    filtered = plan_filter_stage(pairs, files, p, c)
    shards = math.ceil(kept / 10_000)
    fetched = kept * p.fetched
    download = plan_stage("download", kept, [(shards, kept * c.download)], (shards * 16.0, shards * 5.0), p, c,
                      moved=kept * p.fetched_bytes, stored=fetched * (p.image_bytes + RAW_ROW_BYTES),
                      scarce=f"{kept * p.fetched_bytes / 1e12:,.0f} TB from the web")  # fmt: skip
    curate = plan_curate_stage(fetched, shards, p, c)
    return [extract, filtered, download, curate, plan_pack_stage(fetched * p.curated, fetched, shards, p, c)]


def plan_operations(pairs: float, p: Prices, c: Costs) -> list[StagePlan]:
    """Return the costs of what plugins do in such a corpus later, by the requests that they state (`corpus_costs`)."""
    files = max(math.ceil(pairs / c.pairs_of_archive_byte / p.archive_bytes), 1)
    kept = pairs * c.filter_kept
    fetched, raw_shards = kept * p.fetched, math.ceil(kept / 10_000)
    shards = math.ceil(fetched * p.curated / 10_000)
    # extract twice and filter; of download the evidence and the dropped rows, whose rest is in curate
    rows = 3 * pairs + 2 * kept
    moved = pairs * (2 * c.stored["extract"] + c.stored["filter"]) + kept * OUTCOME_BYTES + fetched * c.stored["curate"]
    plans: list[StagePlan] = []
    for name, estimate in plugins.load("corpus_costs").items():
        requests, tasks = float(estimate(files, raw_shards, shards)), math.ceil(moved / BATCH_BYTES)
        plans.append(plan_stage(name, rows, [(tasks, rows * c.search)], (requests, 0.0), p, c, moved=moved, stored=0.0))
    return plans


class Requests(NamedTuple):
    """Reads and writes of a store."""

    reads: float = 0
    writes: float = 0

    def plus(self, reads: float = 0, writes: float = 0) -> "Requests":
        """Return the sum."""
        return Requests(self.reads + reads, self.writes + writes)


def exchange_requests(exchanges: Sequence[Exchange]) -> tuple[Requests, int]:
    """Return the requests of exchanges, without those of the writers' and readers' own records, and the merge tasks."""
    requests, tasks = Requests(), 0
    for exchange in exchanges:
        merges = len(exchange.merge_steps())
        if merges:
            groups = math.ceil(exchange.partitions / exchange.merges.partitions)
            pieces, tables = exchange.writers * groups, merges // groups
            requests = requests.plus(pieces * PIECE + merges * TASK, merges * (1 + PUT))
        else:
            tables = exchange.writers
        requests = requests.plus(exchange.partitions * tables * PIECE, exchange.writers)
        tasks += merges
    return requests, tasks


def plan_filter_stage(pairs: float, files: int, p: Prices, c: Costs) -> StagePlan:
    """Return the cost of filter."""
    rows, memory = int(pairs), p.memory_limit_bytes // p.cores_of_machine
    sizes = plan_sizes(rows, p.cores, memory)
    batches = cut_batches([("", rows // files)] * files, sizes.batch_rows)
    slices, units = sum(map(len, batches)), len(join_batches(batches))
    job = FilterJob(FilterConfig(), rows, len(batches), sizes.partitions, memory)
    exchanges = [job.exchange(kind) for kind in ("keys", "drop-reasons")]
    requests, merges = exchange_requests(exchanges)
    requests = requests.plus(len(batches) * (TASK + 2) + slices * 2, len(batches) * PUT + slices)  # apply_rules
    requests = requests.plus(sizes.partitions * TASK, sizes.partitions * PUT)  # drop_duplicates
    # write_parts: rows and verdicts of each slice, two parts of each file; afterwards the sizes of all parts
    requests = requests.plus(
        units * (2 * TASK + 1) + slices * 3 + files * (2 * FENCE + 2), units * (PUT + 1) + files * 2
    )
    maps = [
        (len(batches), pairs * c.filter),
        (merges + sizes.partitions, 0.0),
        (units, 0.0),
    ]  # the first takes the time
    moved = pairs * c.stored["extract"] * 2 + sum(2 * one.expected_bytes for one in exchanges)
    scarce = ", ".join(
        f"{one.kind} {one.writers:,} x {one.partitions:,} in merges of {one.merges.writers} x {one.merges.partitions}"
        for one in exchanges
    )
    return plan_stage(
        "filter", pairs, maps, requests, p, c, moved=moved, stored=pairs * c.stored["filter"], scarce=scarce
    )


def plan_curate_stage(rows: float, shards: int, p: Prices, c: Costs) -> StagePlan:
    """Return the cost of curate."""
    each = int(rows // shards)
    raw_shards = [RawShard("", each, "", "", "", CurateConfig())] * shards
    batches = batch_shards(raw_shards, CurateConfig().units)
    job = plan_job(CurateConfig(), each * shards, len(batches))
    exchanges = [job.exchange(kind) for kind in (*EXCHANGES, *["connected"] * (ROUNDS - 1))]
    requests, merges = exchange_requests(exchanges)
    tasks = len(group_shards(inspect_shard, raw_shards))
    # inspect_shard: rows, tar (its size too), a table; put_rows, put_candidates: the table again; put_decisions: one
    requests = requests.plus(tasks * TASK + shards * (1 + 2 + 1 + 1), tasks * PUT + shards * 2)
    # write_rows: rows and decisions, two parts; afterwards their sizes
    requests = requests.plus(tasks * TASK + shards * (1 + 1 + 2 * FENCE + 2), tasks * PUT + shards * 2)
    by_batch, by_partition, by_link_partition = 5, 2, ROUNDS + 1  # maps of choose_rows
    steps = len(batches) * by_batch + job.partitions * by_partition + job.near_partitions * 2
    steps += job.link_partitions * by_link_partition
    requests = requests.plus(steps * TASK + len(batches) * 7, steps * PUT + len(batches) * 2)
    maps = [(tasks, rows * c.curate), (steps + merges, 0.0), (tasks, 0.0)]  # the first takes the time
    moved = rows * p.image_bytes + sum(2 * one.expected_bytes for one in exchanges)
    stored = rows * c.stored["curate"]
    return plan_stage("curate", rows, maps, requests, p, c, moved=moved, stored=stored, scarce=f"{merges:,} merges")


def plan_pack_stage(rows: float, fetched: float, raw: int, p: Prices, c: Costs) -> StagePlan:
    """Return the cost of pack."""
    memory = p.memory_limit_bytes / p.cores_of_machine
    pack = plan_pack(rows, fetched, raw, p.image_bytes, memory)
    moved = pack.received + pack.sent
    # CPU time, and the network's, although other threads work during a transfer
    costs = PackCosts(**c.pack)
    seconds = rows * costs.row + moved * costs.byte + max(pack.received, pack.sent) / p.network_bytes
    maps = [(tasks, seconds / len(pack.tasks)) for tasks in pack.tasks]
    return plan_stage("pack", rows, maps, Requests(pack.reads, pack.writes), p, c, moved=moved,
                      stored=rows * (p.image_bytes + RAW_ROW_BYTES), scarce=describe(pack), at_once=3)  # fmt: skip
