"""Measure our code and a peer in turn, and print the JSON object that each benchmark ends with."""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec

import psutil

from dataops.process import processor_name

BENCH_EXTRA = "pip install -e '.[bench]'"


@dataclass(frozen=True)
class Row:
    """One case: work per second of our code and of the peer."""

    case: str
    ours: float
    peer: float
    peer_name: str
    unit: str
    goal: float | None = None
    """Minimum ratio of ours to the peer's."""
    limit: float | None = None
    """Upper bound of what is possible, in the same unit."""

    def as_dict(self):
        ratio = self.ours / self.peer if self.peer else None
        met = None if self.goal is None or ratio is None else ratio >= self.goal
        rounded = {"ours": _round(self.ours), "peer": _round(self.peer), "limit": _round(self.limit)}
        return asdict(self) | rounded | {"ratio": _round(ratio), "met": met}


def time_in_turn(ours, peer, times, clock=time.perf_counter):
    """Run ours and the peer in turn (A B A B); return the median seconds of each, and the last result of each."""
    seconds = ([], [])
    results = [None, None]
    for _ in range(times):
        for side, run in enumerate((ours, peer)):
            started = clock()
            results[side] = run()
            seconds[side].append(clock() - started)
    return statistics.median(seconds[0]), statistics.median(seconds[1]), results[0], results[1]


def copy_speed(texts):
    """Return texts per second of CPU time that are encoded as UTF-8 and nothing else: the limit of what reads each once."""
    seconds = []
    while sum(seconds) < 0.05:
        started = time.process_time()
        "\n".join(texts).encode()
        seconds.append(time.process_time() - started)
    return len(texts) / statistics.median(seconds)


def decode_speed(jpegs):
    """Return images per second of CPU time that libjpeg-turbo decodes whole."""
    import simplejpeg

    started = time.process_time()
    for data in jpegs:
        simplejpeg.decode_jpeg(data)
    return len(jpegs) / (time.process_time() - started)


def peak_bytes():
    """Return the peak memory of this process in bytes; ru_maxrss would start at that of its parent."""
    with open("/proc/self/status", "rb") as file:  # noqa: PTH123 - a third of the time of Path.read_bytes
        return int(file.read().partition(b"VmHWM:")[2].split(None, 1)[0]) * 1024


class TreeMemory:
    """Peak memory of a process and all its descendants together, in bytes, measured every 20 ms during the `with` block.

    `peak` is the sum of their resident sets, in which shared libraries count once per process; `own` is the sum of their
    private memory, which belongs to no file.
    """

    def __init__(self, pid):
        self.pid, self.peak, self.own = pid, 0, 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        self._thread.join()

    def _watch(self):
        try:
            root = psutil.Process(self.pid)
        except psutil.NoSuchProcess:
            return
        tree, samples = [root], 0
        while not self._stopped.wait(0.02):
            if samples % 5 == 0:
                tree = _descendants(root)
            samples += 1
            resident, own = map(sum, zip(*map(_resident_bytes, tree), strict=True))
            self.peak, self.own = max(self.peak, resident), max(self.own, own)


def _descendants(root):
    """Return a process and all processes that it started."""
    with suppress(psutil.Error):  # it has ended
        return [root, *root.children(recursive=True)]
    return [root]


def _resident_bytes(process):
    """Return the resident memory of a process, and the part of it that belongs to no file."""
    try:
        memory = process.memory_info()
    except psutil.Error:
        return 0, 0
    return memory.rss, memory.rss - memory.shared


def run_in_process(function, *arguments):
    """Call a function in a new process; return its result, and the memory of the process and its descendants."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_result, args=(sender, function, arguments))
    process.start()
    sender.close()
    with TreeMemory(process.pid or 0) as memory:
        try:
            return receiver.recv(), memory
        finally:
            process.join()


def _send_result(sink, function, arguments):
    os.dup2(2, 1)  # what a peer prints is no part of the result
    sink.send(function(*arguments))


@contextmanager
def peer_imports(command=BENCH_EXTRA):
    """Exit with code 2 if an import in the block fails; print the command that installs the missing package."""
    try:
        yield
    except ModuleNotFoundError as error:
        sys.stderr.write(f"{error.name} is not installed; run: {command}\n")
        raise SystemExit(2) from None


def require_peers(*modules, command=BENCH_EXTRA):
    """Exit as peer_imports does if one of the modules is not installed; it imports none."""
    with peer_imports(command):
        for name in modules:
            if find_spec(name) is None:
                raise ModuleNotFoundError(name=name)


def make_parser(description):
    """Return a parser with the options `--quick` and `--json`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="less work, within 50 s")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    return parser


def make_printer(as_json):
    """Return a function that prints a line of progress, or nothing with `--json`."""
    return (lambda line: None) if as_json else lambda line: print(line, flush=True)  # noqa: T201


def finish(
    benchmark,
    rows,
    packages,
    *,
    equal,
    as_json,
    details=None,
):
    """Print the table and the JSON object with `details`; return 1 if outputs that must be equal differ, else 0."""
    result = {
        "benchmark": benchmark,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"cores": os.cpu_count(), "processor": processor_name(), "system": platform.platform(terse=True)},
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


def _round(value):
    return None if value is None else float(f"{value:.4g}")
