"""The curate stage makes every decision about a pair that needs the pixels of its image.

1. inspect_shard, one task per raw shard: decode each image, check its health, compute its fingerprints;
2. match_evaluation_sets: find training images that are copies of evaluation images, if the config names evaluation sets;
3. choose_rows, by partitions of hashes: choose which rows are dropped, and which row of each cluster of duplicates is kept;
4. the steps that the config has a table for (tasks.curate.step), such as scores and the rules over them;
5. write_rows, one task per raw shard: write the kept and the dropped rows.

All but the last write scratch tables, except for the parts of matches with evaluation sets and of
steps. The output depends neither on the order of the rows nor on their distribution over shards.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pkgutil import resolve_name
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from dataops.errors import CorruptPart
from dataops.facts import CurateFacts
from dataops.schema import CURATED, conform, dropped_schema
from dataops.snapshot import Counts, Draft, Input, Manifest, Part, Record, fetch_table
from tasks.curate.choose import choose_rows, read_decisions
from tasks.curate.config import CurateConfig
from tasks.curate.evaluation_overlap import digest_evaluation_sets, match_evaluation_sets
from tasks.curate.inspect_images import THUMBNAILS, RawShard, inspect_shard, inspected_name
from tasks.curate.step import StepOutput, list_steps
from tasks.engine.exchange import run_steps
from tasks.engine.map_parts import map_parts, shared_workers
from tasks.engine.map_progress import StageProgress
from tasks.engine.stage import Stage, StageOutput, Work, merge_records


def decide_rows(draft: Draft, shard: RawShard, before: str | None = None) -> pa.Table:
    """Return the rows of a raw shard with the columns of curate; `drop_reason` is null for those that are kept.

    Args:
        before: name of a step; None: after all steps.

    Raises: CorruptPart if the rows are not those that were inspected.
    """
    rows = fetch_table(draft.store, shard.rows)
    decisions = read_decisions(draft, shard.number)
    if decisions["uid"] != rows["uid"]:
        raise CorruptPart(f"{shard.rows}: its rows are not those that were inspected; remake with --force curate")
    phashes = [None if value is None else f"{value:016x}" for value in decisions["phash"].to_pylist()]
    rows = rows.append_column("phash", pa.array(phashes, pa.string()))
    for name in ("cluster", "evaluation_overlap", "drop_reason"):
        rows = rows.append_column(name, decisions[name])
    for step in list_steps(shard.config):
        if step.table == before:
            break
        rows = _join(rows, fetch_table(draft.store, draft.path(_result_name(step.table, shard))))
    return rows


def _join(rows: pa.Table, result: pa.Table) -> pa.Table:
    """Return the rows with the columns of a step's result, which has the kept rows."""
    is_kept = rows["drop_reason"].is_null()
    mask = is_kept.to_numpy()
    places = pa.array(np.cumsum(mask) - 1, mask=~mask)
    for name, values in zip(result.column_names, result.columns, strict=True):
        spread = values.take(places)
        if name in rows.column_names:
            index = rows.column_names.index(name)
            rows = rows.set_column(
                index, name, pc.call_function("if_else", [is_kept, spread.cast(rows[name].type), rows[name]])
            )
        else:
            rows = rows.append_column(name, spread)
    return rows


def put_result(draft: Draft, shard: RawShard, step: str, result: pa.Table) -> Part:
    """Write what a step decides on a raw shard: a row for each row of `read_kept`, in this order."""
    return draft.put_table(_result_name(step, shard), result)


def _result_name(step: str, shard: RawShard) -> str:
    return f"_work/{step}-{shard.number}.parquet"


def read_kept(draft: Draft, shard: RawShard, step: str) -> pa.Table:
    """Return the rows of a raw shard that are kept before a step, with the columns of the steps before it."""
    rows = decide_rows(draft, shard, step)
    return rows.filter(rows["drop_reason"].is_null()).drop_columns(["drop_reason"])


def curated_schema(rows: pa.Table, shard: RawShard) -> pa.Schema:
    """Return the schema of the kept parts: CURATED, and the columns that the steps have added to the rows."""
    added = [column.field for step in list_steps(shard.config) for column in step.columns]
    known = {*CURATED.names}
    return pa.schema([*CURATED, *(one for one in added if one.name in rows.column_names and one.name not in known)])


_INSPECT_WEIGHT = 8
"""Cost of inspecting the images, relative to each other map; for the progress."""
_MAX_TASKS = 1 << 15


def make(work: Work[CurateConfig]) -> StageOutput:
    """Inspect the images, match evaluation sets, choose rows, score them, and write the parts."""
    with shared_workers(work.context) as context:
        return _make(replace(work, context=context))


