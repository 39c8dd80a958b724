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
from dataops.text.duplicates import duplicates
from dataops.text.minhash import band_hashes, scheme
from dataops.text.near_captions import by_rank, leaving, near_pairs, one_in, rank
from dataops.text.personal_data import masked
from dataops.text.shingles import normal_hashes
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
from tasks.filter.steps import GONE, Step, kinds_of_gone, of_slice, read_rows

BAND_BYTES = 40
"""Of what is known of one band of a row, at most."""
_COPIES = 4
"""Times that a bucket's captions are in memory at most, while they are sorted and compared."""
_SAMPLE = 1000
"""One rank of so many is looked at to cut the ranks into ranges."""


def row_bytes(config: NearCaptionsConfig) -> int:
    """Of what is known of one row in all ranges together."""
    return scheme(config.threshold).bands * BAND_BYTES


def put_normal_forms(draft: Draft, step: Step) -> Record:
    """The keys of the rows of a slice that are still there, with the hash of the caption's normal form and scope."""
    ranked = all_pieces(draft, table_name("keys", step.number), 1 << step.bits)
    for kind in kinds_of_gone(step.config, near=False):
        ranked = ranked.join(of_slice(draft, step, kind), on="row", how="anti")
    captions, scopes = _texts(draft, step, ranked["row"])
    normal = normal_hashes(captions)
    words = ranked.with_columns(caption=pl.Series(normal[:, 0] ^ scopes)).filter(
        pl.Series((normal[:, 0] | normal[:, 1]) != 0)
    )
    write_partitions(draft, table_name("near-words", step.number), *partition_by_hash(words, "caption", step.bits))
    return Record(task=step.id)


def choose_same(draft: Draft, step: Step) -> Record:
    """The rows of a range of normal forms that another row has already; a piece a slice."""
    rows = read_partition(draft, step.tables("near-words"), step.number)
    _put_gone(draft, step, "gone-same", rows.filter(pl.Series(duplicates(rows, ["caption"]) > 0)))
    return Record(task=step.id)


def put_signatures(draft: Draft, step: Step) -> Record:
    """The bands of the signatures of the rows of a slice that are still there, by range."""
    words = _words_left(draft, step)
    captions, scopes = _texts(draft, step, words["row"])
    hashes = band_hashes(captions, scopes, scheme(_near(step).threshold))
    bands = pl.DataFrame({"bucket": hashes.ravel(), "row": np.repeat(words["row"].to_numpy(), hashes.shape[1])})
    write_partitions(draft, table_name("near-bands", step.number), *partition_by_hash(bands, "bucket", step.bits))
    return Record(task=step.id)


def find_candidates(draft: Draft, step: Step) -> Record:
    """The bands of a range that several rows have; a piece a slice."""
    rows = read_partition(draft, step.tables("near-bands"), step.number)
    mates = rows.filter(pl.col("bucket").is_duplicated())
    write_partitions(
        draft, table_name("near-mates", step.number), *partition_by_index(mates.drop("part"), mates["part"], step.parts)
    )
    return Record(task=step.id)


def put_candidates(draft: Draft, step: Step) -> Record:
    """The rows of a slice that have mates, with all that it takes to compare them, by range of bands."""
    mates = of_slice(draft, step, "near-mates")
    words = _words_left(draft, step)
    words = words.select("row", "origin", rank=rank(words)).join(mates.select("row").unique(), on="row", how="semi")
    captions, _ = _texts(draft, step, words["row"])
    write_partitions(
        draft, table_name("near-ranks", step.number), pl.DataFrame({"rank": one_in(words["rank"], _SAMPLE)})
    )
    known = words.with_columns(
        id=pl.lit(step.number, pl.UInt64) * (1 << 32) + pl.col("row").cast(pl.UInt64),
        caption=pl.Series(captions, dtype=pl.String),
    )
    carried = mates.join(known, on="row").drop("row")
    write_partitions(draft, table_name("near-carried", step.number), *partition_by_hash(carried, "bucket", step.bits))
    return Record(task=step.id)


