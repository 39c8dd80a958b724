"""Follow the rows that the trainer writes, for the writers of curves that a config asks for (TrainingHook.curve_writers).

A thread of the training's task reads them, as for MLflow (tasks/train/live_metrics.py). A failure of a writer does not stop
the training.
"""

import json
import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from tasks.engine.stage import Work
from training.config import TrainConfig
from training.hooks import used_hooks

logger = logging.getLogger(__name__)

POLL_SECONDS = 5.0
FILES = ("metrics.jsonl", "evidence-throughput.jsonl", "evidence-suite.jsonl")
"""Files in a job's folder with one JSON object a line, which has a `step`."""


class NewRows:
    """Reads the lines that were appended to the files of a job.

    Args:
        folder: the job's folder.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._offsets: dict[str, int] = dict.fromkeys(FILES, 0)

    def read(self, file: str) -> list[dict[str, Any]]:
        """Return the rows of complete lines that were not returned before."""
        with suppress(FileNotFoundError), (self._folder / file).open("rb") as stream:
            stream.seek(self._offsets[file])
            complete = stream.read().rpartition(b"\n")[0]
            self._offsets[file] += len(complete) + 1 if complete else 0
            return [json.loads(line) for line in complete.splitlines()]
        return []


class CurveWriter(Protocol):
    """One place that shows curves."""

    def write(self, row: Mapping[str, object]) -> None:
        """Write the numbers of a row at its `step`."""

    def close(self) -> None:
        """Write all that is left."""


class CurveFollower:
    """Writes the new rows of a training from a thread for each writer, inside a `with`.

    Args:
        folder: the job's folder.
    """

    def __init__(self, work: Work[TrainConfig], folder: Path):
        config, key, home = work.config, work.draft.key, work.context.home
        makers: dict[str, Callable[[], CurveWriter]] = {}
        for hook in used_hooks(config):
            makers |= hook.curve_writers(config, key, home)
        self._folder, self._ended = folder, threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=maker, name="curves", daemon=True) for maker in makers.items()
        ]

    def __enter__(self) -> "CurveFollower":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._ended.set()
        is_interrupt = kind is not None and not issubclass(kind, Exception)
        for thread in self._threads:
            thread.join(0.2 if is_interrupt else None)  # a server that is down must not delay the end

    def _run(self, name: str, make: Callable[[], CurveWriter]) -> None:
        try:
            writer, rows = make(), NewRows(self._folder)
            try:
                has_ended = False
                while not has_ended:
                    has_ended = self._ended.wait(POLL_SECONDS)
                    for row in (row for file in FILES for row in rows.read(file)):
                        writer.write(row)
            finally:
                writer.close()
        except Exception as error:  # the boundary of a thread that only displays
            logger.warning("%s no longer shows this training: %s: %s", name, type(error).__name__, error)
