"""What a corpus of some size would take: cores, hours, bytes, requests, rows of databases, money, and what gives way first.

    python -m benchmarks.plan [--pairs 128e6,1.28e9,12.8e9] [--dataset 400e6] [--cores 512] [--json]

The costs of a row are read from the kept measurements in benchmarks/results/ (of benchmarks/scale.py, extract.py and
download.py); none is written here. Requests and parts are counted as the code makes them. A simulation hands the parts of
each map to the cores as the driver does. What is neither measured nor counted is a price or a rate in `Prices`, which is
printed with the result.
"""

import argparse
import heapq
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dataops.text.duplicates import KEY_BYTES
from tasks.curate.config import CurateConfig
from tasks.curate.near_duplicates import block_searches
from tasks.curate.steps import GROUP_ROWS, NEAR_PARTITION_ROWS, PARTITION_ROWS
from tasks.curate.steps import partition_bits as ranges_of
from tasks.filter.stage import partition_bits
from tasks.filter.steps import SLICE_ROWS

RESULTS = Path(__file__).resolve().parent / "results"
FENCE, PUT = 3, 1
"""Requests of Draft.check_fence (two looks, one read) and of a part's own write (dataops/snapshot.py)."""
SETTLED_BYTES = 128
"""Of a row that has duplicates, while clusters are settled: its link of 32 bytes, four times (tasks/curate/near_duplicates.py)."""
ROW_BYTES = 3000
"""Caption and row of a sample in a shard (docs/datasets.md)."""


@dataclass(frozen=True)
class Prices:
    """What is assumed: prices in dollars, and rates that depend on the corpus."""

    core_hour: float = 0.04
    """Of a virtual core on demand: half a c6i.large, $0.085 in us-east-1. Source: aws.amazon.com/ec2/pricing, 2025."""
    gpu_hour: float = 2.5
    """Of an H100 on demand; clouds ask $2 to $5. Source: mercatus-ai.com/blog/cloud-gpu-pricing, May 2026."""
    get_million: float = 0.4
    put_million: float = 5.0
    gigabyte_month: float = 0.023
    """S3 Standard in us-east-1, the first 50 TB. Source: aws.amazon.com/s3/pricing, 2025."""
    cores: int = 512
    cores_of_machine: int = 64
    memory_limit_bytes: int = 128 << 30
    """`filter.memory_limit_bytes`: half of such a machine's."""
    archive_bytes: float = 200e6
    """Of a WAT file. Source: Common Crawl's crawls of 2024, 90,000 files of 18 TB."""
    request_seconds: float = 0.02
    """From a core to S3 and back."""
    fetched: float = 0.75
    """Share of the addresses that give a picture."""
    curated: float = 0.9
    """Share of the pictures that curation keeps."""
    duplicates: float = 0.2
    """Share of the pictures that have a duplicate, or are one."""
    picture_bytes: int = 25_000
    """Stored, of 256 pixels. Source: LAION-400M, 10 TB."""
    fetched_bytes: int = 120_000
    """Of a picture on the wire: 11.3 MB/s at 92 a second in docs/download-rows.md."""
    gpus: int = 64
    gpu_flops: float = 0.35 * 990e12
    """Of one, reached: 35% of an H100's bfloat16 peak."""
    sample_flops: float = 3 * 14.78e9
    """ViT-B-32, a step of one sample. Source: open_clip, model_profile.csv."""
    samples_of_pair: int = 1
    """Times that training sees each pair of a dataset."""


@dataclass(frozen=True)
class Costs:
    """Measured: seconds of a core for a row, bytes that are stored of it, and what a part costs the driver."""

    extract: float
    filter: float
    download: float
    curate: float
    pack: float
    filter_kept: float
    pairs_of_archive_byte: float
    stored: dict[str, float]
    """Bytes a row of what comes in, by stage."""
    part: float
    """Seconds of the driver."""


@dataclass(frozen=True)
class StagePlan:
    """One stage of one corpus."""

    stage: str
    rows: float
    parts: int
    core_hours: float
    wall_hours: float
    """As simulated, on the cores of Prices."""
    waiting: float
    """Share of the cores' time that goes to neither work nor requests."""
    reads: float
    writes: float
    moved: float
    """Bytes that cross the network."""
    stored: float
    scarce: str = ""
    """What is scarce at this size."""


def latest(name: str) -> dict[str, Any]:
    """The newest kept result of a benchmark."""
    found = sorted(RESULTS.glob(f"{name}-2*.json"))
    if not found:
        sys.exit(f"{RESULTS} has no {name}-DATE.json: run python -m benchmarks.{name} and keep what it prints there")
    return json.loads(found[-1].read_text())


