"""Read the rows of a raw shard with all that curate decided on them."""

import pyarrow as pa

from dataops.errors import CorruptPart
from dataops.schema import SCORE_NAMES
from dataops.snapshot import Draft, fetch_table
from tasks.curate.choose import read_decisions
from tasks.curate.clustering import join_clusters
from tasks.curate.inspect_images import RawShard
from tasks.curate.scoring import join_scores


def decide_rows(draft: Draft, shard: RawShard) -> tuple[pa.Table, pa.Table]:
    """Return the rows of a raw shard with the columns of curate, and the final decisions on them, in one order.

    Raises: CorruptPart if the rows are not those that were inspected.
    """
    rows = fetch_table(draft.store, shard.rows)
    decisions = read_decisions(draft, shard.number)
    if decisions["uid"] != rows["uid"]:
        raise CorruptPart(f"{shard.rows}: its rows are not those that were inspected; remake with --force curate")
    if shard.config.scores.names:
        decisions = join_scores(draft, shard, rows, decisions)
    phashes = [None if value is None else f"{value:016x}" for value in decisions["phash"].to_pylist()]
    rows = rows.append_column("phash", pa.array(phashes, pa.string()))
    for name in ("cluster", "evaluation_overlap", *SCORE_NAMES, "face_bboxes"):
        if name in decisions.column_names:
            rows = rows.append_column(name, decisions[name])
    return join_clusters(draft, shard, rows, decisions) if shard.config.clusters else (rows, decisions)
