"""evaluate: zero-shot transfer and retrieval over a suite, as a subprocess job."""

import json
import logging
import shutil
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from dataops.config import StageConfig
from dataops.snapshot import Counts, Input, Record
from tasks.job import run_job
from tasks.stage import Made, Stage, Work
from training.suite import Suite, load_suite

logger = logging.getLogger(__name__)


class EvaluateConfig(StageConfig):
    """The `[evaluate]` table."""

    # The suite's digest is an input of the stage: where its files lie says nothing about the result.
    execution_fields: ClassVar[frozenset[str]] = frozenset({"suite", "data"})

    suite: Path = Path("configs/suites/demo.toml")
    """TOML file with the list of tasks."""
    data: Path | None = None
    """Folder that the tasks' relative roots start from; the suite file's own folder where none is given."""
    batch_size: int = Field(default=256, ge=1)
    """Images encoded at once."""

    def load(self) -> Suite:
        """The suite, checked. Raises: ConfigError that lists all that is wrong with it."""
        return load_suite(self.suite, self.data)


def outside(config: EvaluateConfig) -> list[Input]:
    """The suite's tasks and the bytes of their files."""
    suite = config.load()
    return [Input(stage="suite", key=suite.name, digest=suite.digest())]


def make(work: Work) -> Made:
    """Evaluate the trained model on every task of the suite; finished tasks survive a crash, as in tasks/train.py."""
    folder = work.context.home / "jobs" / f"evaluate-{work.draft.key}"
    record = work.draft.done("evaluate") or work.draft.finish(_evaluate(work, folder))
    shutil.rmtree(folder, ignore_errors=True)
    return Made(record.parts, record.counts, record.facts)


def _evaluate(work: Work, folder: Path) -> Record:
    model = work.inputs["train"]
    store = work.draft.store
    files = [store.local(model.path(name)) for name in ("model.safetensors", "model.json", "tokenizer.json")]
    suite: Suite = work.config.load()
    job = {
        "checkpoint": str(files[0].parent),
        "suite": suite.model_dump(mode="json"),
        "batch_size": work.config.batch_size,
        "output": str(folder),
        "features": str(folder / "features"),
    }
    tasks = [task.name for task in suite.tasks]
    done: set[str] = set()

    def follow(line: str) -> None:
        logger.info("%s", line)
        finished = {name for name in tasks if (folder / f"predictions-{name}.parquet").exists()}
        if finished != done:
            done.update(finished)
            work.context.progress(len(done), len(tasks), line)

    run_job("training.evaluate", job, folder, on_line=follow)
    metrics = json.loads((folder / "metrics.json").read_text())
    parts = [work.draft.put_file("metrics.json", folder / "metrics.json")]
    for path in sorted(folder.glob("predictions-*.parquet")):
        parts.append(work.draft.put_file(path.name, path, metrics[path.stem.removeprefix("predictions-")]["n"]))
    examples = sum(task["n"] for task in metrics.values())
    counts = Counts(input=examples, kept=examples)
    return Record(task="evaluate", parts=parts, counts=counts, facts={"metrics": metrics})


EVALUATE = Stage(name="evaluate", version=2, make=make, outside=outside, conserves=False)
