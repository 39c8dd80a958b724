"""Simulate how long a download takes that asks each host at its rate, with the real cut and order of tasks.

A web of hosts with Zipf sizes is cut into shards by tasks.download.host_cut; tasks.engine.map_parts.TaskQueue decides which
task starts next, and a virtual clock runs them on many workers. A shard takes as long as a worker needs for its images, or
as the host with the most rows in it at its rate, and two seconds to start and to commit. No process can be faster than the
bound: the time of the longest host at its rate, or that of all images on all workers.

    python -m benchmarks.hosts
"""

import heapq
import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from benchmarks.measure import Row, finish, make_parser
from tasks.download.host_cut import INTERVAL, PARTITION_ROWS, Unit, bundle_units
from tasks.engine.map_parts import TaskOrder, TaskQueue

IMAGES_PER_SECOND, OVERHEAD = 1 / 0.009140767824497258, 2.0
"""Of one core, and seconds of a shard besides. Source: plugins/corpus_plan/costs.json."""
SHARD = 10_000


class Case(NamedTuple):
    """A web and the workers that download it."""

    rows: int
    exponent: float
    """Of the Zipf law by which hosts have rows."""
    workers: int
    hosts: int = 10_000


@dataclass(frozen=True)
class Shard:
    """One task."""

    id: str
    chain: str
    planned: float
    """Seconds that the cut expects."""
    seconds: float


def make_web(case: Case) -> list[Unit]:
    """Return the hosts with their rows."""
    shares = [rank**-case.exponent for rank in range(1, case.hosts + 1)]
    scale = case.rows / sum(shares)
    return [Unit(f"h{rank}.com", max(1, round(share * scale))) for rank, share in enumerate(shares)]


def cut_shards(web: Sequence[Unit]) -> list[Shard]:
    """Return the shards of a web, partition by partition as a download cuts it."""
    count = max(1, math.ceil(sum(unit.rows for unit in web) / PARTITION_ROWS))
    partitions: defaultdict[int, list[Unit]] = defaultdict(list)
    for unit in web:
        partitions[xxh3_64_intdigest(unit.name.encode()) % count].append(unit)
    shards = []
    for number, units in sorted(partitions.items()):
        for index, bundle in enumerate(bundle_units(units, SHARD)):
            rows = sum(unit.rows for unit in bundle.units)
            work = max(rows / IMAGES_PER_SECOND, max(unit.seconds for unit in bundle.units))
            for shard in range(bundle.shards):
                name = f"{number}-{index}"
                shards.append(
                    Shard(f"{name}-{shard}", name, bundle.seconds / bundle.shards, work / bundle.shards + OVERHEAD)
                )
    return shards


def simulate(shards: Sequence[Shard], workers: int) -> float:
    """Return the seconds until the last shard is done."""
    queue = TaskQueue(shards, TaskOrder[Shard](lambda shard: shard.chain, lambda shard: shard.planned, ahead=1))
    running: list[tuple[float, int, Shard]] = []
    now, started = 0.0, 0
    while True:
        while len(running) < workers and (shard := queue.pop()) is not None:
            heapq.heappush(running, (now + shard.seconds, started, shard))
            started += 1
        if not running:
            assert started == len(shards), "a shard never started"
            return now
        now, _, shard = heapq.heappop(running)
        queue.end(shard)


CASES = [
    *(Case(20_000_000, exponent, workers) for exponent in (0.0, 0.5, 1.0) for workers in (16, 512, 5_000)),
    Case(200_000_000, 0.5, 512),
    Case(200_000_000, 0.5, 5_000),
]


def run(case: Case) -> Row:
    """Simulate a case, and compare the images per second with the bound."""
    web = make_web(case)
    rows = sum(unit.rows for unit in web)
    longest, together = max(unit.rows for unit in web) * INTERVAL, rows / IMAGES_PER_SECOND / case.workers
    bound, took = max(longest, together), simulate(cut_shards(web), case.workers)
    name = f"{case.rows:,} rows, Zipf {case.exponent}, {case.workers:,} workers: {took / 3600:.2f} h"
    limit = f"bound {bound / 3600:.2f} h, by {'the longest host' if longest > together else 'all images'}"
    return Row(name, rows / took, rows / bound, limit, "images/s", goal=0.9)


if __name__ == "__main__":
    options = make_parser(__doc__ or "").parse_args()
    chosen = [case for case in CASES if case.rows < 100_000_000 or not options.quick]
    sys.exit(finish("hosts", [run(case) for case in chosen], [], equal=True, as_json=options.json))
