"""evaluate: zero-shot transfer and retrieval over a suite, as a subprocess job, and what of it is owed to training images.

The snapshot holds `metrics.json`, `predictions-<task>.parquet`, `evaluation-matches.parquet` (the suite's pictures that are
in the training set; columns MATCHES of tasks/curate/evaluation_overlap.py) and, for people, `evaluation.html`, which no digest covers.
"""

import json
import logging
import shutil
from pathlib import Path

from dataops.snapshot import Counts, Input, Part, Record
from tasks.engine.stage import Stage, StageOutput, Work
from tasks.engine.subprocess_job import ranks, run_job
from tasks.evaluate.config import EvaluateConfig
from tasks.evaluate.run_suite import Evaluation
from tasks.evaluate.suite_overlap import find_overlaps
from training.evaluation.contamination import contamination, group_by_task
from training.evaluation.suite import Suite

PAGE = "evaluation.html"
MATCHES_PART = "evaluation-matches.parquet"

logger = logging.getLogger(__name__)


def external_inputs(config: EvaluateConfig) -> list[Input]:
    """The suite's tasks and the bytes of their files."""
    suite = config.load()
    return [Input(stage="suite", key=suite.name, digest=suite.digest())]


def make(work: Work[EvaluateConfig]) -> StageOutput:
    """Evaluate the trained model on every task of the suite; finished tasks survive a crash, as in tasks/train/stage.py."""
    folder = work.context.home / "jobs" / f"evaluate-{work.draft.key}"
    record = work.draft.done("evaluate") or work.draft.finish(_evaluate(work, folder))
    shutil.rmtree(folder, ignore_errors=True)
    return StageOutput(record.parts, record.counts, record.facts)


def _evaluate(work: Work[EvaluateConfig], folder: Path) -> Record:
    model = work.inputs["train"]
    store = work.draft.store
    files = [store.local(model.path(name)) for name in ("model.safetensors", "model.json", "tokenizer.json")]
    suite: Suite = work.config.load()
    job = {
        "checkpoint": str(files[0].parent),
        "suite": suite.model_dump(mode="json"),
        "batch_size": work.config.batch_size,
        "precision": work.config.precision,
        "device": work.config.device,
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

    launcher = ranks(work.config.nproc, folder) if work.config.nproc > 1 else ()
    run_job("training.evaluate", job, folder, launcher=launcher, on_line=follow)
    found = Evaluation(
        f"{model.config['model']} ({model.key})", folder, json.loads((folder / "metrics.json").read_text())
    )
    parts = [
        work.draft.put_file(path.name, path, found.metrics[path.stem.removeprefix("predictions-")]["n"])
        for path in sorted(folder.glob("predictions-*.parquet"))
    ]
    parts += [*_contamination(work, suite, found), _put_page(work, suite, found)]
    metrics = json.dumps(found.metrics, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    parts.append(work.draft.put_bytes("metrics.json", metrics.encode()))
    examples = sum(task["n"] for task in found.metrics.values())
    counts = Counts(input=examples, kept=examples)
    return Record(task="evaluate", parts=parts, counts=counts, facts={"metrics": found.metrics})


def _contamination(work: Work[EvaluateConfig], suite: Suite, found: Evaluation) -> list[Part]:
    """Look for the suite's pictures in the dataset; what is owed to them becomes each task's `contamination`."""
    if not work.config.contamination:
        return []
    context = work.context
    matches = find_overlaps(suite, work.draft.store, work.inputs["pack"], context.home, context.workers)
    for row in contamination(found.predictions(), group_by_task(matches)):
        found.metrics[row.pop("task")]["contamination"] = row
    return [work.draft.put_table(MATCHES_PART, matches)]


def _put_page(work: Work[EvaluateConfig], suite: Suite, found: Evaluation) -> Part:
    from tasks.evaluate.report import report_html  # matplotlib takes a second

    return work.draft.put_bytes(PAGE, report_html(suite, found).encode("utf-8", "replace"))


EVALUATE = Stage(name="evaluate", version=3, make=make, external_inputs=external_inputs, conserves_rows=False)
