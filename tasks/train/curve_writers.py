"""Write the curves of a training for TensorBoard and for Weights & Biases, if its config asks for them.

A thread of the training's task reads the rows that the trainer writes, as for MLflow (tasks/train/live_metrics.py). A
failure of either does not stop the training. Both packages are optional.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from tasks.engine.stage import Work
from tasks.tracking import run_metadata
from tasks.train.new_rows import FILES, NewRows
from training.config import TrainConfig

logger = logging.getLogger(__name__)

POLL_SECONDS = 5.0


class CurveWriter(Protocol):
    """One place that shows curves."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Write the numbers of a row at its `step`."""

    def close(self) -> None:
        """Write all that is left."""


class EventFiles:
    """TensorBoard's event files in a folder. A later attempt continues each curve after its last step."""

    def __init__(self, folder: Path):
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
        from tensorboard.summary import Writer

        self._last: dict[str, int] = {}
        for file in sorted(folder.glob("events.out.tfevents.*")):
            for event in EventFileLoader(str(file)).Load():
                for value in event.summary.value:
                    self._last[value.tag] = max(event.step, self._last.get(value.tag, 0))
        self._writer = Writer(str(folder))

    def write(self, row: Mapping[str, Any]) -> None:
        """Write the numbers of a row, but for those that an earlier attempt wrote."""
        for name, value in _numbers(row):
            if row["step"] > self._last.get(name, 0):
                self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Write all that is left."""
        self._writer.close()


class WandbRun:
    """A run of Weights & Biases, found again by its id. WANDB_MODE=offline writes files only.

    Nothing is sent but the rows and the `[train]` table: no code, environment, command line or console output.
    """

    def __init__(self, project: str, run_id: str, config: Mapping[str, str], folder: Path):
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when the package is imported
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            save_code=False,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            init_timeout=30,
        )
        entity, _, name = project.rpartition("/")
        self._run = wandb.init(
            project=name,
            entity=entity or None,
            id=run_id,
            resume="allow",
            config=dict(config),
            dir=str(folder),
            settings=settings,
        )
        self._run.define_metric("train/*", step_metric="train/step")
        self._last = int(self._run.summary.get("train/step", 0)) if self._run.resumed else 0

    def write(self, row: Mapping[str, Any]) -> None:
        """Log the numbers of a row, unless an earlier attempt did."""
        if row["step"] > self._last:
            self._run.log({**dict(_numbers(row)), "train/step": row["step"]})

    def close(self) -> None:
        """Send or write all that is left."""
        self._run.finish()


def _numbers(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in row.items():
        if name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
            yield f"train/{name}", float(value)


class CurveFollower:
    """Writes the new rows of a training from a thread for each writer, inside a `with`.

    Args:
        folder: the job's folder.
    """

    def __init__(self, work: Work[TrainConfig], folder: Path):
        config, key = work.config, f"train-{work.draft.key}"
        params = run_metadata.flatten_params({"train": config.model_dump(mode="json")})
        makers: dict[str, Callable[[], CurveWriter]] = {}
        if config.tensorboard is not None:
            events = Path(config.tensorboard) / key
            makers["TensorBoard"] = lambda: EventFiles(events)
        if config.wandb is not None:
            project, home = config.wandb, work.context.home / "wandb"
            makers["Weights & Biases"] = lambda: WandbRun(project, key, params, home)
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
