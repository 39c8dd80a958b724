"""A training's curves in MLflow while it trains: the task that watches the job reads what it writes.

The run is the training's own, found again by the snapshot's key when the job goes on; the register stage makes another,
with the model. Where MLflow fails, the training goes on without it.
"""

import json
import logging
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.engine.stage import Work
from tasks.tracking import client as tracking
from tasks.tracking import run_metadata
from training.config import TrainConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

POLL_SECONDS, SYSTEM_SECONDS = 5.0, 10
ROWS_AT_ONCE = 200
"""Most steps of one look that MLflow gets, evenly chosen; the register run has the curve in full resolution."""
FILES = {
    "metrics.jsonl": "train/loss",
    "evidence-throughput.jsonl": "train/samples_per_second",
    "evidence-suite.jsonl": "train/loss",
}
"""What is carried, and the metric that tells how far an earlier try got."""


class LiveRun:
    """The MLflow run of a training, fed by a thread while the `with` lasts; nothing where no server is named.

    Args:
        folder: of the job.
    """

    def __init__(self, work: Work[TrainConfig], folder: Path):
        self._work, self._folder = work, folder
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="live-run", daemon=True)
        self._status = "FAILED"
        self._places: dict[str, int] = dict.fromkeys(FILES, 0)
        self._newest: dict[str, int] = dict.fromkeys(FILES, 0)

    def __enter__(self) -> "LiveRun":
        if os.environ.get("MLFLOW_TRACKING_URI", "").strip():
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._status = "FINISHED" if kind is None else "FAILED"
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _watch(self) -> None:
        try:
            client = tracking.connect()
            with tracking.mlflow_errors():
                run = self._open(client)
                monitor = _system_metrics(run)
                try:
                    while not self._over.wait(POLL_SECONDS):
                        self._carry(client, run)
                    self._carry(client, run)
                finally:
                    monitor.finish()
                tracking.finish(client, run, self._status)
        except Exception as error:  # the boundary of a thread whose work is sight alone
            logger.warning("MLflow shows this training no further: %s: %s", type(error).__name__, error)

    def _open(self, client: "MlflowClient") -> "Run":
        context, key = self._work.context, self._work.draft.key
        tags = {"pairmill.train_key": key, **run_metadata.SOURCE_TAGS}
        tags |= {"pairmill.run_id": context.run_id} if context.run_id else {}
        name = f"train-{context.run_id or key}"
        run = tracking.open_run(client, context.run_name, f"train-{key}", name, tags)
        settings = self._work.config.model_dump(mode="json")
        tracking.log_params(client, run, {f"train.{k}": str(v)[: tracking.PARAM_LENGTH] for k, v in settings.items()})
        for file, metric in FILES.items():
            known = client.get_metric_history(run.info.run_id, metric)
            self._newest[file] = max((point.step for point in known), default=0)
        return run

    def _carry(self, client: "MlflowClient", run: "Run") -> None:
        """Log the rows that were written since the last look; those that an earlier try logged are not logged again."""
        for file in FILES:
            rows = [row for row in self._rows(file) if row["step"] > self._newest[file]]
            if rows:
                self._newest[file] = rows[-1]["step"]
                every = -(-len(rows) // ROWS_AT_ONCE)
                tracking.log_curves(client, run, rows[::-1][::every][::-1], int(time.time() * 1000))

    def _rows(self, file: str) -> list[dict[str, Any]]:
        with suppress(FileNotFoundError), (self._folder / file).open("rb") as stream:
            stream.seek(self._places[file])
            whole = stream.read().rpartition(b"\n")[0]
            self._places[file] += len(whole) + 1 if whole else 0
            return [json.loads(line) for line in whole.splitlines()]
        return []


def _system_metrics(run: "Run") -> Any:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(
        run.info.run_id, SYSTEM_SECONDS, resume_logging=True, tracking_uri=tracking.tracking_uri()
    )
    monitor.start()
    return monitor
