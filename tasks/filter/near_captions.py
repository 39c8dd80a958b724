"""The steps of the filter stage that drop near-duplicate captions: over slices of parts, and ranges of hashes or of ranks.

Captions with one normal form leave but for one; of the others, what agrees in a band of its signature (most captions agree
with none) is carried, with its caption, to the range of the band's hash, compared there, and settled by ranges of ranks.
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
from dataops.text.personal_data import mask_personal_data
from dataops.text.shingles import hash_normal_forms
from tasks.engine.partition_tables import (
    all_pieces,
    partition_by_hash,
    partition_by_index,
    read_one,
    read_partition,
    table_name,
    write_partitions,
)
from tasks.filter.config import NearCaptionsConfig
from tasks.filter.steps import DROP_REASONS, FilterTask, drop_reason_tables, read_rows, read_slice

BAND_BYTES = 40
"""Of what is known of one band of a row, at most."""
_COPIES = 4
"""Times that a bucket's captions are in memory at most, while they are sorted and compared."""
_SAMPLE = 1000
"""One rank of so many is looked at to cut the ranks into ranges."""


def bytes_per_row(config: NearCaptionsConfig) -> int:
    """Of what is known of one row in all ranges together."""
    return choose_scheme(config.threshold).bands * BAND_BYTES


def put_normal_forms(draft: Draft, step: FilterTask) -> Record:
    """The keys of the rows of a slice that are still there, with the hash of the caption's normal form and scope."""
    ranked = all_pieces(draft, table_name("keys", step.number), 1 << step.bits)
    for kind in drop_reason_tables(step.config, near=False):
        ranked = ranked.join(read_slice(draft, step, kind), on="row", how="anti")
    captions, scopes = _read_captions(draft, step, ranked["row"])
    normal = hash_normal_forms(captions)
    words = ranked.with_columns(caption=pl.Series(normal[:, 0] ^ scopes)).filter(
        pl.Series((normal[:, 0] | normal[:, 1]) != 0)
    )
    write_partitions(draft, table_name("normal-forms", step.number), *partition_by_hash(words, "caption", step.bits))
    return Record(task=step.id)


def drop_same_captions(draft: Draft, step: FilterTask) -> Record:
    """The rows of a range of normal forms that another row has already; a piece a slice."""
    rows = read_partition(draft, step.tables("normal-forms"), step.number)
    _put_dropped(draft, step, "drop-reasons-same", rows.filter(pl.Series(find_duplicates(rows, ["caption"]) > 0)))
    return Record(task=step.id)


def put_signatures(draft: Draft, step: FilterTask) -> Record:
    """The bands of the signatures of the rows of a slice that are still there, by range."""
    words = _read_normal_forms(draft, step)
    captions, scopes = _read_captions(draft, step, words["row"])
    hashes = hash_bands(captions, scopes, choose_scheme(_config(step).threshold))
    bands = pl.DataFrame({"bucket": hashes.ravel(), "row": np.repeat(words["row"].to_numpy(), hashes.shape[1])})
    write_partitions(draft, table_name("near-bands", step.number), *partition_by_hash(bands, "bucket", step.bits))
    return Record(task=step.id)


def find_candidates(draft: Draft, step: FilterTask) -> Record:
    """The bands of a range that several rows have; a piece a slice."""
    rows = read_partition(draft, step.tables("near-bands"), step.number)
    mates = rows.filter(pl.col("bucket").is_duplicated())
    write_partitions(
        draft,
        table_name("near-candidates", step.number),
        *partition_by_index(mates.drop("part"), mates["part"], step.parts),
    )
    return Record(task=step.id)


def put_candidates(draft: Draft, step: FilterTask) -> Record:
    """The rows of a slice that have mates, with all that it takes to compare them, by range of bands."""
    mates = read_slice(draft, step, "near-candidates")
    words = _read_normal_forms(draft, step)
    words = words.select("row", "origin", rank=compute_ranks(words)).join(
        mates.select("row").unique(), on="row", how="semi"
    )
    captions, _ = _read_captions(draft, step, words["row"])
    write_partitions(
        draft, table_name("near-ranks", step.number), pl.DataFrame({"rank": sample_ranks(words["rank"], _SAMPLE)})
    )
    known = words.with_columns(
        id=pl.lit(step.number, pl.UInt64) * (1 << 32) + pl.col("row").cast(pl.UInt64),
        caption=pl.Series(captions, dtype=pl.String),
    )
    carried = mates.join(known, on="row").drop("row")
    write_partitions(draft, table_name("near-captions", step.number), *partition_by_hash(carried, "bucket", step.bits))
    return Record(task=step.id)


