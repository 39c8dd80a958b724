"""The scores `clip_score` and `aesthetic`: a subprocess job (training/score.py), since torch is not loaded here."""

import logging
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq

from dataops.snapshot import Draft
from tasks.curate.scores import cache as score_cache
from tasks.curate.scores.config import Scorer
from tasks.curate.scores.scoring_task import ScoringTask
from tasks.engine.context import Context
from tasks.engine.subprocess_job import run_job

logger = logging.getLogger(__name__)

SHARDS_PER_JOB = 32
"""Whose tars lie on this machine together. The model is loaded once for so many."""
DONE = re.compile(r"^shard \S+: scored ")


def score_shards(scorer: Scorer, todo: Sequence[ScoringTask], draft: Draft, context: Context) -> None:
    """Score what is to do; the scores go to the cache. A killed job goes on with the shard that it was at."""
    assert scorer.model is not None
    folder = context.home / "jobs" / f"curate-{draft.key}" / scorer.name
    for done in range(0, len(todo), SHARDS_PER_JOB):
        some = todo[done : done + SHARDS_PER_JOB]
        job = {
            "model": str(scorer.model.path),
            "head": str(scorer.head.absolute()) if scorer.head else None,
            "shards": [_shard(shard, draft, folder) for shard in some],
            "output": str(folder / "scores"),
            "device": scorer.device,
        }

        def follow(line: str, before: int = done) -> None:
            logger.info("%s: %s", scorer.name, line)
            if DONE.match(line):
                finished = before + sum(1 for _ in (folder / "scores").glob("*.parquet"))
                context.progress(finished, len(todo), f"{draft.stage} {scorer.name} {line}")

        run_job("training.score", job, folder, on_line=follow)
        for shard in some:
            score_cache.put_scores(
                draft.store, shard.scorer, pq.read_table(folder / "scores" / f"{shard.name}.parquet")
            )
        shutil.rmtree(folder)
    with suppress(OSError):  # not empty: another scorer was killed
        folder.parent.rmdir()


def _shard(todo: ScoringTask, draft: Draft, folder: Path) -> dict[str, str]:
    tar, rows = (str(draft.store.local(name, keep_in=folder / "shards")) for name in (todo.tar, todo.rows))
    return {"name": todo.name, "tar": tar, "extension": todo.extension, "rows": rows}
