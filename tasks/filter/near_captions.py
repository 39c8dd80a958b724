"""Functions of the filter stage that drop near-duplicate captions, each over one slice or one partition.

1. Of the captions with one normal form, one is kept (`put_normal_forms`, `drop_same_captions`).
2. The others exchange the bands of their signatures. A row that shares a band with another one is a candidate
   (`put_signatures`, `find_candidates`).
3. Candidates are compared, with their captions, in the partition of the band's hash (`put_candidates`,
   `compare_captions`).
4. The pairs are decided in the partitions of the ranks (`drop_near_captions`).
"""

from collections.abc import Iterable, Iterator

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from dataops.filters import host
from dataops.kernels.hashes import hash128
from dataops.snapshot import Draft, Record
from dataops.text.duplicates import find_duplicates
from dataops.text.minhash import choose_scheme, hash_bands
from dataops.text.near_captions import compute_ranks, find_dropped, find_near_pairs, partition_ranks, sample_ranks
from dataops.text.shingles import hash_normal_forms
from tasks.engine.partition_tables import (
    partition_by_hash,
    partition_by_index,
    read_one,
    read_partition,
    read_partitions,
    table_name,
    write_partitions,
)
from tasks.filter.config import NearCaptionsConfig
from tasks.filter.steps import DROP_REASONS, FilterTask, drop_reason_tables, kept_caption, read_rows, read_slice

BAND_BYTES = 40
"""Maximum bytes of what the scratch tables hold of one band of one row."""
_COPIES = 4
"""Maximum number of copies of a batch's captions in memory, while they are sorted and compared."""
_SAMPLE = 1000
"""One rank in so many is a sample for the bounds of the partitions of the ranks."""


def bytes_per_row(config: NearCaptionsConfig) -> int:
    """Return the maximum bytes of what all partitions together hold of one row."""
    return choose_scheme(config.threshold).bands * BAND_BYTES


def put_normal_forms(draft: Draft, task: FilterTask) -> Record:
    """Put the keys of the kept rows of a slice by partition of the hash of normal form and scope."""
    keys = read_partitions(draft, table_name("keys", task.number), 1 << task.bits)
    for kind in drop_reason_tables(task.config, near=False):
        keys = keys.join(read_slice(draft, task, kind), on="row", how="anti")
    captions, scopes = _read_captions(draft, task, keys["row"])
    hashes = hash_normal_forms(captions)
    has_words = pl.Series((hashes[:, 0] | hashes[:, 1]) != 0)
    forms = keys.with_columns(caption=pl.Series(hashes[:, 0] ^ scopes)).filter(has_words)
    write_partitions(draft, table_name("normal-forms", task.number), *partition_by_hash(forms, "caption", task.bits))
    return Record(task=task.id)


def drop_same_captions(draft: Draft, task: FilterTask) -> Record:
    """Drop all but one row of each normal form in a partition, and put the drop reasons by slice."""
    rows = read_partition(draft, task.slice_tables("normal-forms"), task.number)
    _put_dropped(draft, task, "drop-reasons-same", rows.filter(pl.Series(find_duplicates(rows, ["caption"]) > 0)))
    return Record(task=task.id)


def put_signatures(draft: Draft, task: FilterTask) -> Record:
    """Put the signatures' bands of the kept rows of a slice by partition of the band's hash."""
    rows = _read_normal_forms(draft, task)["row"]
    captions, scopes = _read_captions(draft, task, rows)
    hashes = hash_bands(captions, scopes, choose_scheme(_config(task).threshold))
    bands = pl.DataFrame({"bucket": hashes.ravel(), "row": np.repeat(rows.to_numpy(), hashes.shape[1])})
    write_partitions(draft, table_name("near-bands", task.number), *partition_by_hash(bands, "bucket", task.bits))
    return Record(task=task.id)


def find_candidates(draft: Draft, task: FilterTask) -> Record:
    """Find the bands of a partition that several rows have, and put them by slice."""
    bands = read_partition(draft, task.slice_tables("near-bands"), task.number)
    shared = bands.filter(pl.col("bucket").is_duplicated())
    by_slice = partition_by_index(shared.drop("part"), shared["part"], task.slice_count)
    write_partitions(draft, table_name("near-candidates", task.number), *by_slice)
    return Record(task=task.id)


