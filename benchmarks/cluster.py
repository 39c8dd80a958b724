"""Simulate a thousand machines in a box: the real scheduling of a stage on a virtual clock, and a store in memory.

Workers are lost at 1% a minute and replaced, become ten times as slow, run out of memory or hang; the head is lost once,
and the store is silent for 90 s (tests/simulated_cluster.py). The stage is a map that writes parts, and an exchange of rows
between partitions. The snapshot must be that of one worker, and at most a tenth of the workers' time be lost. `--page FILE`
draws the timeline.

    python -m benchmarks.cluster --page cluster.svg
"""

import random
import time
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from benchmarks.measure import Row, finish, make_parser
from dataops.config import StageConfig
from dataops.snapshot import Counts, Record
from tasks.engine.context import TaskLimits
from tasks.engine.exchange import Exchange, Step, run_step
from tasks.engine.map_parts import map_parts
from tasks.engine.stage import Stage, StageOutput, merge_records, plan
from tests.simulated_cluster import Faults, SimulatedCluster, make_at_any_price

SECONDS = {"put_part": 90.0, "put_rows": 60.0, "merge_tables": 30.0, "list_rows": 45.0}
"""Median time of a task, by its function."""
DELAYS = (5.0, 30.0)
"""As execution.retry_delays."""


class Case(NamedTuple):
    """Workers, and tasks of each kind."""

    workers: int
    parts: int
    writers: int
    partitions: int


class SimulatedConfig(StageConfig):
    """The sizes of the stage."""

    case: Case


def put_part(draft, step):
    """Write a part."""
    part = draft.put_bytes(f"part-{step.number:05d}.bin", f"part {step.number}".encode(), 1)
    return Record(task=step.id, parts=[part], counts=Counts(input=1, kept=1))


def put_rows(draft, step):
    """Write one row for each partition."""
    numbers = np.arange(step.job.partitions)
    step.job.write(draft, step.number, pl.DataFrame({"number": numbers * 100_003 + step.number}), numbers)


def list_rows(draft, step):
    """Write the rows of a partition as a part."""
    rows = step.job.read(draft, step.number)
    return Record(task=step.id, parts=[draft.put_table(f"rows-{step.number:05d}.parquet", rows.to_arrow())])


def make_simulated(work):
    """Run the maps of the stage."""
    case = work.config.case
    moved = Exchange("rows", case.writers, case.partitions, expected_bytes=1 << 30, memory_bytes=1 << 26)
    mapped = partial(map_parts, run_step, draft=work.draft, context=work.context)
    records = mapped([Step(put_part, number, moved) for number in range(case.parts)])
    mapped([Step(put_rows, number, moved) for number in range(case.writers)])
    mapped(moved.merge_steps())
    records += mapped([Step(list_rows, number, moved) for number in range(case.partitions)])
    return StageOutput(*merge_records(records))


SIMULATED = Stage("filter", 1, make_simulated)


def seconds_of(task):
    """Return the time of a task on a usual worker."""
    return SECONDS[task.partition("-")[0]] * random.Random(task).lognormvariate(0, 0.3)


def simulate(case, faults):
    """Make the snapshot on a simulated cluster."""
    cluster = SimulatedCluster(faults, seconds_of)
    planned = plan(SIMULATED, SimulatedConfig(case=case), 0, [])
    return make_at_any_price(planned, cluster, TaskLimits(), DELAYS), cluster


# The timeline ---------------------------------------------------------------------------------------------------------

COLOURS = {
    "finished": "#8fb4d9", "machine lost": "#c62828", "out of memory": "#ef6c00", "stopped": "#7b1fa2", "head lost": "#222",
}  # fmt: skip
"""Of how a task ended: with its machine it runs again elsewhere, out of memory alone, after all others; `stopped` is one of
which another copy was faster."""
SHOWN = 60
"""Workers with a line of their own: half of them those with most faults, and others by chance."""


