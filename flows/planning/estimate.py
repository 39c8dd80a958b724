"""Estimate what a stage takes: rows, seconds, bytes, requests and dollars.

Costs come from earlier runs of the stage in this store where there are some, else from the measured costs of costs.json.
"""

import math
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dataops import plugins
from dataops.config import PriceConfig
from dataops.errors import PairmillError
from flows.config import RunConfig
from flows.planning.costs import RAW_ROW_BYTES, Assumptions, load_costs
from flows.planning.duration import PARALLEL, Machine, count_tasks, estimate_duration
from flows.planning.history import Earlier
from flows.planning.train_cost import uses_gpu
from tasks.curate.step import list_steps
from tasks.engine.stage import Stage


@dataclass
class Estimate:
    """What a stage takes, if it is made."""

    rows: float = 0.0
    kept: float = 0.0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """CPU time of all processes."""
    core_hours: float = 0.0
    gpu_hours: float = 0.0
    web_bytes: float = 0.0
    stored_bytes: float = 0.0
    reads: float = 0.0
    writes: float = 0.0
    dollars: float = 0.0
    model_requests: float = 0.0
    """Images that a model captions (a step of curate), each by one request or more if it is not cached."""
    at_most: bool = False
    """Whether it may be far less: the rows of a crawl of unknown sites are those of `source.max_pages`."""
    basis: list[str] = field(default_factory=list)
    """From what it was estimated."""


def estimate_stage(
    stage: Stage,
    config: RunConfig,
    rows: float,
    earlier: Sequence[Earlier],
    *,
    machine: Machine,
    fetched_rows: float,
    is_remote: bool,
    share_left: float = 1.0,
    files: int = 1,
    image_bytes: float | None = None,
) -> Estimate:
    """Return the estimate of a stage.

    Args:
        rows: its input rows.
        earlier: earlier snapshots of the stage, the nearest first.
        fetched_rows: rows in the raw shards, for the requests of pack.
        is_remote: whether the store is in S3, whose requests and bytes cost money.
        share_left: share of the rows that no unfinished attempt has done.
        files: source files that extract reads.
        image_bytes: stored bytes of an image in the raw shards; None to estimate them.
    """
    name, result, workers = stage.name, Estimate(rows=rows), machine.workers
    result.kept = rows * _kept_share(name, earlier)
    duration = estimate_duration(name, config, rows, count_tasks(name, config, rows, files), earlier, machine)
    result.seconds, result.cpu_seconds = duration.seconds(share_left), duration.cpu_seconds(share_left)
    result.basis.append(duration.basis)
    result.stored_bytes = _stored_bytes(name, config, rows, result.kept, earlier, image_bytes)
    if name == "download" and not config.stage_config("download").inputs():
        before = next((one.manifest for one in earlier if one.manifest.facts.get("bytes_fetched")), None)
        each = before.facts["bytes_fetched"] / max(before.counts.kept, 1) if before else Assumptions().fetched_bytes
        result.web_bytes = result.kept * each * share_left
    for step in list_steps(config.curate) if name == "curate" else ():
        if step.requests:
            requests, seconds = step.requests(getattr(config.curate, step.table), result.kept)
            result.model_requests += requests * share_left
            result.seconds = max(result.seconds, seconds * share_left)
    if is_remote:
        _add_requests(name, rows, fetched_rows, workers, result)
    _add_hours(name, config, workers, result)
    _add_dollars(config.execution.prices, result, is_remote=is_remote)
    return result


def _kept_share(stage: str, earlier: Sequence[Earlier]) -> float:
    for one in earlier:
        if one.rows:
            return one.manifest.counts.kept / one.rows
    return load_costs().kept.get(stage, 1.0)


def _stored_bytes(
    name: str, config: RunConfig, rows: float, kept: float, earlier: Sequence[Earlier], image_bytes: float | None
) -> float:
    """Return the bytes that a stage stores: those of a row, or those of a model and its evaluation."""
    for one in earlier:
        stored = float(sum(part.bytes for part in one.manifest.parts))
        if name not in PARALLEL:
            return stored
        if one.rows and not (name == "pack" and image_bytes):
            return rows * stored / one.rows
    if name in ("download", "pack"):
        return kept * (image_bytes or stored_image_bytes(config))
    return rows * load_costs().stored.get(name, 0.0)


def stored_image_bytes(config: RunConfig) -> float:
    """Return the bytes of an image and its row in the raw shards, by the size to which images are resized."""
    usual, side = Assumptions(), config.download.image_size
    return usual.image_bytes * (side / usual.image_side) ** 2 + RAW_ROW_BYTES


def _add_requests(name: str, rows: float, fetched_rows: float, workers: int, result: Estimate) -> None:
    """Add the requests to S3: as a plugin counts them for the stage, else those of writing the parts."""
    for count in plugins.load("request_counts").values():
        if (found := count(name, rows, fetched_rows, workers)) is not None:
            result.reads, result.writes = found
            return
    sizes = {"extract": 500_000, "filter": 500_000, "download": 10_000, "curate": 10_000, "pack": 10_000}
    tasks = max(math.ceil(rows / sizes[name]), 1) if name in sizes else 1
    result.reads, result.writes = tasks * 16.0, tasks * 5.0


def _add_hours(name: str, config: RunConfig, workers: int, result: Estimate) -> None:
    """Add the hours of the cores and GPUs that the stage occupies."""
    hours = result.seconds / 3600
    on_gpu = name in ("train", "evaluate") and uses_gpu(config)
    result.gpu_hours = hours * config.train.nproc if on_gpu else 0.0
    cores = workers if name in PARALLEL else config.train.threads * config.train.nproc if name == "train" else 1
    result.core_hours = hours * cores


def _add_dollars(prices: PriceConfig, result: Estimate, *, is_remote: bool) -> None:
    result.dollars = (
        result.core_hours * prices.core_hour
        + result.gpu_hours * prices.gpu_hour
        + result.web_bytes / 1e9 * prices.web_gigabyte
    )
    if is_remote:
        result.dollars += (result.reads * prices.get_million + result.writes * prices.put_million) / 1e6
        result.dollars += result.stored_bytes / 1e9 * prices.gigabyte_month


def count_test_images(config: RunConfig) -> float:
    """Return the number of images of the suite; 0 without a suite."""
    if config.evaluate.suite is None:
        return 0.0
    total = 0
    try:
        tasks = config.evaluate.load().tasks
    except PairmillError:
        return 0.0
    for task in tasks:
        root = Path(task.root)
        shards = sorted(root.rglob("*.tar")) if root.is_dir() else []
        for shard in shards:
            with tarfile.open(shard) as tar:
                total += sum(not one.name.endswith((".cls", ".txt", ".json")) for one in tar)
        if not shards and root.is_dir():
            total += sum(path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp") for path in root.rglob("*"))
    return float(total)
