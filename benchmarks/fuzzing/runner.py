"""Run a parser on inputs, and report what it must not do: other errors, too much CPU time, too much memory, a crash."""

import ctypes
import hashlib
import json
import mmap
import re
import resource
import signal
import struct
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measure import peak_bytes
from dataops.home import CHECKOUT

MAX_FINDS = 20
"""Maximum number of finds of one target that are kept."""
RETAINED_BYTES = 8 << 20
"""Growth of the resident memory between inputs after which the allocator is told to release what is free."""
HANG_FACTOR = 20
"""A child whose input takes this many times its limit of CPU time is killed by the kernel."""
_CURRENT_BYTES = 1 << 21
_LENGTH = struct.Struct("=q")


@dataclass(frozen=True)
class Find:
    """A failure of a parser, and the input that causes it."""

    target: str
    kind: str
    """error, slow, memory, or crash: the process ended."""
    what: str
    where: str
    """The place of an error, by which finds of one cause are known."""
    data: bytes = field(repr=False)

    def save(self, folder):
        """Write the input and what happened into a folder; return the input's path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.target}-{self.kind}-{hashlib.sha256(self.data).hexdigest()[:12]}.bin"
        path.write_bytes(self.data)
        path.with_suffix(".txt").write_text(f"{self.what}\n{self.where}\n", "utf-8", "replace")
        return path

    def describe(self, path):
        """Return the entry of the report for this find."""
        command = f"python -m benchmarks.fuzz --target {self.target} --repeat {path}"
        return {"target": self.target, "kind": self.kind, "what": self.what, "bytes": len(self.data), "repeat": command}


@dataclass
class Stats:
    """Figures of a target so far."""

    executions: int = 0
    seconds: float = 0.0
    """Wall time since the seeds were run."""
    corpus: int = 0
    slowest_s_per_mb: float = 0.0
    """CPU time beyond 10 ms of any input of at least 1 KiB, in seconds for 10^6 bytes."""
    slowest_s: float = 0.0
    """CPU time of the slowest input."""
    peak_mb: float = 0.0
    """Largest growth of the resident memory during an input, in 10^6 bytes."""
    finds: list[dict[str, Any]] = field(default_factory=list)


class Runner:
    """Runs the inputs of one target.

    Args:
        slack: factor of the limits of time; more than 1 where a machine or instrumented code is slow.
        finds: folder of finds.
        current: file that holds the input that runs, for the case that the process ends.
    """

    def __init__(self, target, finds, *, slack=1.0, current=None):
        self.target, self.stats, self._finds, self._slack = target, Stats(), finds, slack
        self._parser = target.load()
        self._seen = set()
        self._least = None
        self._current = _map(current) if current else None

    def warm_up(self):
        """Run the seeds, whose first run compiles and imports, and return them."""
        seeds = [seed[: self.target.max_bytes] for seed in self.target.seeds()]
        for seed in seeds:
            self._call(seed)
        return seeds

    def run(self, data):
        """Run the parser on an input, and keep a find of a new cause; return the outcome, which distinguishes inputs."""
        self.stats.executions += 1
        if self._current is not None:
            self._current[: _LENGTH.size + len(data)] = _LENGTH.pack(len(data)) + data
        limits, megabytes = self.target.limits, len(data) / 1e6
        allowed = self._slack * (limits.seconds + limits.seconds_per_mb * megabytes)
        if self._current is not None:
            signal.setitimer(signal.ITIMER_PROF, HANG_FACTOR * allowed)  # unhandled, it ends the process
        before = self._start_measurement()
        outcome, find, seconds = self._call(data)
        growth = (peak_bytes() - before) / 1e6
        if find is None and seconds > allowed and "slow" not in self._seen:
            # Other load, a collection of garbage or a late import may be in the first measurement.
            seconds = min(seconds, self._call(data)[2], self._call(data)[2])
            if seconds > allowed:
                find = Find(self.target.name, "slow", f"{seconds:.2f} s of CPU for {len(data):,} bytes", "slow", data)
        most = limits.memory_mb + limits.memory_per_byte * megabytes
        if find is None and growth > most and "memory" not in self._seen:
            # The first input of its kind may fill caches.
            before = self._start_measurement()
            self._call(data)
            growth = (peak_bytes() - before) / 1e6
            if growth > most:
                find = Find(self.target.name, "memory", f"{growth:,.0f} MB for {len(data):,} bytes", "memory", data)
        self._count(len(data), seconds, growth)
        if find is not None and find.where not in self._seen:
            self._seen.add(find.where)
            if len(self.stats.finds) < MAX_FINDS:
                self.stats.finds.append(find.describe(find.save(self._finds)))
        return outcome

    def _start_measurement(self):
        """Return the resident memory, in bytes. Memory that the allocator retains would hide what an input takes."""
        before = reset_peak_memory()
        if self._least is None or before - self._least > RETAINED_BYTES:
            if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc
                trim(0)
            self._least = before = reset_peak_memory()
        self._least = min(self._least, before)
        return before

    def _call(self, data):
        started = time.process_time()
        try:
            outcome, error = _describe(self._parser.parse(data)), None
        except self._parser.errors as deliberate:
            outcome, error = f"{type(deliberate).__name__}: {_shape(str(deliberate))}", None
        except (Exception, RecursionError, MemoryError) as caught:
            outcome, error = type(caught).__name__, caught
        seconds = time.process_time() - started
        if error is None:
            return outcome, None, seconds
        what = f"{type(error).__name__}: {str(error)[:300]}"
        return outcome, Find(self.target.name, "error", what, _place(error), data), seconds

    def _count(self, size, seconds, growth):
        stats = self.stats
        stats.peak_mb = round(max(stats.peak_mb, growth), 1)
        stats.slowest_s = round(max(stats.slowest_s, seconds), 3)
        if size >= 1024:
            stats.slowest_s_per_mb = round(max(stats.slowest_s_per_mb, (seconds - 0.01) / (size / 1e6)), 2)

    def save_stats(self, path):
        """Write the statistics whole or not at all."""
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(self.stats)), "utf-8")
        part.replace(path)


def read_current(path):
    """Return the input that a process ran when it ended."""
    content = path.read_bytes()
    return content[_LENGTH.size :][: _LENGTH.unpack_from(content)[0]]


def _map(path):
    path.write_bytes(bytes(_CURRENT_BYTES))
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), _CURRENT_BYTES)


def reset_peak_memory():
    """Start a new measurement of this process's peak memory; return its resident memory in bytes."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # the peak then is that of the whole process, and grows less often
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return peak_bytes()


def _describe(result):
    """Return the outcome of an input: the type of the result, and what is comparable in it."""
    if isinstance(result, frozenset):
        return ", ".join(sorted(map(str, result)))
    if isinstance(result, str | int | None):
        return str(result)
    return (
        f"{type(result).__name__} {len(result).bit_length()}" if hasattr(result, "__len__") else type(result).__name__
    )


def _shape(text):
    """Return a message without what differs from input to input."""
    return re.sub(r"\d+", "0", re.sub(r"'[^']*'|\"[^\"]*\"", "''", text[:400]))[:120]


def _place(error):
    """Return the innermost line of ours in a traceback, and the innermost of all."""
    frames = traceback.extract_tb(error.__traceback__)
    root = str(CHECKOUT)
    ours = [f for f in frames if f.filename.startswith(root) and "/.venv/" not in f.filename]
    places = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in (*ours[-1:], *frames[-1:])]
    return f"{type(error).__name__} in {', '.join(dict.fromkeys(places))}"
