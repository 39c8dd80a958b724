"""Simulate a thousand machines in a box: the real scheduling of a stage on a virtual clock, and a store in memory.

Workers are lost at 1% a minute and replaced, become ten times as slow, run out of memory or hang; the head is lost once,
and the store is silent for 90 s (tests/simulated_cluster.py). The stage is a map that writes parts, and an exchange of rows
between partitions. The snapshot must be that of one worker, and at most a tenth of the workers' time be lost. `--page FILE`
writes a page with the timeline.

    python -m benchmarks.cluster --page cluster.html
"""

import html
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from benchmarks.measure import Row, finish, make_parser
from dataops.config import StageConfig
from dataops.snapshot import Counts, Draft, Manifest, Record
from tasks.engine.context import TaskLimits
from tasks.engine.exchange import Exchange, Step, run
from tasks.engine.map_parts import map_parts
from tasks.engine.stage import Stage, StageOutput, Work, merge_records, plan
from tests.simulated_cluster import Faults, SimulatedCluster, Span, make_at_any_price

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


def put_part(draft: Draft, step: Step[Exchange]) -> Record:
    """Write a part."""
    part = draft.put_bytes(f"part-{step.number:05d}.bin", f"part {step.number}".encode(), 1)
    return Record(task=step.id, parts=[part], counts=Counts(input=1, kept=1))


def put_rows(draft: Draft, step: Step[Exchange]) -> None:
    """Write one row for each partition."""
    numbers = np.arange(step.job.partitions)
    step.job.write(draft, step.number, pl.DataFrame({"number": numbers * 100_003 + step.number}), numbers)


def list_rows(draft: Draft, step: Step[Exchange]) -> Record:
    """Write the rows of a partition as a part."""
    rows = step.job.read(draft, step.number)
    return Record(task=step.id, parts=[draft.put_table(f"rows-{step.number:05d}.parquet", rows.to_arrow())])


def make_simulated(work: Work[SimulatedConfig]) -> StageOutput:
    """Run the maps of the stage."""
    case = work.config.case
    moved = Exchange("rows", case.writers, case.partitions, expected_bytes=1 << 30, memory_bytes=1 << 26)
    mapped = partial(map_parts, run, draft=work.draft, context=work.context)
    records = mapped([Step(put_part, number, moved) for number in range(case.parts)])
    mapped([Step(put_rows, number, moved) for number in range(case.writers)])
    mapped(moved.merge_steps())
    records += mapped([Step(list_rows, number, moved) for number in range(case.partitions)])
    return StageOutput(*merge_records(records))


SIMULATED = Stage("filter", 1, make_simulated)


def seconds_of(task: str) -> float:
    """Return the time of a task on a usual worker."""
    return SECONDS[task.partition("-")[0]] * random.Random(task).lognormvariate(0, 0.3)


def simulate(case: Case, faults: Faults) -> tuple[Manifest, SimulatedCluster]:
    """Make the snapshot on a simulated cluster."""
    cluster = SimulatedCluster(faults, seconds_of)
    planned = plan(SIMULATED, SimulatedConfig(case=case), 0, [])
    return make_at_any_price(planned, cluster, TaskLimits(), DELAYS), cluster


# The page -------------------------------------------------------------------------------------------------------------

WIDTH, LEFT = 1100, 70
COLOURS = {
    "finished": "#8fb4d9", "machine lost": "#c62828", "out of memory": "#ef6c00", "stopped": "#7b1fa2", "head lost": "#222",
}  # fmt: skip
MEANINGS = {
    "finished": "a task that finished",
    "machine lost": "its machine was lost: the task ran again elsewhere",
    "out of memory": "its worker ran out of memory: it ran again, alone on a machine, after all others",
    "stopped": "another copy of it was faster, so it was stopped",
    "head lost": "the head was lost with all that ran; the stage was retried and kept what was finished",
}
SHOWN = 60
"""Workers with a line of their own."""


def draw_curve(values: Sequence[tuple[float, float]], end: float, top: float, height: int, colour: str) -> str:
    """Return a filled curve of (time, value)."""
    newest = {round(x_of(time, end), 1): height - height * value / top for time, value in values}
    points = " ".join(f"{x},{y:.1f}" for x, y in newest.items())
    return f'<polygon points="{LEFT},{height} {points} {WIDTH},{height}" fill="{colour}"/>'


def x_of(at: float, end: float) -> float:
    """Return the place of a time."""
    return LEFT + (WIDTH - LEFT) * at / end


def draw_axis(end: float, height: int, top: float, label: str) -> str:
    """Return the minutes below a chart, and its name and largest value beside it."""
    step = max(1, round(end / 60 / 10))
    marks = "".join(
        f'<text x="{x_of(60 * m, end):.0f}" y="{height + 16}" text-anchor="middle">{m}</text>'
        for m in range(0, int(end / 60) + 1, step)
    )
    names = f'<text x="{LEFT - 6}" y="12" text-anchor="end">{top:,.0f}</text>'
    return (
        f'{marks}{names}<text x="{LEFT - 6}" y="{height}" text-anchor="end">0</text><title>{html.escape(label)}</title>'
    )


def draw_marks(cluster: SimulatedCluster, end: float, height: int) -> Iterator[str]:
    """Yield the times of the store's silence and of the head's loss."""
    for begin, until in cluster.faults.outages:
        width = x_of(until, end) - x_of(begin, end)
        yield f'<rect x="{x_of(begin, end):.1f}" y="0" width="{width:.1f}" height="{height}" fill="#f4d35e" opacity="0.5"/>'
    for at in cluster.faults.head_lost:
        yield f'<rect x="{x_of(at, end):.1f}" y="0" width="2" height="{height}" fill="#222"/>'