def measured() -> Costs:
    """The costs, as kept. Of two sizes the difference counts: what a process takes to start is no cost of a row."""
    scale, extract, download = latest("scale"), latest("extract"), latest("download")
    runs: dict[str, list[dict[str, Any]]] = {}
    for cost in scale["stages"]:
        if cost["engine"] == "local1":
            runs.setdefault(cost["stage"], []).append(cost)

    def slope(stage: str, what: str) -> float:
        few, many = min(runs[stage], key=lambda c: c["rows"]), max(runs[stage], key=lambda c: c["rows"])
        return max((many[what] - few[what]) / (many["rows"] - few["rows"]), 0.0)

    cases = {row["case"]: row["ours"] for row in extract["rows"]}
    pairs_of_byte = cases["wat pairs, links"] / (cases["wat pairs"] * 1e6)
    counts = json.loads(max(runs["filter"], key=lambda c: c["rows"])["counts"])
    parts = {row["case"]: row["ours"] for row in scale["rows"] if row["case"].startswith("parts ")}
    return Costs(
        extract=1 / (cases["wat whole stage"] * 1e6 * pairs_of_byte),
        filter=slope("filter", "cpu_seconds"),
        download=(download["machine"]["cores"])
        / max(row["ours"] for row in download["rows"] if row["unit"] == "images/s"),
        curate=slope("curate", "cpu_seconds"),
        pack=slope("pack", "cpu_seconds"),
        filter_kept=counts["kept"] / counts["input"],
        pairs_of_archive_byte=pairs_of_byte,
        stored={stage: slope(stage, "stored_bytes") for stage in runs},
        part=1 / parts.get("parts ray", max(parts.values())),
    )


def simulate(parts: int, seconds: float, cores: int, driver: float) -> float:
    """Wall seconds of a map: the driver hands over a part each `driver` seconds, to the first core that is free."""
    free = [0.0] * min(cores, max(parts, 1))
    for part in range(parts):
        heapq.heapreplace(free, max(free[0], part * driver) + seconds)
    return max(free)


def staged(stage: str, rows: float, maps: Sequence[tuple[int, float]], requests: tuple[float, float], p: Prices, c: Costs,
           *, moved: float, stored: float, scarce: str = "") -> StagePlan:  # fmt: skip
    """A stage of several maps, each so many parts of so many core seconds in all, and its requests spread over them."""
    waited = sum(requests) * p.request_seconds
    work = sum(seconds for _, seconds in maps) + waited
    wall = 0.0
    for parts, seconds in maps:
        share = seconds + waited * (parts / max(sum(n for n, _ in maps), 1))
        wall += simulate(parts, share / max(parts, 1), p.cores, c.part)
    total = sum(parts for parts, _ in maps)
    idle = max(1 - work / (wall * p.cores), 0.0) if wall else 0.0
    return StagePlan(stage, rows, total, work / 3600, wall / 3600, idle, *requests, moved, stored, scarce)


def planned(pairs: float, p: Prices, c: Costs) -> list[StagePlan]:
    """The stages of a corpus of so many candidate pairs in WAT archives."""
    archive = pairs / c.pairs_of_archive_byte
    files = max(math.ceil(archive / p.archive_bytes), 1)
    each = (FENCE + PUT) * 2 + (FENCE + PUT) + 2  # kept and dropped part, record, a look before and a memory
    extract = staged("extract", pairs, [(files, pairs * c.extract)], (files * each, files * 4.0), p, c, moved=archive,
                     stored=pairs * c.stored["extract"])  # fmt: skip
    kept = pairs * c.filter_kept
    filtered = _filter(pairs, files, p, c)
    shards = math.ceil(kept / 10_000)
    fetched = kept * p.fetched
    download = staged("download", kept, [(shards, kept * c.download)], (shards * 16.0, shards * 5.0), p, c,
                      moved=kept * p.fetched_bytes, stored=fetched * (p.picture_bytes + ROW_BYTES),
                      scarce=f"{kept * p.fetched_bytes / 1e12:,.0f} TB from the web")  # fmt: skip
    curate = _curate(fetched, shards, p, c)
    return [extract, filtered, download, curate, _pack(fetched * p.curated, shards, p, c)]


