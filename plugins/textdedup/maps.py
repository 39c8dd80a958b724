"""Functions of the filter stage that drop near-duplicate captions, each over one batch or one partition.

1. Of the captions with one normal form, one is kept (`put_normal_forms`, `drop_same_captions`).
2. The others exchange the bands of their signatures. A row that shares a band with another one is a candidate
   (`put_signatures`, `find_candidates`).
3. Candidates are compared, with their captions, in the partition of the band's hash (`put_candidates`,
   `compare_captions`).
4. The pairs are decided in the partitions of the ranks (`drop_near_captions`).
"""

from collections.abc import Iterator

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from dataops.kernels.hashes import hash128, uid_halves
from dataops.rules.captions import kept_caption
from dataops.rules.urls import host
from dataops.snapshot import Draft, read_table
from dataops.text.duplicates import find_duplicates
from plugins.textdedup.config import KIND, REASON, TABLE, NearCaptionsConfig
from plugins.textdedup.minhash import choose_scheme, hash_bands
from plugins.textdedup.near_captions import (
    MEMBERS,
    bound_ranks,
    compute_ranks,
    find_dropped,
    find_near_pairs,
    sample_ranks,
)
from plugins.textdedup.shingles import hash_normal_forms
from tasks.engine.exchange import put_frame, read_frame, receive, send
from tasks.filter.steps import FilterStep, drop_reason_tables, put_dropped, read_kept_keys, read_rows

_BOUNDS = "near-bounds.table"
"""Scratch table with the ranks at which the partitions of the ranks begin."""
_KNOWN = 1 << 63
"""Ids from here on are those of captions that an earlier version has."""
_COPIES = 4
"""Maximum number of copies of a batch's captions in memory, while they are sorted and compared."""
_SAMPLE = 1000
"""One rank in so many is a sample for the bounds of the partitions of the ranks."""


def put_normal_forms(draft: Draft, step: FilterStep) -> None:
    """Put the keys of the kept rows of a batch by partition of the hash of normal form and scope."""
    keys = read_kept_keys(draft, step, drop_reason_tables(step.job.config, added=False)).sort("row")
    captions, scopes = _read_captions(draft, step, keys["row"])
    hashes = hash_normal_forms(captions)
    has_words = pl.Series((hashes[:, 0] | hashes[:, 1]) != 0)
    halves = {"caption": pl.Series(hashes[:, 0] ^ scopes), "caption_low": pl.Series(hashes[:, 1].copy())}
    forms = keys.with_columns(**halves).filter(has_words)
    send(draft, step, "normal-forms", forms, "caption")


def drop_same_captions(draft: Draft, step: FilterStep) -> None:
    """Drop all but one row of each normal form in a partition, and put the drop reasons by batch."""
    rows = receive(draft, step, "normal-forms")
    _put_dropped(draft, step, "drop-reasons-same", rows.filter(pl.Series(find_duplicates(rows, ["caption"]) > 0)))


def put_signatures(draft: Draft, step: FilterStep) -> None:
    """Put the signatures' bands of the kept rows of a batch by partition of the band's hash."""
    rows = _read_normal_forms(draft, step)["row"]
    captions, scopes = _read_captions(draft, step, rows)
    hashes = hash_bands(captions, scopes, choose_scheme(_config(step).threshold))
    bands = pl.DataFrame({"bucket": hashes.ravel(), "row": np.repeat(rows.to_numpy(), hashes.shape[1])})
    send(draft, step, "near-bands", bands, "bucket")


def put_known_bands(draft: Draft, step: FilterStep) -> None:
    """Put the bands of some tables of earlier versions by partition of the band's hash."""
    bands = np.concatenate([_read_bands(draft, name) for name in step.inputs])
    rows = np.repeat(np.arange(len(bands), dtype=np.uint32), bands.shape[1])
    found = pl.DataFrame({"bucket": bands.ravel(), "row": rows})
    send(draft, step, "near-known-bands", found, "bucket")


