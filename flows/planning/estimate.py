"""Estimate what a stage takes: rows, seconds, bytes, requests and dollars.

Costs come from earlier runs of the stage in this store where there are some, else from the measured costs of costs.json.
"""

import math
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dataops.config import PriceConfig
from dataops.errors import PairmillError
from flows.config import RunConfig
from flows.planning import corpus
from flows.planning.corpus import Prices, load_costs
from flows.planning.history import Earlier, choose_timed
from flows.planning.pack_requests import RAW_ROW_BYTES
from flows.planning.train_cost import forward_flops, train_flops
from tasks.engine.stage import Stage

PARALLEL = frozenset({"extract", "filter", "download", "curate", "pack"})
"""Stages whose work is distributed over the workers."""
START_SECONDS = {
    **{"extract": 1.5, "filter": 2.5, "download": 2.0, "curate": 1.7, "pack": 1.2},
    **{"train": 12.0, "evaluate": 12.0, "register": 4.5},
}
"""Seconds of a stage without a row, measured on two cores of an Intel Xeon with the demo (2026-11-27)."""
EVALUATE_OVERHEAD = 2.6
"""Time of an evaluation over that of both towers: decoding, prompts, probes and intervals, measured with the demo."""


@dataclass
class Estimate:
    """What a stage takes, if it is made."""

    rows: float = 0.0
    kept: float = 0.0
    seconds: float = 0.0
    core_hours: float = 0.0
    gpu_hours: float = 0.0
    web_bytes: float = 0.0
    stored_bytes: float = 0.0
    reads: float = 0.0
    writes: float = 0.0
    dollars: float = 0.0
    model_requests: float = 0.0
    """Images that a model captions (`[curate.recaption]`), each by one request or more if it is not cached."""
    basis: list[str] = field(default_factory=list)
    """From what it was estimated."""


def estimate_stage(
    stage: Stage,
    config: RunConfig,
    rows: float,
    earlier: Sequence[Earlier],
    *,
    workers: int,
    fetched_rows: float,
    is_remote: bool,
    share_left: float = 1.0,
) -> Estimate:
    """Return the estimate of a stage.

    Args:
        rows: its input rows.
        earlier: earlier snapshots of the stage, the nearest first.
        fetched_rows: rows in the raw shards, for the requests of pack.
        is_remote: whether the store is in S3, whose requests and bytes cost money.
        share_left: share of the rows that no unfinished attempt has done.
    """
    name, result = stage.name, Estimate(rows=rows)
    result.kept = rows * _kept_share(name, earlier)
    start, work = _seconds(stage, config, rows, earlier, workers, result)
    result.seconds = start + work * share_left
    result.stored_bytes = rows * _stored_per_row(name, earlier)
    if name == "download" and not config.stage_config("download").inputs():
        before = next((one.manifest for one in earlier if one.manifest.facts.get("bytes_fetched")), None)
        each = before.facts["bytes_fetched"] / max(before.counts.kept, 1) if before else Prices().fetched_bytes
        result.web_bytes = result.kept * each * share_left
    if name == "curate" and config.curate.recaption:
        recaption = config.curate.recaption
        result.model_requests = min(result.kept, recaption.max_images or result.kept) * share_left
        if recaption.requests_per_second:
            result.seconds = max(result.seconds, result.model_requests / recaption.requests_per_second)
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


def _stored_per_row(stage: str, earlier: Sequence[Earlier]) -> float:
    for one in earlier:
        if one.rows:
            return sum(part.bytes for part in one.manifest.parts) / one.rows
    if stage == "download":
        return Prices().fetched * (Prices().image_bytes + RAW_ROW_BYTES)
    return load_costs().stored.get(stage, 0.0)


def _seconds(
    stage: Stage, config: RunConfig, rows: float, earlier: Sequence[Earlier], workers: int, result: Estimate
) -> tuple[float, float]:
    """Return the wall time of a stage before its first row and for all rows, and note from what it was estimated."""
    name = stage.name
    start = START_SECONDS[name]
    units = _units(name, config, rows)
    timed = [one for one in choose_timed(earlier) if _is_comparable(name, config, one)]
    if name == "register":
        timed = [one for one in earlier if one.seconds is not None]
        result.basis.append(f"run {timed[0].run_id}" if timed else "measured costs")
        return (timed[0].seconds or 0.0 if timed else start), 0.0
    if timed:
        result.basis.append(f"run {timed[0].run_id}")
        return _from_runs(name, units, timed, start, workers)
    result.basis.append("measured costs")
    if name == "extract":  # a crawl waits between the requests to a host
        start += sum(getattr(one, "delay", 0.0) * getattr(one, "max_pages", 0) for one in config.source.tables)
    return start, units * _unit_seconds(name, config) / (workers if name in PARALLEL else 1)