def draw_page(path, cluster, lines):
    """Draw the timeline, in virtual minutes."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    spans = defaultdict(list)
    for span in cluster.spans:
        spans[span.worker].append(span)
    faults = {worker: sum(span.how not in ("finished", "head lost") for span in of) for worker, of in spans.items()}
    worst = sorted(spans, key=lambda worker: (-faults[worker], worker))[: SHOWN // 2]
    chosen = sorted({*worst, *random.Random(0).sample(sorted(spans), min(len(spans), SHOWN // 2))})
    curves = {
        "machines": [(at, {"join": 1, "machine lost": -1}.get(what, 0)) for at, what in cluster.events],
        "tasks that run": [change for span in cluster.spans for change in ((span.began, 1), (span.ended, -1))],
        "finished tasks": [(span.ended, 1) for span in cluster.spans if span.how == "finished"],
    }
    figure = Figure((12, 16), layout="constrained")
    figure.suptitle("\n".join(lines))
    *charts, workers = figure.subplots(4, 1, sharex=True, height_ratios=(1, 1, 1, 4))
    for chart, (name, changes) in zip(charts, curves.items(), strict=True):
        times, values = zip(*sorted(changes), strict=True)
        chart.fill_between(np.array(times) / 60, np.cumsum(values), step="post", rasterized=True)
        chart.set_title(name)
    for row, worker in enumerate(chosen):
        bars = [(span.began / 60, (span.ended - span.began) / 60) for span in spans[worker]]
        workers.broken_barh(bars, (row - 0.4, 0.8), facecolors=[COLOURS[span.how] for span in spans[worker]])
    workers.set_yticks(range(len(chosen)), chosen, fontsize=6)
    workers.set_title("workers by number, those with most faults and some by chance")
    workers.set_xlabel("minutes; yellow: the store is silent, black line: the head is lost")
    figure.legend([Patch(color=colour) for colour in COLOURS.values()], COLOURS, ncols=5, loc="outside lower center")
    for chart in (*charts, workers):
        for start, until in cluster.faults.outages:
            chart.axvspan(start / 60, until / 60, color="#f4d35e", alpha=0.5)
        for at in cluster.faults.head_lost:
            chart.axvline(at / 60, color="#222")
    figure.savefig(path, format="svg")


def main():
    """Run the benchmark and return its exit code."""
    parser = make_parser(__doc__)
    parser.add_argument("--page", type=Path, help="draw the timeline as SVG to this file")
    options = parser.parse_args()
    case = Case(100, 1000, 200, 50) if options.quick else Case(1000, 12_000, 2000, 500)
    faults = Faults(case.workers, head_lost=(600.0,), outages=((1000.0, 1090.0),))
    started, cpu = time.perf_counter(), time.process_time()
    made, cluster = simulate(case, faults)
    took, cpu = time.perf_counter() - started, time.process_time() - cpu
    calm, alone = simulate(case, Faults(1, deaths_per_minute=0, slow_per_minute=0, hungry=0, hung=0))
    equal = made.content_digest == calm.content_digest
    counts = Counter(span.how for span in cluster.spans)
    lost = Counter(what for _, what in cluster.events)
    tasks = len(alone.spans)
    useful = sum(span.ended - span.began for span in alone.spans) / case.workers
    lines = [
        f"{counts['finished']:,} tasks in {cluster.now() / 60:.0f} minutes; without faults and waiting {useful / 60:.0f}",
        f"machines lost {lost['machine lost']:,}, slowed down tenfold {lost['slows down']:,}; workers out of memory "
        f"{counts['out of memory']:,}; tasks overtaken by a second copy {counts['stopped']:,}; head lost once",
        f"{cluster.lost:.1%} of the workers' time was lost (at most 10% is the goal)",
        f"the snapshot {'is' if equal else 'IS NOT'} that of one worker; nobody did anything by hand",
    ]
    if options.page:
        draw_page(options.page, cluster, lines)
    rows = [
        Row("work kept", 1 - cluster.lost, 1.0, "all", "of the workers' time", goal=0.9),
        Row(
            "tasks a virtual minute", 60 * tasks / cluster.now(), 60 * tasks / useful, "no faults, no waiting", "tasks"
        ),
        Row("seconds of the simulation", 300 / took, 1.0, "5 minutes", "times as fast", goal=1.0),
    ]
    return finish(
        "cluster",
        rows,
        ["polars"],
        equal=equal,
        as_json=options.json,
        details={"seconds": took, "cpu_seconds": cpu, "lines": lines, "calls": counts, "events": lost},
    )


if __name__ == "__main__":
    raise SystemExit(main())
