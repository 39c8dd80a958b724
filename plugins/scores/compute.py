"""Return the scores of a dataset's images: from the cache if any run computed them before, else computed now.

A score depends neither on the order of the shards nor on how the images are distributed over them.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import numpy as np
import polars as pl
import pyarrow as pa

from dataops.digest import text_sha256
from dataops.errors import CorruptPart
from dataops.snapshot import Draft, Part, Record, read_table
from dataops.store import Store
from tasks.curate.inspect_images import RawShard, inspected_name
from tasks.curate.score import TO_SCORE, Scorer, ScoringTask, compute_score_ids
from tasks.curate.stage import decide_rows
from tasks.engine.context import Context
from tasks.engine.exchange import Exchange, Step, number_partitions, run_steps

logger = logging.getLogger(__name__)

_MEMORY_BYTES = 1 << 30
"""Memory of a merge task."""
_MAX_OBJECT_GROUPS = 4096
"""Number of groups of objects, from which on they are larger."""


class Sizes(NamedTuple):
    """Sizes of the tasks of a lookup. No result depends on them."""

    partition_rows: int = 1 << 22
    """Approximate number of rows and cached scores of a partition."""
    object_rows: int = 10_000
    """Assumed number of scores of an object of the cache, which has those of one raw shard."""
    objects: int = 100
    """Minimum number of objects of a task."""


SIZES = Sizes()


@dataclass(frozen=True)
class ShardImages:
    """The images of a raw shard to score."""

    number: str
    """Number of the shard, for example `00017`."""
    tar: str
    """Name of the tar in the store."""
    extension: str
    """Extension of the image members."""
    rows: str
    """Name of a table IMAGES in the store."""


def list_images(draft: Draft, shards: Sequence[RawShard], step: str) -> list[ShardImages]:
    """Return the images of raw shards that are kept before a step of curate, as put_images wrote them."""
    return [ShardImages(one.number, one.tar, one.image_extension, draft.path(images_name(step, one))) for one in shards]


@dataclass(frozen=True)
class Lookup:
    """The scores of one scorer, looked up in the cache by partitions of the scores' identities."""

    scorer: Scorer
    rows: int
    batches: int
    partitions: int
    objects: int = 0
    """Number of groups of objects of the cache."""
    listing: str = ""
    """Digest of the list of the objects with their sizes and times: what was found in others is not reused."""

    @property
    def layout(self) -> str:
        """Return the scorer, the numbers of batches and partitions, and the objects."""
        return f"{self.scorer.name}-{self.batches}x{self.partitions}-{self.listing}"

    @property
    def ids(self) -> Exchange:
        """Return the exchange of the rows from batches to partitions."""
        return Exchange(f"ids-{self.scorer.name}", self.batches, self.partitions, self.rows * 40, _MEMORY_BYTES)

    @property
    def cached(self) -> Exchange:
        """Return the exchange of the cached scores to partitions."""
        name, size = f"cached-{self.scorer.name}-{self.listing}", self.rows * 40
        return Exchange(name, self.objects, self.partitions, size, _MEMORY_BYTES)

    @property
    def found(self) -> Exchange:
        """Return the exchange of the rows' scores from partitions to batches."""
        name, size = f"found-{self.scorer.name}-{self.listing}", self.rows * 10
        return Exchange(name, self.partitions, self.batches, size, _MEMORY_BYTES)


LookupStep = Step[Lookup]
"""A step of a lookup. `inputs` are the raw shards of a batch (ShardImages), or names of objects of the cache."""


def read_found(draft: Draft, lookup: Lookup, batch: int) -> pa.Table:
    """Return the columns of a scorer for the rows of a batch, in their order; null if an image cannot be decoded.

    The column `score` (float32) has the scorer's name.
    """
    found = lookup.found.read(draft, batch).sort("row").to_arrow()
    names = [lookup.scorer.name if one.name == "score" else one.name for one in lookup.scorer.columns]
    columns = [found[one.name].cast(one.type) for one in lookup.scorer.columns]
    return pa.table(dict(zip(names, columns, strict=True)))


