"""An executor that notes what its workers do, for benchmarks/soak.py: a module, so that workers can import it."""

import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

from plugins.ray.engine import RayExecutor

NOTE_SECONDS = 0.1


def tree_cpu():
    """Return the CPU time of this process and of those that it has started, in seconds."""
    me = psutil.Process()
    return sum(sum(process.cpu_times()[:4]) for process in (me, *me.children(recursive=True)))


def note_work(note, function, *arguments):
    """Make a call; note when it began and, again and again, the CPU time that it has taken: it may be killed."""
    began, before, done = time.time(), tree_cpu(), threading.Event()

    def write():
        note.write_text(f"{began} {tree_cpu() - before}")

    def write_often():
        while not done.wait(NOTE_SECONDS):
            write()

    write()
    thread = threading.Thread(target=write_often)
    thread.start()
    try:
        return function(*arguments)
    finally:
        done.set()
        thread.join()
        write()


@dataclass(frozen=True)
class NotingExecutor(RayExecutor):
    """A cluster whose workers note what a call takes."""

    notes: Path = Path()
    ended: list[tuple[str, Path, float, bool]] = field(default_factory=list)
    """Task, note, time of the end and success of each call that has ended."""

    @contextmanager
    def open(self, workers, store):
        """Use the cluster."""
        with super().open(workers, store) as opened:
            for name in ("submit", "submit_again"):
                setattr(opened.pool, name, partial(self._submit, getattr(opened.pool, name)))
            yield opened

    def _submit(self, submit, function, *arguments):
        note, task = self.notes / str(time.monotonic_ns()), f"{arguments[2]} {arguments[-1].id}"  # unique in its stage

        def end(done):
            self.ended.append((task, note, time.time(), not done.cancelled() and done.exception() is None))

        future = submit(note_work, note, function, *arguments)
        future.add_done_callback(end)
        return future

    def lost(self):
        """Return how much was done, in attempts, seconds and CPU seconds, and how much of that was lost; and the lost
        attempts with the last two.
        """
        begun, whole, lost = Counter(), {}, []
        for task, note, at, is_whole in self.ended:
            if note.exists() and (noted := note.read_text().split()):
                took = {"attempts": 1.0, "seconds": at - float(noted[0]), "CPU seconds": float(noted[1])}
                begun.update(took)
                if not is_whole or task in whole:  # of two copies, the other one is lost
                    lost.append((task, took["seconds"], took["CPU seconds"]))
                else:
                    whole[task] = took
        shares = {f"{unit} lost": 1 - sum(one[unit] for one in whole.values()) / begun[unit] for unit in begun}
        return {"tasks": len(whole), **begun, **shares}, lost
