"""Score images and captions by a CLIP model in a subprocess job (plugins/scores/job.py).

Torch is not imported here.
"""

import logging
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from dataops.digest import file_sha256
from dataops.home import home
from dataops.parquet import read_parquet
from dataops.snapshot import Draft
from tasks.curate.score import Scorer, ScoringTask, digest_scorer, put_scores
from tasks.engine.context import Context
from tasks.engine.subprocess_job import run_job
from tasks.models.find import ModelFiles, find_model

logger = logging.getLogger(__name__)

SHARDS_PER_JOB = 32
"""Number of shards whose tars are on this machine at the same time. A job loads the model once."""
DONE = re.compile(r"^shard \S+: scored ")
VERSION = 1


def find_model_problems(model: str) -> list[str]:
    """Return whether the file of a model is missing; a registered model is resolved when the stage is planned."""
    is_there = model.startswith("models:/") or Path(model).exists()
    return [] if is_there else [f".model: {model!r}: no such file or folder"]


def find_clip_scorer(name: str, model: str, device: str, **more: Any) -> Scorer:
    """Return a scorer by a CLIP model in a job.

    Args:
        more: `head`, or fields of the scorer.

    Raises: ConfigError if the model is missing; ServiceError from MLflow.
    """
    files, head = find_model(model, home()), more.pop("head", None)
    weights = [files.digest] + ([file_sha256(head)] if head else [])
    compute = partial(score_shards, model=files, head=head, device=device)
    return Scorer(name, digest_scorer(name, VERSION, weights), compute, model=files.name, **more)


def score_shards(
    scorer: Scorer,
    tasks: Sequence[ScoringTask],
    draft: Draft,
    context: Context,
    *,
    model: ModelFiles,
    head: Path | None,
    device: str,
) -> None:
    """Compute the scores and cache them. After a job was killed, the next run resumes at the shard it was scoring."""
    folder = context.home / "jobs" / f"curate-{draft.key}" / scorer.name
    for start in range(0, len(tasks), SHARDS_PER_JOB):
        batch = tasks[start : start + SHARDS_PER_JOB]
        job = {
            "model": str(model.path),
            "head": str(head.absolute()) if head else None,
            "shards": [_shard(task, draft, folder) for task in batch],
            "output": str(folder / "scores"),
            "device": device,
        }

        def follow(line: str, before: int = start) -> None:
            logger.info("%s: %s", scorer.name, line)
            if DONE.match(line):
                finished = before + sum(1 for _ in (folder / "scores").glob("*.parquet"))
                context.progress(finished, len(tasks), f"{draft.stage} {scorer.name} {line}")

        run_job("plugins.scores.job", job, folder, on_line=follow)
        for task in batch:
            path = folder / "scores" / f"{task.name}.parquet"
            put_scores(draft.store, task.scorer, read_parquet(path, str(path)))
        shutil.rmtree(folder)
    with suppress(OSError):  # not empty: the job of another scorer was killed
        folder.parent.rmdir()


def _shard(task: ScoringTask, draft: Draft, folder: Path) -> dict[str, str]:
    tar, rows = (str(draft.store.local(name, keep_in=folder / "shards")) for name in (task.tar, task.rows))
    return {"name": task.name, "tar": tar, "extension": task.extension, "rows": rows}