def find_candidates(draft: Draft, step: FilterStep) -> None:
    """Find the bands of a partition that several rows have, or a row and an earlier version, and put them by batch."""
    bands = receive(draft, step, "near-bands")
    is_shared = pl.col("bucket").is_duplicated()
    if KIND in step.job.known:
        known = receive(draft, step, "near-known-bands")
        known = known.join(bands, on="bucket", how="semi")
        send(draft, step, "near-known-candidates", known.drop("part"), known["part"])
        is_shared |= pl.col("bucket").is_in(known["bucket"].unique().implode())
    shared = bands.filter(is_shared)
    send(draft, step, "near-candidates", shared.drop("part"), shared["part"])


def put_candidates(draft: Draft, step: FilterStep) -> None:
    """Put the candidates of a batch, with their ranks and captions, by partition of the band's hash."""
    candidates = receive(draft, step, "near-candidates").drop("part")
    forms = _read_normal_forms(draft, step)
    rows = forms.select("row", "origin", rank=compute_ranks(forms, several_sources=bool(step.job.config.sources)))
    rows = rows.join(candidates.select("row").unique(), on="row", how="semi", maintain_order="left")
    captions, _ = _read_captions(draft, step, rows["row"])
    put_frame(draft, _samples_name(step.number), pl.DataFrame({"rank": sample_ranks(rows["rank"], _SAMPLE)}))
    members = rows.with_columns(
        id=pl.lit(step.number, pl.UInt64) * (1 << 32) + pl.col("row").cast(pl.UInt64),
        caption=pl.Series(captions, dtype=pl.String),
    )
    found = candidates.join(members, on="row").drop("row")
    send(draft, step, "near-captions", found, "bucket")


def put_known_candidates(draft: Draft, step: FilterStep) -> None:
    """Put the candidates of some tables of earlier versions by partition of the band's hash; they have the best rank."""
    candidates = receive(draft, step, "near-known-candidates").drop("part")
    captions = pa.concat_tables([read_table(draft.store, name, ["caption"]) for name in step.inputs])["caption"]
    found = candidates.select(
        "bucket",
        rank=pl.lit(0, pl.UInt64),
        origin=pl.lit(0, pl.UInt64),
        id=pl.lit(_KNOWN + step.number * (1 << 32), pl.UInt64) + pl.col("row").cast(pl.UInt64),
        caption=pl.Series(captions.combine_chunks(), dtype=pl.String).gather(candidates["row"]),
    )
    send(draft, step, "near-known-captions", found, "bucket")


def choose_rank_bounds(draft: Draft, step: FilterStep) -> None:
    """Choose the ranks at which the partitions of the ranks begin, from the samples of all batches."""
    samples = pl.concat(read_frame(draft, _samples_name(batch)) for batch in range(step.job.batches))["rank"]
    put_frame(draft, _BOUNDS, pl.DataFrame({"rank": bound_ranks(samples, step.job.units["rank_partitions"])}))


def compare_captions(draft: Draft, step: FilterStep) -> None:
    """Find the near-duplicates in a partition of bands, and put the pairs by partition of the better row's rank."""
    batches = _read_batches(draft, step)
    pairs = pl.concat(find_near_pairs(members, _config(step).threshold) for members in batches).unique()
    pairs = pairs.filter(pl.col("worse") < _KNOWN)  # what an earlier version has stays
    send(draft, step, "near-pairs", pairs, _number_ranks(draft, pairs["better_rank"]))


