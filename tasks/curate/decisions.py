"""Read the rows of a raw shard with all that curate decided on them, and write what a step decides."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataops.errors import CorruptPart
from dataops.schema import CURATED
from dataops.snapshot import Draft, Part, fetch_table, read_table
from tasks.curate.choose import read_decisions
from tasks.curate.inspect_images import RawShard, inspected_name
from tasks.curate.step import list_steps

IMAGES = pa.schema([("key", pa.string()), ("caption", pa.string()), ("image_digest", pa.string())])
"""Table of a raw shard's kept rows; `image_digest` is a hex digest of the image's bytes in the shard."""


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


def put_images(draft: Draft, shard: RawShard, step: str) -> Part:
    """Write the key, the caption and the digest of the image of the rows that are kept before a step (IMAGES)."""
    rows = decide_rows(draft, shard, step)
    digests = read_table(draft.store, draft.path(inspected_name(shard.number)), ["image_digest"])
    images = pa.table([rows["key"], rows["caption"], digests["image_digest"]], schema=IMAGES)
    return draft.put_table(images_name(step, shard), images.filter(rows["drop_reason"].is_null()))


def images_name(step: str, shard: RawShard) -> str:
    """Return the name of what put_images writes."""
    return f"_work/{step}-images-{shard.number}.parquet"


def curated_schema(rows: pa.Table, shard: RawShard) -> pa.Schema:
    """Return the schema of the kept parts: CURATED, and the columns that the steps have added to the rows."""
    added = [column.field for step in list_steps(shard.config) for column in step.columns]
    known = {*CURATED.names}
    return pa.schema([*CURATED, *(one for one in added if one.name in rows.column_names and one.name not in known)])