def compare(draft: Draft, step: Step) -> Record:
    """The near-duplicates in a range of bands, by range of the better one's rank."""
    found = pl.concat(near_pairs(members, _near(step).threshold) for members in _shares(draft, step)).unique()
    pieces = partition_by_index(found, _rank_range(draft, step, found["better_rank"]), 1 << step.bits)
    write_partitions(draft, table_name("near-pairs", step.number), *pieces)
    return Record(task=step.id)


def choose_kept(draft: Draft, step: Step) -> Record:
    """The rows that leave because of better ones in a range of ranks; those of the ranges before are settled.

    What it finds of later ranges, it leaves for them (time-forward processing; Zeh 2002, "I/O-efficient algorithms for
    graphs of bounded treewidth and maximal independent sets"), so that no more than one range is in memory.
    """
    pairs = read_partition(draft, step.range_tables("near-pairs"), step.number).drop("part").unique()
    before = [read_one(draft, table_name("near-left", i), step.number) for i in range(step.number)]
    gone = pl.concat([pl.DataFrame(schema={"worse": pl.UInt64}), *before])["worse"]
    left = leaving(pairs, gone)
    ranges = _rank_range(draft, step, left["worse_rank"])
    write_partitions(
        draft, table_name("near-left", step.number), *partition_by_index(left.select("worse"), ranges, 1 << step.bits)
    )
    rows = left.select(
        part=(pl.col("worse") // (1 << 32)).cast(pl.UInt32), row=(pl.col("worse") % (1 << 32)).cast(pl.UInt32)
    )
    _put_gone(draft, step, "gone-near", rows)
    return Record(task=step.id)


def _near(step: Step) -> NearCaptionsConfig:
    assert step.config.near_captions is not None
    return step.config.near_captions


def _words_left(draft: Draft, step: Step) -> pl.DataFrame:
    words = all_pieces(draft, table_name("near-words", step.number), 1 << step.bits)
    return words.join(of_slice(draft, step, "gone-same"), on="row", how="anti").sort("row")


def _put_gone(draft: Draft, step: Step, kind: str, rows: pl.DataFrame) -> None:
    gone = rows.select("row", reason=pl.lit(GONE.index("duplicate_near_caption") + 1, pl.UInt8))
    write_partitions(draft, table_name(kind, step.number), *partition_by_index(gone, rows["part"], step.parts))


def _texts(draft: Draft, step: Step, rows: pl.Series) -> tuple[pa.Array, NDArray[np.uint64]]:
    """The captions, as they are kept, and the scopes of rows of a part."""
    texts = read_rows(draft, step, ["url", "caption"])[rows]
    caption = masked(pl.col("caption")) if step.config.personal == "mask" else pl.col("caption")
    captions = texts.select(caption).to_series().to_arrow()
    if _near(step).scope == "all":
        return captions, np.zeros(texts.height, np.uint64)
    return captions, hash128(texts.select(host(pl.col("url"))).to_series().to_arrow())[:, 0]


def _rank_range(draft: Draft, step: Step, ranks: pl.Series) -> pl.Series:
    samples = pl.concat(read_one(draft, name, 0) for name in step.tables("near-ranks"))["rank"]
    return by_rank(ranks, samples, 1 << step.bits)


def _shares(draft: Draft, step: Step) -> Iterator[pl.DataFrame]:
    """What was carried to a range of bands, in as many shares as memory asks for: how long captions are shows here only."""

    def pieces() -> Iterable[pl.DataFrame]:
        return (read_one(draft, name, step.number) for name in step.tables("near-carried"))

    size = sum(piece.estimated_size() for piece in pieces())
    shares = 1 + int(size * _COPIES * step.workers // step.config.memory_limit_bytes)
    for share in range(shares):
        yield pl.concat(piece.filter(pl.col("bucket") % shares == share) for piece in pieces())
