"""Score images of a raw shard one by one in a worker process, for the scorers `faces` and `nsfw`."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from dataops.errors import CorruptPart
from dataops.images.score_tables import FACES, SCORES
from dataops.shards.tar import read_samples
from dataops.snapshot import Draft, Record, read_table
from tasks.curate.scores import cache as score_cache
from tasks.curate.scores.scoring_task import ScoringTask


def score_images(draft: Draft, task: ScoringTask, score: Callable[[bytes], dict[str, Any]]) -> Record:
    """Score the images of a task and cache the scores.

    Args:
        score: returns the columns of SCORES or FACES, without `id`, for the bytes of an image.

    Raises: CorruptPart if the shard lacks an image.
    """
    rows = read_table(draft.store, task.rows)
    ids = dict(zip(rows["key"].to_pylist(), rows["id"].to_pylist(), strict=True))
    scores: list[dict[str, Any]] = []
    with draft.store.open(task.tar) as file:
        for key, members in read_samples(file, task.tar):
            if key in ids and task.extension in members:
                scores.append({"id": ids.pop(key), **score(members[task.extension])})
    if ids:
        raise CorruptPart(f"{task.tar}: sample {next(iter(ids))!r} has no .{task.extension} image to score")
    schema = FACES if any("face_bboxes" in row for row in scores) else SCORES
    score_cache.put_scores(draft.store, task.scorer, pa.Table.from_pylist(scores, schema))
    return Record(task=task.id)