def _filter(pairs: float, files: int, p: Prices, c: Costs) -> StagePlan:
    slices = math.ceil(pairs / SLICE_ROWS)
    ranges = 1 << partition_bits(int(pairs), p.cores_of_machine, p.memory_limit_bytes)
    # `choose` looks at a table of each slice from each range, `write` at one of each range for each slice (tasks/engine/partition_tables.py:
    # a look at the object, which a machine then has).
    crossed = 2.0 * slices * ranges
    reads = crossed + (slices + ranges + files) * (FENCE + 2) + files * 2 * FENCE
    writes = slices * 3.0 + ranges * 2.0 + files * 4.0
    machines = max(p.cores // p.cores_of_machine, 1)
    scratch = pairs * KEY_BYTES  # each machine fetches the keys of all rows
    maps = [(slices, pairs * c.filter), (ranges, 0.0), (files, 0.0)]  # judging takes most: all is counted there
    scarce = f"looks at {crossed:,.0f} tables of slices and ranges"
    return staged("filter", pairs, maps, (reads, writes), p, c, moved=pairs * c.stored["extract"] + scratch * machines,
                  stored=pairs * c.stored["filter"], scarce=scarce)  # fmt: skip


def _curate(rows: float, shards: int, p: Prices, c: Costs) -> StagePlan:
    groups, config = math.ceil(rows / GROUP_ROWS), CurateConfig()
    ranges, near_bits = 1 << ranges_of(int(rows), PARTITION_ROWS), ranges_of(int(rows), NEAR_PARTITION_ROWS)
    near = len(block_searches(near_bits, config.near_duplicate_distance)) << near_bits
    # Of the tables that cross: what is compared by bytes and by pixels, what has left (five times), three of the near.
    crossed = groups * (7.0 * ranges + 3.0 * near)
    tasks = groups * 5 + ranges * 2 + near * 2
    maps = [(shards, rows * c.curate), (tasks, 0.0), (shards, 0.0)]  # judging takes most: all is counted there
    reads, writes = shards * 24.0 + tasks * FENCE + crossed, shards * 5.0 + tasks * 2.0
    scarce = f"looks at {crossed:,.0f} tables, {rows * p.duplicates * SETTLED_BYTES / 1e9:,.0f} GB to settle clusters"
    return staged("curate", rows, maps, (reads, writes), p, c, moved=rows * p.picture_bytes,
                  stored=rows * c.stored["curate"], scarce=scarce)  # fmt: skip


def _pack(rows: float, raw: int, p: Prices, c: Costs) -> StagePlan:
    shards = math.ceil(rows / 10_000)
    met = min(rows, raw * shards)  # of each raw shard, each training shard wants something or nothing
    maps = [(raw, 0.0), (shards, rows * c.pack)]
    return staged("pack", rows, maps, (rows + met + raw * 10.0, shards * 5.0 + raw * 2.0), p, c,
                  moved=2 * rows * p.picture_bytes, stored=rows * (p.picture_bytes + ROW_BYTES),
                  scarce=f"{rows + met:,.0f} reads of pictures")  # fmt: skip


def summary(pairs: float, p: Prices, c: Costs) -> dict[str, Any]:
    """A corpus whole."""
    stages = planned(pairs, p, c)
    dataset = pairs * c.filter_kept * p.fetched * p.curated
    samples = dataset * p.samples_of_pair
    gpu_hours = samples * p.sample_flops / p.gpu_flops / 3600
    steps = samples / 32_768
    cores = sum(stage.core_hours for stage in stages)
    money = {
        "cores": cores * p.core_hour,
        "requests": sum(s.reads * p.get_million + s.writes * p.put_million for s in stages) / 1e6,
        "a month of storage": sum(stage.stored for stage in stages) / 1e9 * p.gigabyte_month,
        "training": gpu_hours * p.gpu_hour,
    }
    return {
        "pairs": pairs,
        "dataset": dataset,
        "stages": [asdict(stage) for stage in stages],
        "core_hours": cores,
        "wall_hours": sum(stage.wall_hours for stage in stages),
        "gpu_hours": gpu_hours,
        "prefect_task_runs": 8,
        "prefect_task_runs_if_one_a_part": sum(stage.parts for stage in stages),
        "mlflow_rows": 60 + steps / 50 * 15,
        "records_in_driver_bytes": 3000 * max(stage.parts for stage in stages),
        "dollars": money,
    }


def table(found: dict[str, Any]) -> str:
    """A corpus as Markdown."""
    lines = [
        f"### {found['pairs']:,.0f} candidates, {found['dataset']:,.0f} pairs in the dataset",
        "",
        "| stage | rows | parts | core hours | wall hours | idle | reads | writes | moved | stored | scarce |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for s in found["stages"]:
        lines.append(
            f"| {s['stage']} | {s['rows']:,.0f} | {s['parts']:,} | {s['core_hours']:,.1f} | {s['wall_hours']:,.2f} "
            f"| {s['waiting']:.0%} | {s['reads']:,.0f} | {s['writes']:,.0f} | {s['moved'] / 1e12:,.2f} TB "
            f"| {s['stored'] / 1e12:,.2f} TB | {s['scarce']} |"
        )
    money = ", ".join(f"{name} ${value:,.0f}" for name, value in found["dollars"].items())
    lines += [
        "",
        f"{found['core_hours']:,.0f} core hours, {found['wall_hours']:,.1f} h; {found['gpu_hours']:,.0f} GPU hours. "
        f"{money}. Prefect: {found['prefect_task_runs']} task runs (one a part would be "
        f"{found['prefect_task_runs_if_one_a_part']:,}). MLflow: {found['mlflow_rows']:,.0f} rows.",
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    """Print the plan."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", default="128e6,1.28e9,12.8e9", help="candidates")
    parser.add_argument(
        "--dataset", type=float, default=400e6, help="a dataset of so many pairs: its candidates follow"
    )
    parser.add_argument("--cores", type=int, default=Prices.cores)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    prices, costs = replace(Prices(), cores=options.cores), measured()
    kept = costs.filter_kept * prices.fetched * prices.curated
    sizes = [*map(float, options.pairs.split(",")), options.dataset / kept]
    found = [summary(pairs, prices, costs) for pairs in sizes]
    if options.json:
        sys.stdout.write(json.dumps({"prices": asdict(prices), "costs": asdict(costs), "plans": found}) + "\n")
    else:
        sys.stdout.write("\n".join([*map(table, found), json.dumps({**asdict(prices), **asdict(costs)}), ""]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
