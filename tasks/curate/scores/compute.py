"""The scores of a dataset's pictures: taken from the cache where any run computed them before, computed where none did.

What is asked for lies in the store, a table a raw shard (PICTURES). Neither the order of the shards nor how the pictures
are spread over them changes a score.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import polars as pl
import pyarrow as pa

from dataops.errors import CorruptPart
from dataops.images.score_tables import TO_SCORE, compute_score_ids
from dataops.schema import FACE_BBOXES
from dataops.snapshot import Draft, read_table
from tasks.curate.scores import cache as score_cache
from tasks.curate.scores import clip as score_clip
from tasks.curate.scores import faces as score_faces
from tasks.curate.scores import nsfw as score_nsfw
from tasks.curate.scores.config import Scorer, ScoresConfig
from tasks.curate.scores.scoring_task import ScoringTask
from tasks.engine.context import Context
from tasks.engine.map_parts import map_parts

logger = logging.getLogger(__name__)

IMAGES = pa.schema([("key", pa.string()), ("caption", pa.string()), ("picture", pa.string())])
"""What is to be scored of a raw shard: `picture` is the hex digest of the picture's bytes as they lie in the shard."""


@dataclass(frozen=True)
class ShardImages:
    """The pictures of a raw shard that want scores."""

    number: str
    """For example `00017`."""
    tar: str
    """Name in the store."""
    extension: str
    """Of the pictures' members."""
    pictures: str
    """Name in the store of a table PICTURES."""


def compute_scores(
    shards: Sequence[ShardImages], config: ScoresConfig, draft: Draft, context: Context
) -> Iterator[tuple[Scorer, dict[str, pa.Array]]]:
    """Each scorer and its columns, those of all pictures of the first shard first; null where there is none.

    They are the score (float32), under the scorer's name, and of `faces` also `face_bboxes`.

    Raises: ConfigError where a scorer is missing; whatever its job raises.
    """
    for scorer in config.scorers():
        yield scorer, _scores(scorer, shards, draft, context)


def _scores(scorer: Scorer, shards: Sequence[ShardImages], draft: Draft, context: Context) -> dict[str, pa.Array]:
    wanted = _wanted(scorer, shards, draft)
    joined = _joined(wanted, draft, scorer)
    missing = joined.filter(pl.col("found").is_null())
    known = f"{wanted.height - missing.height:,} of {wanted.height:,} scores known before"
    logger.info("%s %s: %s (scorer %s)", draft.stage, scorer.name, known, scorer.digest)
    once = missing.unique("id", keep="first", maintain_order=True)
    todo = [_todo(scorer, shards[rows["shard"][0]], rows, draft) for rows in once.partition_by("shard")]
    if todo and scorer.model is not None:
        score_clip.score_shards(scorer, todo, draft, context)
    elif todo:
        map_parts(_of_package(scorer), todo, draft, context, format_record=lambda record: f"{record.task}: scored")
    if todo:
        joined = _joined(wanted, draft, scorer)
    if lost := joined.filter(pl.col("found").is_null()).height:
        raise CorruptPart(
            f"{draft.stage} {scorer.name}: {lost} scores that were computed are not in scores/{scorer.digest}; run again"
        )
    columns = {scorer.name: pa.array(joined["score"].to_arrow(), pa.float32())}
    if scorer.name == "faces":
        columns["face_bboxes"] = joined["face_bboxes"].to_arrow().cast(FACE_BBOXES)
    return columns


def _of_package(scorer: Scorer) -> Any:
    if scorer.name == "faces":
        return partial(score_faces.score_faces, least_confidence=scorer.min_confidence)
    return score_nsfw.score_nsfw


def _wanted(scorer: Scorer, shards: Sequence[ShardImages], draft: Draft) -> pl.DataFrame:
    """A row a picture: `shard` and `row`, its place, and `id`, what its score is of."""
    tables = [pl.DataFrame(schema={"shard": pl.UInt32, "row": pl.UInt32, "id": pl.Binary})]
    for number, shard in enumerate(shards):
        rows = read_table(draft.store, shard.pictures, ["picture", *(["caption"] if scorer.reads_caption else [])])
        captions = rows["caption"].to_pylist() if scorer.reads_caption else None
        ids = pl.Series("id", compute_score_ids(rows["picture"].to_pylist(), captions), pl.Binary)
        places = pl.DataFrame({"row": pl.Series(range(len(ids)), dtype=pl.UInt32), "id": ids})
        tables.append(places.select(pl.lit(number, pl.UInt32).alias("shard"), "row", "id"))
    return pl.concat(tables)


def _joined(wanted: pl.DataFrame, draft: Draft, scorer: Scorer) -> pl.DataFrame:
    """The wanted rows, in their order, with `score` and `found`, which is null where the cache has none."""
    known = score_cache.read_scores(draft.store, scorer.digest, faces=scorer.name == "faces")
    known = known.with_columns(pl.lit(True).alias("found"))
    return wanted.join(known, on="id", how="left", maintain_order="left")


def _todo(scorer: Scorer, shard: ShardImages, rows: pl.DataFrame, draft: Draft) -> ScoringTask:
    """Write down the rows of a shard that are to be scored."""
    pictures = read_table(draft.store, shard.pictures).take(rows["row"].to_arrow())
    ids = pa.array(rows["id"].to_list(), TO_SCORE.field("id").type)
    table = pa.table([pictures["key"], pictures["caption"], ids], schema=TO_SCORE)
    name = f"{shard.number}-{hashlib.sha256(b''.join(rows['id'].to_list())).hexdigest()[:16]}"
    part = draft.put_table(f"_work/score-{scorer.name}-{name}.parquet", table)
    return ScoringTask(scorer.digest, name, shard.tar, shard.extension, draft.path(part.name), table.num_rows)