def compare_captions(draft: Draft, step: FilterTask) -> Record:
    """The near-duplicates in a range of bands, by range of the better one's rank."""
    found = pl.concat(
        find_near_pairs(members, _config(step).threshold) for members in _read_batches(draft, step)
    ).unique()
    pieces = partition_by_index(found, _assign_rank_partitions(draft, step, found["better_rank"]), 1 << step.bits)
    write_partitions(draft, table_name("near-pairs", step.number), *pieces)
    return Record(task=step.id)


def drop_near_captions(draft: Draft, step: FilterTask) -> Record:
    """The rows that leave because of better ones in a range of ranks; those of the ranges before are settled.

    What it finds of later ranges, it leaves for them (time-forward processing; Zeh 2002, "I/O-efficient algorithms for
    graphs of bounded treewidth and maximal independent sets"), so that no more than one range is in memory.
    """
    pairs = read_partition(draft, step.range_tables("near-pairs"), step.number).drop("part").unique()
    before = [read_one(draft, table_name("near-dropped", i), step.number) for i in range(step.number)]
    gone = pl.concat([pl.DataFrame(schema={"worse": pl.UInt64}), *before])["worse"]
    left = find_dropped(pairs, gone)
    ranges = _assign_rank_partitions(draft, step, left["worse_rank"])
    write_partitions(
        draft,
        table_name("near-dropped", step.number),
        *partition_by_index(left.select("worse"), ranges, 1 << step.bits),
    )
    rows = left.select(
        part=(pl.col("worse") // (1 << 32)).cast(pl.UInt32), row=(pl.col("worse") % (1 << 32)).cast(pl.UInt32)
    )
    _put_dropped(draft, step, "drop-reasons-near", rows)
    return Record(task=step.id)


def _config(step: FilterTask) -> NearCaptionsConfig:
    assert step.config.near_captions is not None
    return step.config.near_captions


def _read_normal_forms(draft: Draft, step: FilterTask) -> pl.DataFrame:
    words = all_pieces(draft, table_name("normal-forms", step.number), 1 << step.bits)
    return words.join(read_slice(draft, step, "drop-reasons-same"), on="row", how="anti").sort("row")


def _put_dropped(draft: Draft, step: FilterTask, kind: str, rows: pl.DataFrame) -> None:
    gone = rows.select("row", reason=pl.lit(DROP_REASONS.index("duplicate_near_caption") + 1, pl.UInt8))
    write_partitions(draft, table_name(kind, step.number), *partition_by_index(gone, rows["part"], step.parts))


def _read_captions(draft: Draft, step: FilterTask, rows: pl.Series) -> tuple[pa.Array, NDArray[np.uint64]]:
    """The captions, as they are kept, and the scopes of rows of a part."""
    texts = read_rows(draft, step, ["url", "caption"])[rows]
    caption = mask_personal_data(pl.col("caption")) if step.config.personal == "mask" else pl.col("caption")
    captions = texts.select(caption).to_series().to_arrow()
    if _config(step).scope == "all":
        return captions, np.zeros(texts.height, np.uint64)
    return captions, hash128(texts.select(host(pl.col("url"))).to_series().to_arrow())[:, 0]


def _assign_rank_partitions(draft: Draft, step: FilterTask, ranks: pl.Series) -> pl.Series:
    samples = pl.concat(read_one(draft, name, 0) for name in step.tables("near-ranks"))["rank"]
    return partition_ranks(ranks, samples, 1 << step.bits)


def _read_batches(draft: Draft, step: FilterTask) -> Iterator[pl.DataFrame]:
    """What was carried to a range of bands, in as many shares as memory asks for: how long captions are shows here only."""

    def pieces() -> Iterable[pl.DataFrame]:
        return (read_one(draft, name, step.number) for name in step.tables("near-captions"))

    size = sum(piece.estimated_size() for piece in pieces())
    shares = 1 + int(size * _COPIES * step.workers // step.config.memory_limit_bytes)
    for share in range(shares):
        yield pl.concat(piece.filter(pl.col("bucket") % shares == share) for piece in pieces())
