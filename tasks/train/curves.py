"""Follow the rows that the trainer writes while it runs, for MLflow and for the writers that a config asks for.

A thread of the training's task reads them for each place. In MLflow the training has its own run,
which a resumed job finds again by the key of the snapshot; the register stage makes another run,
with the model. A failure of a place does not stop the training.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from dataops.errors import PairmillError
from tasks.engine.stage import Work
from tasks.tracking import client as tracking
from tasks.tracking import run_metadata
from tasks.tracking.child_runs import find_parent_tag
from training.config import TrainConfig
from training.hooks import used_hooks

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

POLL_SECONDS = 5.0
FILES = ("metrics.jsonl", "evidence-throughput.jsonl", "evidence-suite.jsonl", "holdout.jsonl")
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


SYSTEM_SECONDS = 10
ROWS_AT_ONCE = 200
"""Maximum number of rows, evenly thinned, that one poll logs; the run of the register stage has the full curve."""
METRICS = dict(zip(FILES, ("train/loss", "train/samples_per_second", "train/loss", "train/holdout_loss"), strict=True))
"""The files to log, each with the metric whose last step shows how much of it an earlier attempt logged."""


class LiveRun:
    """Logs a training to its MLflow run from a thread, inside a `with`; does nothing if no server is set.

    Args:
        folder: the job's folder.
        poll_seconds, system_seconds: time between two looks for new rows, and at the load of the machine.
    """

    def __init__(
        self,
        work: Work[TrainConfig],
        folder: Path,
        poll_seconds: float = POLL_SECONDS,
        system_seconds: float = SYSTEM_SECONDS,
    ):
        self._work, self._folder = work, folder
        self._poll_seconds, self._system_seconds = poll_seconds, system_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live-run", daemon=True)
        self._status = "FAILED"
        self._rows = NewRows(folder)
        self._last_steps: dict[str, int] = dict.fromkeys(FILES, 0)
        self._awaited = {folder / name for hook in used_hooks(work.config) for name in hook.artifacts}

    def __enter__(self) -> "LiveRun":
        if os.environ.get("MLFLOW_TRACKING_URI", "").strip():
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._status = "FINISHED" if kind is None else "FAILED"
        self._ended.set()
        if self._thread.ident is not None:
            is_interrupt = kind is not None and not issubclass(kind, Exception)
            self._thread.join(0.2 if is_interrupt else None)  # a server that is down must not delay the end

    def _run(self) -> None:
        try:
            client = tracking.connect()
            with tracking.mlflow_errors():
                run = self._open_run(client)
                monitor = _start_system_metrics(run, self._system_seconds)
                try:
                    while not self._ended.wait(self._poll_seconds):
                        self._log_new(client, run)
                    self._log_new(client, run)
                finally:
                    monitor.finish()
                tracking.finish(client, run, self._status)
        except Exception as error:  # the boundary of a thread that only displays
            logger.warning("MLflow no longer shows this training: %s: %s", type(error).__name__, error)

    def _open_run(self, client: "MlflowClient") -> "Run":
        context, key = self._work.context, self._work.draft.key
        tags = {"pairmill.train_key": key, **run_metadata.SOURCE_TAGS}
        tags |= {tracking.RUN_TAG: context.run_id} if context.run_id else {}
        name = f"train {run_metadata.name_run(context.run_id, key)}"
        run = tracking.open_run(client, context.run_name, f"train-{key}", name, tags)
        tracking.log_tags(client, run, find_parent_tag(client, run, context.run_id))
        settings = self._work.config.model_dump(mode="json")
        tracking.log_params(client, run, {f"train.{k}": str(v)[: tracking.PARAM_LENGTH] for k, v in settings.items()})
        for file, metric in METRICS.items():
            logged = client.get_metric_history(run.info.run_id, metric)
            self._last_steps[file] = max((point.step for point in logged), default=0)
        return run

    def _log_new(self, client: "MlflowClient", run: "Run") -> None:
        self._log_new_rows(client, run)
        for path in filter(Path.exists, [*self._awaited]):
            self._awaited.discard(path)
            self._log_artifact(client, run, path)

    def _log_artifact(self, client: "MlflowClient", run: "Run", path: Path) -> None:
        """Log a file of a hook, unless an earlier attempt did; without it the curves continue."""
        try:
            with tracking.mlflow_errors():
                if path.name not in {artifact.path for artifact in client.list_artifacts(run.info.run_id)}:
                    client.log_artifact(run.info.run_id, str(path))
        except PairmillError as error:
            logger.warning("the MLflow run of this training has no %s: %s", path.name, error)

    def _log_new_rows(self, client: "MlflowClient", run: "Run") -> None:
        """Log the rows written since the last poll, but for those that an earlier attempt logged."""
        for file in FILES:
            rows = [row for row in self._rows.read(file) if row["step"] > self._last_steps[file]]
            if rows:
                self._last_steps[file] = rows[-1]["step"]
                stride = -(-len(rows) // ROWS_AT_ONCE)
                tracking.log_curves(client, run, rows[::-1][::stride][::-1], int(time.time() * 1000))


def _start_system_metrics(run: "Run", seconds: float) -> Any:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    # It waits for this time by threading.Event, which takes fractions of a second; its annotation says int.
    interval = cast(int, seconds)
    monitor = SystemMetricsMonitor(run.info.run_id, interval, resume_logging=True, tracking_uri=tracking.tracking_uri())
    monitor.start()
    return monitor