def _from_runs(name: str, units: float, timed: Sequence[Earlier], start: float, workers: int) -> tuple[float, float]:
    """Return both parts of the wall time by one or two earlier runs: a constant, and a time for each unit of work."""
    nearest = timed[0]
    seconds, done = nearest.seconds or 0.0, _earlier_units(name, nearest)
    other = next((one for one in timed[1:] if not 0.5 < _earlier_units(name, one) / done < 2), None)
    scale = nearest.workers / workers if name in PARALLEL else 1.0
    if other is not None and nearest.workers == other.workers:
        slope = max((seconds - (other.seconds or 0.0)) / (done - _earlier_units(name, other)), 0.0)
        start = max(seconds - slope * done, 0.0)
        return start, slope * units * scale
    start = min(start, 0.9 * seconds)
    return start, (seconds - start) * units / done * scale


def _units(name: str, config: RunConfig, rows: float) -> float:
    """Return the work of a stage: rows, or for train the samples that it sees."""
    return rows * config.train.epochs if name == "train" else rows


def _earlier_units(name: str, one: Earlier) -> float:
    return one.rows * float(one.manifest.config.get("epochs", 1)) if name == "train" else float(one.rows)


def _is_comparable(name: str, config: RunConfig, one: Earlier) -> bool:
    """Return whether the time of an earlier snapshot predicts that of this one."""
    was = one.manifest.config
    if name == "train":
        now = config.train.key_config()
        return all(was.get(key) == now.get(key) for key in ("model", "image_size", "phase"))
    if name == "extract":
        return was.get("kind") == config.stage_config("source").key_config().get("kind")
    if name == "curate":
        wanted = config.curate.key_config()
        return all(bool(was.get(table)) == bool(wanted.get(table)) for table in ("scores", "recaption"))
    return True


def _unit_seconds(name: str, config: RunConfig) -> float:
    """Return the measured core seconds of a row, or the seconds of a sample or of a test image on one device."""
    costs = load_costs()
    if name == "extract":
        is_list = all(table.key_config().get("kind") == "pairs" for table in config.source.tables)
        return costs.extract_list if is_list else costs.extract
    if name == "pack":
        return costs.pack_local
    if name in ("train", "evaluate"):
        train = config.train
        flops = train_flops(train) if name == "train" else forward_flops(train) * EVALUATE_OVERHEAD
        if uses_gpu(config):
            return flops / (Prices().gpu_flops * config.train.nproc)
        return flops / costs.train_flops
    return float(getattr(costs, name))


def uses_gpu(config: RunConfig) -> bool:
    """Return whether training uses a GPU: by the config, else by whether this machine has NVIDIA's driver."""
    if config.train.device != "auto" or config.train.launch != "local":
        return config.train.device != "cpu"
    return shutil.which("nvidia-smi") is not None


def _add_requests(name: str, rows: float, fetched_rows: float, workers: int, result: Estimate) -> None:
    """Add the requests to S3, which are counted as the code makes them."""
    prices, costs = Prices(cores=workers, cores_of_machine=workers, memory_limit_bytes=4 << 30), load_costs()
    shards = max(math.ceil(rows / 10_000), 1)
    if name == "filter":
        found = corpus.plan_filter_stage(max(rows, 1), max(math.ceil(rows / 500_000), 1), prices, costs)
        result.reads, result.writes = found.reads, found.writes
    elif name == "curate":
        found = corpus.plan_curate_stage(max(rows, 1), shards, prices, costs)
        result.reads, result.writes = found.reads, found.writes
    elif name == "pack":
        raw = max(math.ceil(fetched_rows / 10_000), 1)
        found = corpus.plan_pack_stage(max(rows, 1), max(fetched_rows, rows, 1), raw, prices, costs)
        result.reads, result.writes = found.reads, found.writes
    else:
        tasks = {"download": shards, "extract": max(math.ceil(rows / 500_000), 1)}.get(name, 1)
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
