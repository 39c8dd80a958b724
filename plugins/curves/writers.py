"""Write the rows of a training for TensorBoard and for Weights & Biases (tasks/train/curves.py)."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


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
