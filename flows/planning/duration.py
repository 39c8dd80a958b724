"""Estimate the CPU time and the wall time of a stage, from earlier runs where there are some, else from measured costs."""

import math
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from dataops.snapshot import Manifest
from flows.config import RunConfig
from flows.planning.costs import Assumptions, load_costs
from flows.planning.history import Earlier, History, choose_timed
from flows.planning.train_cost import forward_flops, train_flops, uses_gpu
from tasks.curate.step import list_steps
from tasks.extract.config import SOURCE_KINDS
from tasks.filter.steps import SLICE_ROWS

PARALLEL = frozenset({"extract", "filter", "download", "curate", "pack"})
"""Stages whose work is distributed over the workers."""
START_SECONDS = {
    **{"extract": 1.1, "filter": 2.5, "download": 2.0, "curate": 1.7, "pack": 1.2},
    **{"train": 12.0, "evaluate": 5.0, "register": 4.5},
}
"""Wall time of a stage without a row, measured on two cores of an Intel Xeon (2026-11-28)."""
START_CPU_SECONDS = {
    **{"extract": 1.0, "filter": 2.0, "download": 1.5, "curate": 2.0, "pack": 1.5},
    **{"train": 14.0, "evaluate": 8.0, "register": 3.5},
}
"""CPU time of a stage without a row, measured likewise with `python -m benchmarks.estimates`."""
EVALUATE_OVERHEAD = 3.0
"""Time of an evaluation over that of both towers: decoding, prompts, probes and intervals, measured with the demo."""
UNEVEN = 1.06
"""Wall time over the CPU time of each worker, which do not end together (results/scale-2026-11-25.json)."""
BUSY = 1.3
"""Wall time of an earlier run over that of its CPU time, from which its machine was busy with other work."""
MIN_WORK = 0.25
"""Minimum share of the time of an earlier stage that its rows took, from which their cost is measured by it."""
MIN_CPU_SECONDS = 2.0
"""Minimum CPU time of the rows of an earlier stage that the speed of this machine is measured by."""


@dataclass(frozen=True)
class Duration:
    """The time of a stage that is made: of its start, and of all its work."""

    start: float
    work: float
    cpu_start: float
    cpu_work: float
    basis: str
    """From what it was estimated."""

    def seconds(self, share: float) -> float:
        """Return the wall time if this share of the work is left."""
        return self.start + self.work * share

    def cpu_seconds(self, share: float) -> float:
        """Return the CPU time if this share of the work is left."""
        return self.cpu_start + self.cpu_work * share


@dataclass(frozen=True)
class Machine:
    """The machine of a plan."""

    workers: int
    slowness: float = 1.0
    """CPU time of a row here over the measured one, by earlier runs of this machine."""


def estimate_duration(
    name: str, config: RunConfig, rows: float, tasks: int, earlier: Sequence[Earlier], machine: Machine
) -> Duration:
    """Return the duration of a stage.

    Args:
        rows: its input rows.
        tasks: the most tasks that its work can be distributed over.
        earlier: earlier snapshots of the stage, the nearest first.
    """
    units, start, cpu_start = _units(name, config, rows), START_SECONDS[name], START_CPU_SECONDS[name]
    if name == "register":
        timed = [one for one in earlier if one.seconds is not None]
        if not timed:
            return Duration(start, 0.0, cpu_start, 0.0, "measured costs")
        return Duration(timed[0].seconds or 0.0, 0.0, timed[0].cpu_seconds or cpu_start, 0.0, f"run {timed[0].run_id}")
    cores = _cores(name, config, machine.workers, tasks)
    timed = [one for one in choose_timed(earlier) if _is_comparable(name, config, one)]
    cost = unit_cpu_seconds(name, config) * (1.0 if _is_on_gpu(name, config) else machine.slowness)
    uneven = UNEVEN if cores > 1 and name in PARALLEL else 1.0
    if not timed:
        work = units * cost
        delays = 0.0
        if name == "extract":  # a crawl waits between the requests to a host
            delays = sum(one.waiting_seconds for one in config.source.tables)
        basis = "measured costs" if machine.slowness == 1.0 else f"measured costs times {machine.slowness:.2g}"
        return Duration(start + delays, work / cores * uneven, cpu_start, work, basis)
    nearest = timed[0]
    other = next((one for one in timed[1:] if not 0.5 < _units_of(name, one) / _units_of(name, nearest) < 2), None)
    used = [one for one in (nearest, other) if one is not None]
    done = [_units_of(name, one) for one in used]
    spent = [one.cpu_seconds for one in used if one.cpu_seconds is not None]
    if len(spent) == len(used):
        cpu_start, cpu_work = _fit(units, done, spent, cpu_start, cost)
    else:
        cpu_work = units * cost
    quiet = [_quiet_seconds(name, config, one) for one in used]
    is_busy = any((one.seconds or 0.0) > BUSY * found for one, found in zip(used, quiet, strict=True) if found)
    walls = [min(one.seconds or 0.0, found or math.inf) for one, found in zip(used, quiet, strict=True)]
    of_core = [_units_of(name, one) / _cores(name, config, one.workers, _tasks_of(name, one)) for one in used]
    start, work = _fit(units / cores, of_core, walls, start, cost * uneven)
    basis = f"run {nearest.run_id}" + (" by its CPU time, as its machine was busy" if is_busy else "")
    return Duration(start, work, cpu_start, cpu_work, basis)