def drop_near_captions(draft: Draft, step: FilterStep) -> None:
    """Drop the rows that have a better near-duplicate in a partition of ranks; the partitions before it are decided.

    Rows of later partitions that are dropped here are written for these to read (time-forward processing; Zeh 2002,
    "I/O-efficient algorithms for graphs of bounded treewidth and maximal independent sets"), so that only one partition
    is in memory.
    """
    dropped_rows = step.job.exchange("near-dropped")
    pairs = receive(draft, step, "near-pairs").drop("part").unique()
    before = (
        dropped_rows.read_early(draft, step.number, step.number)
        if step.number
        else pl.DataFrame(schema={"worse": pl.UInt64})
    )
    dropped = find_dropped(pairs, before["worse"])
    dropped_rows.write(draft, step.number, dropped.select("worse"), _number_ranks(draft, dropped["worse_rank"]))
    part, row = (pl.col("worse") // (1 << 32)).cast(pl.UInt32), (pl.col("worse") % (1 << 32)).cast(pl.UInt32)
    _put_dropped(draft, step, "drop-reasons-near", dropped.select(part=part, row=row))


def known_captions(config: NearCaptionsConfig, pairs: pl.DataFrame) -> pa.Table:
    """Return the captions of pairs (columns uid, url, caption) as rows of a table of KIND."""
    captions, uids = pairs["caption"].to_arrow(), uid_halves(pairs["uid"].to_arrow())
    scopes = _hash_scopes(config, pairs)
    bands = hash_bands(captions, scopes, choose_scheme(config.threshold))
    return pa.table(
        {
            "uid_high": np.ascontiguousarray(uids[:, 0]),
            "uid_low": np.ascontiguousarray(uids[:, 1]),
            "caption": captions.cast(pa.large_string()),
            "bands": pa.FixedSizeListArray.from_arrays(pa.array(bands.ravel()), bands.shape[1]),
        }
    )


def _read_bands(draft: Draft, name: str) -> NDArray[np.uint64]:
    bands = read_table(draft.store, name, ["bands"])["bands"].combine_chunks()
    return bands.flatten().to_numpy().reshape(-1, bands.type.list_size)


def _hash_scopes(config: NearCaptionsConfig, rows: pl.DataFrame) -> NDArray[np.uint64]:
    if config.scope == "all":
        return np.zeros(rows.height, np.uint64)
    return hash128(rows.select(host(pl.col("url"))).to_series().to_arrow())[:, 0]


def _config(step: FilterStep) -> NearCaptionsConfig:
    return getattr(step.job.config, TABLE)


def _samples_name(batch: int) -> str:
    return f"near-ranks-{batch:05d}.table"


def _read_normal_forms(draft: Draft, step: FilterStep) -> pl.DataFrame:
    """Return the keys of the rows of a batch that `drop_same_captions` kept."""
    forms = step.job.exchange("normal-forms").read_written(draft, step.number)
    dropped = receive(draft, step, "drop-reasons-same")
    return forms.join(dropped, on="row", how="anti").sort("row")


def _put_dropped(draft: Draft, step: FilterStep, kind: str, rows: pl.DataFrame) -> None:
    code = step.job.drop_reasons.index(REASON) + 1
    put_dropped(draft, step, kind, rows, np.full(rows.height, code, np.uint8))


def _read_captions(draft: Draft, step: FilterStep, rows: pl.Series) -> tuple[pa.Array, NDArray[np.uint64]]:
    """Return the captions of some rows of a batch, masked if the config asks for it, and their scopes (n,).

    Args:
        rows: indices in the batch, ascending.
    """
    captions, scopes = [pa.array([], pa.large_string())], [np.zeros(0, np.uint64)]
    for part_slice in step.inputs:
        start, end = np.searchsorted(rows.to_numpy(), [part_slice.offset, part_slice.offset + part_slice.rows]).tolist()
        texts = read_rows(draft, part_slice, ["url", "caption"])[rows[start:end] - part_slice.offset]
        captions.append(texts.select(kept_caption(step.job.config)).to_series().to_arrow())
        scopes.append(_hash_scopes(_config(step), texts))
    return pa.concat_arrays(captions), np.concatenate(scopes)


def _number_ranks(draft: Draft, ranks: pl.Series) -> NDArray[np.int64]:
    """Return the partition of each rank."""
    return np.searchsorted(read_frame(draft, _BOUNDS)["rank"].to_numpy(), ranks.to_numpy(), side="right")


def _read_batches(draft: Draft, step: FilterStep) -> Iterator[pl.DataFrame]:
    """Yield the candidates of a partition in batches that fit in memory, since captions may be long."""

    def tables() -> Iterator[pl.DataFrame]:
        kinds = ["near-captions", *(["near-known-captions"] if KIND in step.job.known else [])]
        for kind in kinds:
            for table in step.job.exchange(kind).read_tables(draft, step.number):
                yield table.select(*MEMBERS)

    size = sum(table.estimated_size() for table in tables())
    count = 1 + int(size * _COPIES // step.job.memory_bytes)
    for number in range(count):
        yield pl.concat(table.filter(pl.col("bucket") % count == number) for table in tables())
