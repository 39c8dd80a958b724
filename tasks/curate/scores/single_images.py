"""What scorers of single pictures share: the wanted pictures of a raw shard, one by one, in a worker process."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from dataops.errors import CorruptPart
from dataops.images.score_tables import FACES, SCORES
from dataops.shards.tar import read_samples
from dataops.snapshot import Draft, Record, read_table
from tasks.curate.scores import cache as score_cache
from tasks.curate.scores.scoring_task import ScoringTask


def score_images(draft: Draft, todo: ScoringTask, score: Callable[[bytes], dict[str, Any]]) -> Record:
    """Score the wanted pictures of a shard; the scores go to the cache.

    Args:
        score: the columns of SCORES or FACES, but for `id`, of a picture's bytes.

    Raises: CorruptPart where the shard lacks one of them.
    """
    rows = read_table(draft.store, todo.rows)
    wanted = dict(zip(rows["key"].to_pylist(), rows["id"].to_pylist(), strict=True))
    scores: list[dict[str, Any]] = []
    with draft.store.open(todo.tar) as file:
        for key, members in read_samples(file, todo.tar):
            if key in wanted and todo.extension in members:
                scores.append({"id": wanted.pop(key), **score(members[todo.extension])})
    if wanted:
        raise CorruptPart(f"{todo.tar}: has no picture {next(iter(wanted))!r}, which is to be scored")
    schema = FACES if any("face_bboxes" in row for row in scores) else SCORES
    score_cache.put_scores(draft.store, todo.scorer, pa.Table.from_pylist(scores, schema))
    return Record(task=todo.id)