def _fit(
    units: float, done: Sequence[float], values: Sequence[float], start: float, cost: float
) -> tuple[float, float]:
    """Return a constant and the value of all units, by one or two earlier values.

    Args:
        start: the measured constant.
        cost: the measured value of a unit, which counts where the earlier values have little of it.
    """
    if len(done) == 2 and abs(values[0] - values[1]) >= MIN_WORK * max(values):
        slope = max((values[0] - values[1]) / (done[0] - done[1]), 0.0)
        return max(values[0] - slope * done[0], 0.0), slope * units
    work = values[0] - min(start, 0.9 * values[0])
    if work < MIN_WORK * values[0]:
        work = min(cost * done[0], 0.9 * values[0])
    return values[0] - work, work * units / done[0]


def _quiet_seconds(name: str, config: RunConfig, one: Earlier) -> float | None:
    """Return the wall time that an earlier stage takes by its CPU time; None if it did not only compute."""
    is_computing = name in ("filter", "curate", "pack") or (name == "train" and not _is_on_gpu(name, config))
    if (
        one.cpu_seconds is None
        or one.is_remote
        or not is_computing
        or any(step.requests for step in list_steps(one.manifest.config))
    ):
        return None
    work = max(one.cpu_seconds - START_CPU_SECONDS[name], 0.0)
    cores = _cores(name, config, one.workers, _tasks_of(name, one))
    return START_SECONDS[name] + work / cores * UNEVEN


def _cores(name: str, config: RunConfig, workers: int, tasks: int) -> int:
    """Return the number of cores that a stage can use at the same time."""
    if name == "train":
        return 1 if _is_on_gpu(name, config) else config.train.threads * config.train.nproc
    return max(min(workers, tasks), 1) if name in PARALLEL else 1


def count_tasks(name: str, config: RunConfig, rows: float, files: int) -> int:
    """Return the most tasks that the work of a stage can be distributed over.

    Args:
        files: source files that extract reads.
    """
    sizes = {"filter": SLICE_ROWS, "download": config.download.shard_size, "pack": config.pack.shard_size}
    if name == "extract":
        return max(files, 1)
    return max(math.ceil(rows / sizes.get(name, config.download.shard_size)), 1)


def _tasks_of(name: str, one: Earlier) -> int:
    """Return the tasks of an earlier snapshot: one for each part of kept rows."""
    if name == "filter":
        return max(math.ceil(one.rows / SLICE_ROWS), 1)
    return max(len(one.manifest.named("part-")) if name in PARALLEL else 1, 1)


def _units(name: str, config: RunConfig, rows: float) -> float:
    """Return the work of a stage: rows, or for train the samples that it sees."""
    return rows * config.train.epochs if name == "train" else rows


def _units_of(name: str, one: Earlier) -> float:
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
        return list_steps(was) == list_steps(config.curate)
    return True


def _is_on_gpu(name: str, config: RunConfig) -> bool:
    return name in ("train", "evaluate") and uses_gpu(config)


def unit_cpu_seconds(name: str, config: RunConfig) -> float:
    """Return the measured CPU time of a row, or that of a sample or a test image; on a GPU its wall time."""
    costs = load_costs()
    if name == "extract":
        is_list = all(table.is_table for table in config.source.tables)
        return costs.cpu_of_row["extract"] if is_list else costs.extract
    if name in ("train", "evaluate"):
        flops = train_flops(config.train) if name == "train" else forward_flops(config.train) * EVALUATE_OVERHEAD
        if uses_gpu(config):
            return flops / (Assumptions().gpu_flops * config.train.nproc)
        cores = costs.train_cores if name == "train" else 1
        return flops / costs.train_flops * cores
    return costs.download if name == "download" else costs.cpu_of_row[name]


def measure_machine(history: History, workers: int) -> Machine:
    """Return this machine, with its speed by the CPU times of earlier stages on it."""
    costs, found = load_costs(), list[float]()
    for name, cost in costs.cpu_of_row.items():
        for one in history.of_stage(name):
            spent = one.cpu_seconds
            if spent is None or one.host != platform.node() or (name == "extract" and not _is_table(one.manifest)):
                continue
            if (expected := one.rows * cost) >= MIN_CPU_SECONDS:
                found.append(max(spent - START_CPU_SECONDS[name], 0.0) / expected)
    return Machine(workers, min(max(statistics.median(found), 0.25), 4.0) if found else 1.0)


def _is_table(extract: Manifest) -> bool:
    """Return whether the only source of a snapshot of extract is a table with a row for each pair."""
    kind = SOURCE_KINDS.get(extract.config.get("kind", ""))
    return kind is not None and kind.is_table
