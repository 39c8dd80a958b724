"""The evaluate stage: zero-shot transfer and retrieval over a suite, by a subprocess, and the overlap with training.

The snapshot holds

- `metrics.json` and `predictions-<task>.parquet`;
- `evaluation-matches.parquet`, the suite's images that are in the training set, with the columns MATCHES of
  tasks/curate/evaluation_overlap.py;
- `evaluation.html`, a page that no digest covers.

Without a suite nothing is evaluated: `metrics.json` is empty, and the page states it.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from dataops.errors import ContractError
from dataops.facts import EvaluateFacts
from dataops.snapshot import Counts, Input, Part, Record, local_parts
from dataops.trace.sources import list_training_datasets, stored_manifests
from tasks.curate.evaluation_overlap import MATCHES_PART
from tasks.engine.context import IS_PROGRESS, READ
from tasks.engine.stage import Stage, StageOutput, Work
from tasks.evaluate.config import EvaluateConfig
from tasks.evaluate.report import report_html
from tasks.evaluate.run_suite import Evaluation, EvaluationSettings, run_evaluation
from tasks.evaluate.suite_overlap import find_overlaps
from tasks.reports.page import encode_page, render_document
from tasks.tracking.run_metadata import model_name
from training.evaluation.contamination import contamination, group_by_task
from training.evaluation.suite import Suite
from training.model_config import MODEL_FILES

PAGE = "evaluation.html"
NO_SUITE = (
    "Nothing was evaluated: evaluate.suite of the config is not set. Set it to a TOML file with your evaluation sets, and"
    " run the pipeline again: the trained model is reused."
)

logger = logging.getLogger(__name__)


def external_inputs(config: EvaluateConfig) -> list[Input]:
    """Return the suite, if there is one, with a digest of its tasks and of the bytes of their files."""
    if config.suite is None:
        return []
    suite = config.load()
    return [Input(stage="suite", key=suite.name, digest=suite.digest())]


def make(work: Work[EvaluateConfig]) -> StageOutput:
    """Evaluate the trained model on every task of the suite; a rerun keeps the finished tasks."""
    folder = work.context.home / "jobs" / f"evaluate-{work.draft.key}"
    record = work.draft.done("evaluate") or work.draft.finish(_evaluate(work, folder))
    shutil.rmtree(folder, ignore_errors=True)
    return StageOutput(record.parts, record.counts, EvaluateFacts.of(record))


def _evaluate(work: Work[EvaluateConfig], folder: Path) -> Record:
    if work.config.suite is None:
        page = render_document("Evaluation", NO_SUITE)
        parts = [work.draft.put_bytes(PAGE, encode_page(page)), work.draft.put_bytes("metrics.json", b"{}\n")]
        return Record(task="evaluate", parts=parts, counts=Counts(), facts=EvaluateFacts(metrics={}).as_json())
    suite, model = work.config.load(), work.inputs["train"]
    evaluation = Evaluation(f"{model_name(model)} ({model.key})", folder, _run_job(work, suite, folder))
    parts = [
        work.draft.put_file(path.name, path, evaluation.metrics[path.stem.removeprefix("predictions-")]["n"])
        for path in sorted(folder.glob("predictions-*.parquet"))
    ]
    parts += [*_put_matches(work, suite, evaluation), _put_page(work, suite, evaluation)]
    metrics = json.dumps(evaluation.metrics, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    parts.append(work.draft.put_bytes("metrics.json", metrics.encode()))
    examples = sum(task["n"] for task in evaluation.metrics.values())
    return Record(
        task="evaluate",
        parts=parts,
        counts=Counts(input=examples, kept=examples),
        facts=EvaluateFacts(metrics=evaluation.metrics).as_json(),
    )


def _run_job(work: Work[EvaluateConfig], suite: Suite, folder: Path) -> dict[str, dict[str, Any]]:
    """Run the job, with a progress step for each finished task; returns metrics.json."""
    config, files = work.config, local_parts(work.draft.store, work.inputs["train"], MODEL_FILES)
    tasks = [task.name for task in suite.tasks]
    done: set[str] = set()

    def report_progress(line: str) -> None:
        read = READ.search(line)
        logger.info("%s", line, extra={IS_PROGRESS: read is not None})
        finished = {name for name in tasks if (folder / f"predictions-{name}.parquet").exists()}
        if finished != done or read:
            done.update(finished)
            work.context.progress(len(done), len(tasks), read[0] if read else line)

    work.context.progress(0, len(tasks), "the evaluation starts: it loads torch and the model")
    settings = EvaluationSettings(config.batch_size, config.device, config.precision, config.nproc)
    return run_evaluation(files["model.json"].parent, suite, folder, folder / "features", settings, report_progress)


def _put_matches(work: Work[EvaluateConfig], suite: Suite, evaluation: Evaluation) -> list[Part]:
    """Search the datasets of the training for the suite's images; the effect on each task becomes its `contamination`.

    Raises: ContractError if one of the datasets is no longer in the store.
    """
    if not work.config.contamination:
        return []
    context, tasks = work.context, len(suite.tasks)
    context.progress(tasks, tasks, "the training data are searched for the suite's images")
    store, own = work.draft.store, work.inputs["pack"]
    trained = list_training_datasets(work.inputs["train"], store, own)
    if deleted := [f"pack/{one.key}" for one in trained if one.manifest is None]:
        raise ContractError(
            f"the model was trained on {' and '.join(deleted)}, which is no longer in {store.uri}, so the suite's images "
            "cannot be searched for there; set evaluate.contamination = false to evaluate without"
        )
    packs = stored_manifests(trained) or [own]
    matches = find_overlaps(suite, store, packs, context.home, context.workers)
    for row in contamination(evaluation.predictions(), group_by_task(matches)):
        evaluation.metrics[row.pop("task")]["contamination"] = row
    return [work.draft.put_table(MATCHES_PART, matches)]


def _put_page(work: Work[EvaluateConfig], suite: Suite, evaluation: Evaluation) -> Part:
    return work.draft.put_bytes(PAGE, encode_page(report_html(suite, evaluation)))


EVALUATE = Stage(
    name="evaluate",
    version=11,
    # 8: choice sets that are not made of groups also have the scores of groups; 10: another rounding of p-values.
    accepts=frozenset({8, 10}),
    make=make,
    external_inputs=external_inputs,
    conserves_rows=False,
)
