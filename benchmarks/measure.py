"""What the benchmarks share: ours and a peer measured in turn in one run, and the JSON object that they end with."""

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True)
class Row:
    """One case: work per second of ours and of the peer."""

    case: str
    ours: float
    peer: float
    peer_name: str
    unit: str
    goal: float | None = None
    """Least ratio of ours to the peer's."""
    limit: float | None = None
    """What could not be passed: the same unit."""

    def as_dict(self) -> dict[str, Any]:
        ratio = self.ours / self.peer if self.peer else None
        met = None if self.goal is None or ratio is None else ratio >= self.goal
        return {
            **{
                "case": self.case,
                "ours": _rounded(self.ours),
                "peer": _rounded(self.peer),
                "peer_name": self.peer_name,
            },
            **{
                "unit": self.unit,
                "ratio": _rounded(ratio),
                "limit": _rounded(self.limit),
                "goal": self.goal,
                "met": met,
            },
        }


def in_turn(
    ours: Callable[[], Any], peer: Callable[[], Any], times: int, clock: Callable[[], float] = time.perf_counter
) -> tuple[float, float, Any, Any]:
    """Seconds (medians) of ours and of the peer, run A B A B, and what each returned last."""
    seconds: tuple[list[float], list[float]] = ([], [])
    results: list[Any] = [None, None]
    for _ in range(times):
        for which, run in enumerate((ours, peer)):
            started = clock()
            results[which] = run()
            seconds[which].append(clock() - started)
    return statistics.median(seconds[0]), statistics.median(seconds[1]), results[0], results[1]


def peak_bytes() -> int:
    """The greatest memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class TreeMemory:
    """The greatest memory that a process and all that it started had at one time, while the `with` lasts.

    Summed up every 20 ms: `peak` of their resident sets (what several share, as libraries, counts once for each of them),
    `own` of what they have allocated, which is no file's and so no other's.
    """

    def __init__(self, pid: int):
        self.pid, self.peak, self.own = pid, 0, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "TreeMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        try:
            root = psutil.Process(self.pid)
        except psutil.NoSuchProcess:
            return
        tree, looks = [root], 0
        while not self._over.wait(0.02):
            if looks % 5 == 0:
                tree = _descendants(root)
            looks += 1
            resident, own = map(sum, zip(*map(_resident_bytes, tree), strict=True))
            self.peak, self.own = max(self.peak, resident), max(self.own, own)


def _descendants(root: psutil.Process) -> list[psutil.Process]:
    """Return a process and all processes that it started."""
    with suppress(psutil.Error):  # it has ended
        return [root, *root.children(recursive=True)]
    return [root]


def _resident_bytes(process: psutil.Process) -> tuple[int, int]:
    """Return the resident memory of a process, and the part of it that belongs to no file."""
    try:
        memory = process.memory_info()
    except psutil.Error:
        return 0, 0
    return memory.rss, memory.rss - memory.shared


def arguments(description: str) -> argparse.ArgumentParser:
    """`--quick` ends within 50 s; `--json` prints nothing but the object."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="less work, within 50 s")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    return parser


def finish(
    benchmark: str,
    rows: Sequence[Row],
    packages: Sequence[str],
    *,
    equal: bool,
    as_json: bool,
    details: Mapping[str, Any] | None = None,
) -> int:
    """Print the table and the object, with `details` of one's own; 1 where outputs that should be equal were not."""
    result = {
        "benchmark": benchmark,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"cores": os.cpu_count(), "processor": _processor(), "system": platform.platform(terse=True)},
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "rows": [row.as_dict() for row in rows],
        "equal_output": equal,
        **(details or {}),
    }
    if not as_json:
        for row in result["rows"]:
            goal = "" if row["goal"] is None else f", goal {row['goal']:g}: {'met' if row['met'] else 'MISSED'}"
            ratio = "" if row["ratio"] is None else f" = {row['ratio']:g}x"
            peer = f"{row['peer_name']} {row['peer']:,.6g}{ratio}{goal}"
            sys.stdout.write(f"{row['case']:<34} {row['ours']:>12,.6g} {row['unit']}, {peer}\n")
    sys.stdout.write(json.dumps(result) + "\n")
    return 0 if equal else 1


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            return next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "")
    except OSError:
        return platform.processor()