def compute_score(
    scorer: Scorer,
    batches: Sequence[Sequence[ShardImages]],
    rows: int,
    draft: Draft,
    context: Context,
    sizes: Sizes = SIZES,
) -> Lookup:
    """Compute the scores of one scorer that are not cached; return its lookup, for `read_found`.

    Raises: the errors of its job.
    """
    known = len(draft.store.names(f"scores/{scorer.digest}")) * sizes.object_rows
    partitions = max(-(-(rows + known) // sizes.partition_rows), 1)
    base, quiet = Lookup(scorer, rows, len(batches), partitions), context.without_progress()

    def run(job: Lookup, function: Callable[[Draft, LookupStep], Record | None], units: Sequence[Any]) -> list[Record]:
        return run_steps([Step(function, n, job, tuple(u)) for n, u in enumerate(units)], rows, draft, quiet)

    def look_up() -> tuple[Lookup, int, list[ScoringTask]]:
        entries = draft.store.entries(f"scores/{scorer.digest}")
        names = [entry.name for entry in entries]
        size = max(-(-len(names) // _MAX_OBJECT_GROUPS), sizes.objects)
        groups = [names[start : start + size] for start in range(0, max(len(names), 1), size)]
        digest = text_sha256(repr(entries))[:16]
        job = replace(base, objects=len(groups), listing=digest)
        run(job, put_cached, groups)
        run_steps(job.cached.merge_steps(), rows, draft, quiet)
        run(job, find_scores, [()] * partitions)
        run_steps(job.found.merge_steps(), rows, draft, quiet)
        records = run(job, put_missing, batches)
        tasks = [ScoringTask(scorer.digest, *task) for record in records for task in record.facts["tasks"]]
        return job, sum(record.facts["missing"] for record in records), tasks

    if not batches:
        return base
    run(base, put_ids, batches)
    run_steps(base.ids.merge_steps(), rows, draft, quiet)
    job, missing, tasks = look_up()
    cached = f"{rows - missing:,} of {rows:,} scores are cached"
    logger.info("%s %s: %s (scorer %s)", draft.stage, scorer.name, cached, scorer.digest)
    if tasks:
        scorer.compute(scorer, tasks, draft, context)
        job, missing, _ = look_up()
    if missing:
        folder = f"scores/{scorer.digest}"
        raise CorruptPart(f"{draft.stage} {scorer.name}: {missing} scores were computed but are not in {folder}; rerun")
    return job


def put_ids(draft: Draft, step: LookupStep) -> None:
    """Put the rows of a batch by the identities of their scores."""
    tables = [pl.DataFrame(schema={"id": pl.Binary})]
    tables += [_identify(read_table(draft.store, shard.rows), step.job.scorer) for shard in step.inputs]
    _write_by_id(draft, step.job.ids, step.number, pl.concat(tables).with_row_index("row"))


def put_cached(draft: Draft, step: LookupStep) -> None:
    """Put the scores of some objects of the cache by their identities."""
    rows = read_scores(draft.store, step.inputs, step.job.scorer.schema)
    _write_by_id(draft, step.job.cached, step.number, rows)


def find_scores(draft: Draft, step: LookupStep) -> None:
    """Put the scores of a partition's rows by batch; the first row of each identity that is not cached is to be scored."""
    rows, cached = step.job.ids.read(draft, step.number), step.job.cached.read(draft, step.number).drop("part")
    cached = cached.unique("id", keep="first", maintain_order=True).with_columns(is_cached=True)
    found = rows.join(cached, on="id", how="left", maintain_order="left")
    found = found.with_columns(pl.col("is_cached").fill_null(False), is_first=pl.col("id").is_first_distinct())
    step.job.found.write(
        draft,
        step.number,
        found.select("row", *(one.name for one in step.job.scorer.columns), "is_cached", "is_first"),
        found["part"],
    )


def put_missing(draft: Draft, step: LookupStep) -> Record:
    """Write the rows of each raw shard of a batch that are to be scored (TO_SCORE)."""
    found, parts, tasks, start = step.job.found.read(draft, step.number).sort("row"), list[Part](), list[Any](), 0
    for shard in step.inputs if not found["is_cached"].all() else ():
        images = read_table(draft.store, shard.rows)
        rows = found[start : start + images.num_rows]
        start += images.num_rows
        images = images.filter((~rows["is_cached"] & rows["is_first"]).to_arrow())
        if not images.num_rows:
            continue
        ids = pa.array(_identify(images, step.job.scorer)["id"].to_list(), TO_SCORE.field("id").type)
        name = f"{shard.number}-{hashlib.sha256(b''.join(ids.to_pylist())).hexdigest()[:16]}"
        table = pa.table([images["key"], images["caption"], ids], schema=TO_SCORE)
        parts.append(draft.put_table(f"_work/score-{step.job.scorer.name}-{name}.parquet", table))
        tasks.append((name, shard.tar, shard.extension, draft.path(parts[-1].name)))
    facts = {"missing": int((~found["is_cached"]).sum()), "tasks": tasks}
    return Record(task=step.id, parts=parts, facts=facts)


def _identify(images: pa.Table, scorer: Scorer) -> pl.DataFrame:
    captions = images["caption"].to_pylist() if scorer.reads_caption else None
    return pl.DataFrame(
        {"id": pl.Series(compute_score_ids(images["image_digest"].to_pylist(), captions), dtype=pl.Binary)}
    )


def _write_by_id(draft: Draft, exchange: Exchange, writer: int, rows: pl.DataFrame) -> None:
    halves = np.frombuffer(b"".join(rows["id"].to_list()), np.uint64)[::2]
    exchange.write(draft, writer, rows, number_partitions(pl.Series(halves, dtype=pl.UInt64), exchange.partitions))


def read_scores(store: Store, names: Sequence[str], schema: pa.Schema) -> pl.DataFrame:
    """Return the columns `schema` of some objects."""
    tables = [schema.empty_table()]
    for name in names:
        try:
            tables.append(read_table(store, name, schema.names).cast(schema))
        except CorruptPart as error:  # a power failure may leave an object empty
            logger.warning("%s; its scores are computed again", error)
    return cast(pl.DataFrame, pl.from_arrow(pa.concat_tables(tables)))


IMAGES = pa.schema([("key", pa.string()), ("caption", pa.string()), ("image_digest", pa.string())])
"""Table of a raw shard's kept rows; `image_digest` is a hex digest of the image's bytes in the shard."""


def put_images(draft: Draft, shard: RawShard, step: str) -> Part:
    """Write the key, the caption and the digest of the image of the rows that are kept before a step (IMAGES)."""
    rows = decide_rows(draft, shard, step)
    digests = read_table(draft.store, draft.path(inspected_name(shard.number)), ["image_digest"])
    images = pa.table([rows["key"], rows["caption"], digests["image_digest"]], schema=IMAGES)
    return draft.put_table(images_name(step, shard), images.filter(rows["drop_reason"].is_null()))


def images_name(step: str, shard: RawShard) -> str:
    """Return the name of what put_images writes."""
    return f"_work/{step}-images-{shard.number}.parquet"