def draw_chart(cluster: SimulatedCluster, values: Sequence[tuple[float, float]], name: str, colour: str) -> str:
    """Return a chart of (time, value), with its heading."""
    end, height, top = cluster.now(), 140, max(value for _, value in values)
    inner = draw_curve(values, end, top, height, colour) + "".join(draw_marks(cluster, end, height))
    svg = f'<svg viewBox="0 0 {WIDTH + 10} {height + 22}">{inner}{draw_axis(end, height, top, name)}</svg>'
    return f"<h2>{html.escape(name)}</h2>{svg}"


def draw_workers(cluster: SimulatedCluster) -> str:
    """Return a line for each of some workers, with what it did when: those with most faults first."""
    spans: dict[int, list[Span]] = {}
    for span in cluster.spans:
        spans.setdefault(span.worker, []).append(span)
    faults = {worker: sum(span.how not in ("finished", "head lost") for span in of) for worker, of in spans.items()}
    worst = sorted(spans, key=lambda worker: (-faults[worker], worker))[: SHOWN // 2]
    chosen = sorted({*worst, *random.Random(0).sample(sorted(spans), min(len(spans), SHOWN // 2))})
    end, height = cluster.now(), 9 * len(chosen)
    bars = []
    for row, worker in enumerate(chosen):
        for span in spans[worker]:
            width = max(x_of(span.ended, end) - x_of(span.began, end) - 0.6, 0.6)
            place = f'x="{x_of(span.began, end):.1f}" y="{9 * row}" width="{width:.1f}" height="7"'
            note = f"worker {worker}: {span.task}, {span.ended - span.began:.0f} s, {span.how}"
            bars.append(f'<rect {place} fill="{COLOURS[span.how]}"><title>{html.escape(note)}</title></rect>')
        bars.append(f'<text x="{LEFT - 6}" y="{9 * row + 7}" text-anchor="end" class="small">{worker}</text>')
    marks = "".join(draw_marks(cluster, end, height))
    return f'<svg viewBox="0 0 {WIDTH + 10} {height + 4}">{marks}{"".join(bars)}</svg>'


def count_over_time(changes: Sequence[tuple[float, int]]) -> list[tuple[float, float]]:
    """Return the running sum of changes at the begin and end of each."""
    total, found = 0, [(0.0, 0.0)]
    for at, change in sorted(changes):
        found.append((at, total))
        total += change
        found.append((at, total))
    return found


def write_page(path: Path, cluster: SimulatedCluster, lines: Sequence[str]) -> None:
    """Write the timeline."""
    alive = [(at, {"join": 1, "machine lost": -1}.get(what, 0)) for at, what in cluster.events]
    busy = [(span.began, 1) for span in cluster.spans] + [(span.ended, -1) for span in cluster.spans]
    alive.append((cluster.now(), 0))
    done = [(span.ended, 1) for span in cluster.spans if span.how == "finished"]
    style = "body{font:15px sans-serif;max-width:1120px;margin:24px auto;padding:0 12px;color:#222;background:#fff}"
    style += (
        "text{font:11px sans-serif}.small{font-size:8px}h2{font-size:16px;margin:22px 0 4px}i{display:inline-block;"
    )
    style += "width:14px;height:14px;margin-right:6px;vertical-align:-2px}li{list-style:none}ul{padding:0}"
    keys = [f'<li><i style="background:{COLOURS[how]}"></i>{html.escape(MEANINGS[how])}</li>' for how in COLOURS]
    keys += [
        '<li><i style="background:#f4d35e"></i>the store answered no request</li>',
        '<li><i style="background:#222;width:3px;margin:0 12px 0 5px"></i>the head of the cluster was lost</li>',
    ]
    body = [
        f"<h1>{cluster.faults.workers:,} workers, of which {cluster.faults.deaths_per_minute:.0%} a minute are lost</h1>",
        f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>",
        "<p>Times are virtual minutes.</p>",
        draw_chart(cluster, count_over_time(alive), "Machines", "#c9d6df"),
        draw_chart(cluster, count_over_time(busy), "Tasks that run", "#8fb4d9"),
        draw_chart(cluster, count_over_time(done), "Finished tasks", "#8cc6a1"),
        f"<h2>Some of the workers</h2><ul>{''.join(keys)}</ul>{draw_workers(cluster)}",
    ]
    head = f'<meta charset="utf-8"><title>Timeline of a simulated cluster</title><style>{style}</style>'
    path.write_text(f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n', "utf-8")


def main() -> int:
    """Run the benchmark and return its exit code."""
    parser = make_parser(__doc__ or "")
    parser.add_argument("--page", type=Path, help="write the timeline to this file")
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
        write_page(options.page, cluster, lines)
    rows = [
        Row("work kept", 1 - cluster.lost, 1.0, "all", "of the workers' time", goal=0.9),
        Row(
            "tasks a virtual minute", 60 * tasks / cluster.now(), 60 * tasks / useful, "no faults, no waiting", "tasks"
        ),
        Row("seconds of the simulation", 300 / took, 1.0, "5 minutes", "times as fast", goal=1.0),
    ]
    details = {"seconds": took, "cpu_seconds": cpu, "lines": lines, "calls": counts, "events": lost}
    return finish("cluster", rows, ["polars"], equal=equal, as_json=options.json, details=details)


if __name__ == "__main__":
    sys.exit(main())
