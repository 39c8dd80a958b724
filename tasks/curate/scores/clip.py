"""Compute the scores `clip_score` and `aesthetic`, and features of images, in a subprocess job (training/score.py).

Torch is not imported here.
"""

import logging
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq

from dataops.snapshot import Draft
from tasks.curate.scores import cache as score_cache
from tasks.curate.scores.config import FEATURES, Scorer
from tasks.curate.scores.scoring_task import ScoringTask
from tasks.engine.context import Context
from tasks.engine.subprocess_job import run_job

logger = logging.getLogger(__name__)

SHARDS_PER_JOB = 32
"""Number of shards whose tars are on this machine at the same time. A job loads the model once."""
DONE = re.compile(r"^shard \S+: scored ")


def score_shards(scorer: Scorer, tasks: Sequence[ScoringTask], draft: Draft, context: Context) -> None:
    """Compute the scores and cache them. After a job was killed, the next run resumes at the shard it was scoring."""
    assert scorer.model is not None
    folder = context.home / "jobs" / f"curate-{draft.key}" / scorer.name
    for start in range(0, len(tasks), SHARDS_PER_JOB):
        batch = tasks[start : start + SHARDS_PER_JOB]
        job = {
            "model": str(scorer.model.path),
            "head": str(scorer.head.absolute()) if scorer.head else None,
            "features": scorer.name == FEATURES,
            "shards": [_shard(task, draft, folder) for task in batch],
            "output": str(folder / "scores"),
            "device": scorer.device,
        }

        def follow(line: str, before: int = start) -> None:
            logger.info("%s: %s", scorer.name, line)
            if DONE.match(line):
                finished = before + sum(1 for _ in (folder / "scores").glob("*.parquet"))
                context.progress(finished, len(tasks), f"{draft.stage} {scorer.name} {line}")

        run_job("training.score", job, folder, on_line=follow)
        for task in batch:
            score_cache.put_scores(draft.store, task.scorer, pq.read_table(folder / "scores" / f"{task.name}.parquet"))
        shutil.rmtree(folder)
    with suppress(OSError):  # not empty: the job of another scorer was killed
        folder.parent.rmdir()


def _shard(task: ScoringTask, draft: Draft, folder: Path) -> dict[str, str]:
    tar, rows = (str(draft.store.local(name, keep_in=folder / "shards")) for name in (task.tar, task.rows))
    return {"name": task.name, "tar": tar, "extension": task.extension, "rows": rows}