def put_candidates(draft: Draft, task: FilterTask) -> Record:
    """Put the candidates of a slice, with their ranks and captions, by partition of the band's hash."""
    candidates = read_slice(draft, task, "near-candidates")
    forms = _read_normal_forms(draft, task)
    rows = forms.select("row", "origin", rank=compute_ranks(forms))
    rows = rows.join(candidates.select("row").unique(), on="row", how="semi")
    captions, _ = _read_captions(draft, task, rows["row"])
    samples = pl.DataFrame({"rank": sample_ranks(rows["rank"], _SAMPLE)})
    write_partitions(draft, table_name("near-ranks", task.number), samples)
    members = rows.with_columns(
        id=pl.lit(task.number, pl.UInt64) * (1 << 32) + pl.col("row").cast(pl.UInt64),
        caption=pl.Series(captions, dtype=pl.String),
    )
    members = candidates.join(members, on="row").drop("row")
    write_partitions(draft, table_name("near-captions", task.number), *partition_by_hash(members, "bucket", task.bits))
    return Record(task=task.id)


def compare_captions(draft: Draft, task: FilterTask) -> Record:
    """Find the near-duplicates in a partition of bands, and put the pairs by partition of the better row's rank."""
    batches = _read_batches(draft, task)
    pairs = pl.concat(find_near_pairs(members, _config(task).threshold) for members in batches).unique()
    partitions = partition_by_index(pairs, _assign_rank_partitions(draft, task, pairs["better_rank"]), 1 << task.bits)
    write_partitions(draft, table_name("near-pairs", task.number), *partitions)
    return Record(task=task.id)


def drop_near_captions(draft: Draft, task: FilterTask) -> Record:
    """Drop the rows that have a better near-duplicate in a partition of ranks; the partitions before it are decided.

    Rows of later partitions that are dropped here are written for these to read (time-forward processing; Zeh 2002,
    "I/O-efficient algorithms for graphs of bounded treewidth and maximal independent sets"), so that only one partition
    is in memory.
    """
    pairs = read_partition(draft, task.partition_names("near-pairs"), task.number).drop("part").unique()
    before = [read_one(draft, table_name("near-dropped", i), task.number) for i in range(task.number)]
    dropped_before = pl.concat([pl.DataFrame(schema={"worse": pl.UInt64}), *before])["worse"]
    dropped = find_dropped(pairs, dropped_before)
    numbers = _assign_rank_partitions(draft, task, dropped["worse_rank"])
    partitions = partition_by_index(dropped.select("worse"), numbers, 1 << task.bits)
    write_partitions(draft, table_name("near-dropped", task.number), *partitions)
    part, row = (pl.col("worse") // (1 << 32)).cast(pl.UInt32), (pl.col("worse") % (1 << 32)).cast(pl.UInt32)
    _put_dropped(draft, task, "drop-reasons-near", dropped.select(part=part, row=row))
    return Record(task=task.id)


def _config(task: FilterTask) -> NearCaptionsConfig:
    assert task.config.near_captions is not None
    return task.config.near_captions


def _read_normal_forms(draft: Draft, task: FilterTask) -> pl.DataFrame:
    """Return the keys of the rows of a slice that `drop_same_captions` kept."""
    forms = read_partitions(draft, table_name("normal-forms", task.number), 1 << task.bits)
    return forms.join(read_slice(draft, task, "drop-reasons-same"), on="row", how="anti").sort("row")


def _put_dropped(draft: Draft, task: FilterTask, kind: str, rows: pl.DataFrame) -> None:
    reason = pl.lit(DROP_REASONS.index("duplicate_near_caption") + 1, pl.UInt8)
    partitions = partition_by_index(rows.select("row", reason=reason), rows["part"], task.slice_count)
    write_partitions(draft, table_name(kind, task.number), *partitions)


def _read_captions(draft: Draft, task: FilterTask, rows: pl.Series) -> tuple[pa.Array, NDArray[np.uint64]]:
    """Return the captions of some rows of a slice, masked where the config says so, and their scopes (n,)."""
    texts = read_rows(draft, task, ["url", "caption"])[rows]
    captions = texts.select(kept_caption(task.config)).to_series().to_arrow()
    if _config(task).scope == "all":
        return captions, np.zeros(texts.height, np.uint64)
    return captions, hash128(texts.select(host(pl.col("url"))).to_series().to_arrow())[:, 0]


def _assign_rank_partitions(draft: Draft, task: FilterTask, ranks: pl.Series) -> pl.Series:
    samples = pl.concat(read_one(draft, name, 0) for name in task.slice_tables("near-ranks"))["rank"]
    return partition_ranks(ranks, samples, 1 << task.bits)


def _read_batches(draft: Draft, task: FilterTask) -> Iterator[pl.DataFrame]:
    """Yield the candidates of a partition in batches that fit in memory, since captions may be long."""

    def tables() -> Iterable[pl.DataFrame]:
        return (read_one(draft, name, task.number) for name in task.slice_tables("near-captions"))

    size = sum(table.estimated_size() for table in tables())
    count = 1 + int(size * _COPIES * task.workers // task.config.memory_limit_bytes)
    for number in range(count):
        yield pl.concat(table.filter(pl.col("bucket") % count == number) for table in tables())
