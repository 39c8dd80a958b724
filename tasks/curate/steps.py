"""Define the steps of choose_rows: tasks on a group of raw shards or on a partition of hashes, and how they read rows.

The columns that rows are compared by move between groups and partitions in scratch tables (tasks.engine.partition_tables).
No result depends on the order of the rows or on how they are partitioned.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from dataops.kernels.hashes import hash128, uid_halves
from dataops.snapshot import Draft, Record, read_table
from tasks.curate.config import CurateConfig
from tasks.curate.inspect_images import inspected_name
from tasks.engine.partition_steps import PartitionStep
from tasks.engine.partition_tables import read_partition, table_name

GROUP_ROWS = 1 << 17
"""Approximate number of rows in a group of raw shards; it bounds the memory of a worker."""
PARTITION_ROWS = 1 << 20
"""Approximate number of rows in a partition of hashes."""
NEAR_PARTITION_ROWS = 1 << 21
"""The same in the search for near-duplicates, where each further partition costs a search in every block of bits."""
RANKING = ["area", "characters", "uid_high", "uid_low"]
"""Order in which duplicates are kept: the largest original, then the longest caption, then the smallest uid."""
CANDIDATE, DROPPED, OVERLAP = 0, 1, 2
"""Values of `state`, before rows are compared: kept so far, dropped for its own image, dropped for an evaluation set."""


@dataclass(frozen=True)
class Step(PartitionStep):
    """One step's task on a group of raw shards, or on a partition of hashes."""

    function: Callable[[Draft, "Step"], Record]
    number: int
    """Number of the group or partition, from 0."""
    groups: int
    """Number of groups."""
    bits: int
    """There are 2^bits partitions."""
    near_bits: int
    """There are 2^near_bits partitions for each block of bits in the search for near-duplicates."""
    config: CurateConfig
    shards: tuple[str, ...] = ()
    """Numbers of the group's raw shards."""
    sizes: tuple[int, ...] = ()
    """Number of rows of each."""
    matches: str | None = None
    """Store name of the table of matches with evaluation sets."""

    def group_tables(self, kind: str) -> list[str]:
        """Return the names of the scratch tables that a map over the groups wrote."""
        return [table_name(kind, number) for number in range(self.groups)]


def group_shards(sizes: Sequence[int]) -> list[range]:
    """Return groups of neighbouring raw shards, by index; each has at most GROUP_ROWS rows, or is a single shard."""
    groups, start, rows = list[range](), 0, 0
    for index, size in enumerate(sizes):
        if rows and rows + size > GROUP_ROWS:
            groups.append(range(start, index))
            start, rows = index, 0
        rows += size
    return [*groups, range(start, len(sizes))] if sizes else []


def partition_bits(rows: int, rows_each: int) -> int:
    """Return the number of bits for which 2^bits partitions of the hashes have about `rows_each` rows each."""
    return (max(-(-rows // rows_each), 1) - 1).bit_length()


def read_inspected(draft: Draft, step: Step, columns: Sequence[str]) -> pl.DataFrame:
    """Return the rows of a group: `row`, `uid`, `drop_reason`, `overlap`, `state`, and columns of INSPECTED.

    `overlap` holds the names of the evaluation sets that have the image, joined by commas.
    """
    columns = list(dict.fromkeys(["uid", "drop_reason", *columns]))
    tables = [read_table(draft.store, draft.path(inspected_name(number)), columns) for number in step.shards]
    rows = cast(pl.DataFrame, pl.from_arrow(pa.concat_tables(tables))).with_row_index("row")
    overlap = pl.lit(None, pl.String)
    if step.matches:
        found = pl.DataFrame(read_table(draft.store, step.matches, ["uid", "evaluation_set"])).unique()
        found = found.sort("evaluation_set").group_by("uid", maintain_order=True)
        sets = found.agg(overlap=pl.col("evaluation_set").str.join(","))
        rows, overlap = rows.join(sets, on="uid", how="left", maintain_order="left"), pl.col("overlap")
    drops = step.config.overlap is not None and step.config.overlap.action == "drop"
    state = pl.when(pl.col("drop_reason").is_not_null()).then(DROPPED)
    state = state.when(overlap.is_not_null() & drops).then(OVERLAP).otherwise(CANDIDATE)
    return rows.with_columns(overlap=overlap, state=state.cast(pl.UInt8))


def read_remaining(draft: Draft, step: Step, kinds: Sequence[str], columns: Sequence[str]) -> pl.DataFrame:
    """Return the rows of a group that are not dropped, neither before the steps nor in the scratch tables `kinds`."""
    rows = read_inspected(draft, step, columns).filter(pl.col("state") == CANDIDATE)
    for kind in kinds:
        drops = read_partition(draft, step.partition_names(kind), step.number)
        rows = rows.join(drops, on="row", how="anti", maintain_order="left")
    return rows


def rank_columns(rows: pl.DataFrame, config: CurateConfig) -> pl.DataFrame:
    """Return `row`, `state`, the columns RANKING, and `scope`: only rows of equal scope can be duplicates."""
    scopes = np.zeros(rows.height, np.uint64)
    if config.same_caption:
        captions = [" ".join(caption.casefold().split()) for caption in rows["caption"].to_list()]
        scopes = hash128(pa.array(captions, pa.string()))[:, 0]
    high, low = uid_halves(rows["uid"].to_arrow()).T
    return rows.select(
        "row",
        "state",
        area="original_area",
        characters=pl.col("caption").str.len_chars(),
        uid_high=pl.Series(high),
        uid_low=pl.Series(low),
        scope=pl.Series(scopes),
    )


def row_id() -> pl.Expr:
    """Return an expression for the number (uint64) that identifies a row of all groups."""
    return pl.col("part").cast(pl.UInt64) * (1 << 32) + pl.col("row").cast(pl.UInt64)


def sort_best_first(rows: pl.DataFrame) -> pl.DataFrame:
    """Sort rows by RANKING; `id` decides between rows of one uid."""
    return rows.sort([*RANKING, "id"], descending=[True, True, False, False, False])


def stack_bytes(values: Sequence[bytes]) -> NDArray[np.uint8]:
    """Return N binary values of K bytes each as an array (N, K)."""
    return np.frombuffer(b"".join(values), np.uint8).reshape(len(values), -1 if len(values) else 0)
