"""An executor that notes what its workers do, for benchmarks/soak.py: a module, so that workers can import it."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from dataops.store import Store
from plugins.ray.engine import RayExecutor
from tasks.engine.context import OpenWorkers


def note_begin(note: Path, function: Callable[..., Any], *arguments: Any) -> Any:
    """Leave a file when a worker begins a call."""
    note.touch()
    return function(*arguments)


@dataclass(frozen=True)
class NotingExecutor(RayExecutor):
    """A cluster whose workers note when they begin a call."""

    notes: Path = Path()
    ended: list[tuple[str, Path, float, bool]] = field(default_factory=list)
    """Task, note, time of the end and success of each call that has ended."""

    @contextmanager
    def open(self, workers: int, store: Store) -> Iterator[OpenWorkers]:
        """Use the cluster."""
        with super().open(workers, store) as opened:
            for name in ("submit", "submit_again"):
                setattr(opened.pool, name, partial(self._submit, getattr(opened.pool, name)))
            yield opened

    def _submit(self, submit: Callable[..., Future[Any]], function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        note, task = self.notes / str(time.monotonic_ns()), f"{arguments[2]} {arguments[-1].id}"  # unique in its stage

        def end(done: Future[Any]) -> None:
            self.ended.append((task, note, time.time(), not done.cancelled() and done.exception() is None))

        future = submit(note_begin, note, function, *arguments)
        future.add_done_callback(end)
        return future

    def lost(self) -> dict[str, float]:
        """Return how much was done, in attempts and in seconds, and how much of that was lost."""
        begun = [(task, at - note.stat().st_mtime, whole) for task, note, at, whole in self.ended if note.exists()]
        wholes = {task: seconds for task, seconds, whole in begun if whole}  # of two copies, the other one is lost
        total = sum(seconds for _, seconds, _ in begun)
        return {
            "tasks": len(wholes), "attempts": len(begun), "seconds": total,
            "attempts lost": 1 - len(wholes) / len(begun), "seconds lost": 1 - sum(wholes.values()) / total,
        }  # fmt: skip