def _make(work: Work[CurateConfig]) -> StageOutput:
    config, draft, context, download = work.config, work.draft, work.context, work.inputs["download"]
    shards = _list_raw_shards(download, config)
    steps, further, facts = list_steps(config), list[Part](), dict[str, Any]()
    weight = _INSPECT_WEIGHT + 2 + sum(step.weight for step in steps) + (1 if config.overlap else 0)
    progress = StageProgress(context, weight)
    map_parts(
        run_shards, group_shards(inspect_shard, shards), draft, progress.of_map("inspect images", _INSPECT_WEIGHT)
    )
    if config.overlap:
        matching = replace(work, context=progress.of_map("match evaluation sets", 1))
        matches, facts = match_evaluation_sets(matching, config.overlap, [shard.number for shard in shards])
        further.append(matches)
    choosing = progress.of_map("find duplicates", 1).without_progress()
    run = partial(run_steps, rows=sum(shard.size for shard in shards), draft=draft, context=choosing)
    choose_rows(shards, config, draft.path(further[0].name) if further else None, run)
    for step in steps:
        found: StepOutput = resolve_name(step.run)(
            replace(work, context=progress.of_map(step.table, step.weight)), shards
        )
        further += found.parts
        facts[step.table] = found.facts
    writing = progress.of_map("write rows", 1)
    records = map_parts(run_shards, group_shards(write_rows, shards), draft, writing)

    parts, counts = merge_records(records)
    return StageOutput([*parts, *further], counts, CurateFacts(**facts))


def _list_raw_shards(download: Manifest, config: CurateConfig) -> list[RawShard]:
    extension = str(download.config["encode_format"])
    tars = {part.name: part.sha256 for part in download.named("", ".tar")}
    shards = []
    for part in download.named("part-", ".parquet"):
        tar = part.name.removeprefix("part-").removesuffix(".parquet") + ".tar"
        if tar not in tars:
            raise CorruptPart(f"{download.path(part.name)} has no {tar} beside it; remake it with --force download")
        shards.append(RawShard(download.path(part.name), part.rows, download.path(tar), tars[tar], extension, config))
    return shards


@dataclass(frozen=True)
class ShardGroup:
    """A task: a function on some raw shards."""

    function: Callable[[Draft, RawShard], Record]
    shards: tuple[RawShard, ...]

    @property
    def id(self) -> str:
        """For example `inspect_shard-00017`; with the number of further shards, if any."""
        first, *others = self.shards
        return f"{self.function.__name__}-{first.number}" + (f"-{len(others)}" if others else "")


def group_shards(function: Callable[[Draft, RawShard], Record], shards: Sequence[RawShard]) -> list[ShardGroup]:
    """Return about _MAX_TASKS tasks at most, so that the records of tasks fit in memory and need few requests."""
    size = max(-(-len(shards) // _MAX_TASKS), 1)
    return [ShardGroup(function, tuple(shards[start : start + size])) for start in range(0, len(shards), size)]


def run_shards(draft: Draft, group: ShardGroup) -> Record:
    """Run the function of a task on each of its shards."""
    records = [group.function(draft, shard) for shard in group.shards]
    counts = sum((record.counts for record in records), Counts())
    return Record(task=group.id, parts=[part for record in records for part in record.parts], counts=counts)


def write_rows(draft: Draft, shard: RawShard) -> Record:
    """Write the kept and the dropped rows of a raw shard."""
    rows = decide_rows(draft, shard)
    schema = curated_schema(rows, shard)
    is_kept = rows["drop_reason"].is_null()
    kept, dropped_rows = rows.filter(is_kept).drop_columns(["drop_reason"]), rows.filter(rows["drop_reason"].is_valid())
    dropped_rows = dropped_rows.append_column("drop_stage", pa.array(["curate"] * dropped_rows.num_rows, pa.string()))
    label = f"curate {shard.number}"
    parts = [
        draft.put_table(f"part-{shard.number}.parquet", conform(kept, schema, label)),
        draft.put_table(f"dropped-{shard.number}.parquet", conform(dropped_rows, dropped_schema(schema), label)),
    ]
    if shard.config.base is not None:
        parts.append(_put_thumbnails(draft, shard, kept))
    by_reason = dict(sorted(Counter(dropped_rows["drop_reason"].to_pylist()).items()))
    return Record(
        task=shard.number, parts=parts, counts=Counts(input=rows.num_rows, kept=kept.num_rows, dropped=by_reason)
    )


def _put_thumbnails(draft: Draft, shard: RawShard, kept: pa.Table) -> Part:
    """Write the thumbnails of the kept rows of a raw shard, with which later versions of the dataset compare images."""
    inspected = fetch_table(draft.store, draft.path(inspected_name(shard.number)), ["uid", "thumbnail"])
    is_kept = pl.DataFrame(pl.from_arrow(kept.select(["uid"])))
    found = pl.DataFrame(pl.from_arrow(inspected)).join(is_kept, on="uid", how="semi", maintain_order="left")
    return draft.put_table(f"{THUMBNAILS}{shard.number}.parquet", found.to_arrow())


def external_inputs(config: CurateConfig) -> list[Input]:
    """Return the evaluation sets, what the steps read, and the version that the dataset adds to, with their digests."""
    steps = [one for step in list_steps(config) for one in step.inputs(getattr(config, step.table))]
    return [*digest_evaluation_sets(config), *steps, *config.base_inputs()]


CURATE = Stage(name="curate", version=8, make=make, external_inputs=external_inputs)
