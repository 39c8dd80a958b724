"""Functions of the filter stage that give each kept row the captions of the rows that its URL dropped.

Such a row is dropped as `duplicate_url`, as it would be without this. Its caption, with its uid and its origin, is also
an item of the column `captions` of the kept row, so the image is downloaded and stored once for all its captions.

1. The kept rows and the dropped ones are put by partition of the URL (`put_captions`).
2. The best captions of each URL are put by the batch of the kept row (`collect_captions`).
3. `CaptionsOfRows` adds them when the parts are written.
"""

from functools import cache
from typing import cast

import polars as pl
import pyarrow as pa

from dataops.kernels.hashes import hash128
from dataops.rules.captions import kept_caption
from dataops.schema import CAPTIONS
from dataops.snapshot import Draft
from dataops.text.caption_counts import count_captions
from dataops.text.duplicates import rank_captions
from dataops.trace.sources import number_sources
from tasks.engine.exchange import receive, send
from tasks.filter.added_steps import URL_DUPLICATE
from tasks.filter.steps import URL, FilterJob, FilterStep, PartSlice, read_pairs, read_verdicts

BY_URL, BY_ROW = "captions-by-url", "captions-by-row"
_FIELDS = [field.name for field in CAPTIONS.type.value_type]


@cache
def _captions_type() -> pl.DataType:
    """Return the type of the column in Polars; the conversion imports pandas, which the main process does not need."""
    empty = pa.table([pa.array([], CAPTIONS.type)], [CAPTIONS.name])
    return cast(pl.DataFrame, pl.from_arrow(empty)).schema[CAPTIONS.name]


def put_captions(draft: Draft, step: FilterStep) -> None:
    """Put the kept rows of a batch, and the captions of those dropped as duplicate_url, by partition of the URL."""
    found = list[pl.DataFrame]()
    for part_slice, verdicts in read_verdicts(draft, step):
        reasons = verdicts["drop_reason"]
        chosen = (reasons.is_null() | (reasons == URL_DUPLICATE).fill_null(value=False)).arg_true()
        rows = read_pairs(draft, part_slice)[chosen]
        rows = rows.with_columns(verdicts["language"][chosen], verdicts["language_score"][chosen])
        hashes = hash128(rows["url"].to_arrow())
        keys = pl.DataFrame({"url": hashes[:, 0], "url_low": hashes[:, 1], "row": chosen.cast(pl.UInt32)})
        rank = rank_captions(rows["caption_source"], count_captions(rows["caption"]))
        if sources := step.job.config.sources:
            rank = number_sources(rows["source"], sources).cast(pl.UInt32) * (1 << 16) + rank.cast(pl.UInt32)
        is_kept = reasons[chosen].is_null()
        texts = rows.with_columns(kept_caption(step.job.config)).select(
            pl.when(~pl.lit(is_kept)).then(pl.col(name)).alias(name) for name in _FIELDS
        )
        keys = keys.with_columns(pl.col("row") + part_slice.offset, is_kept=is_kept, rank=rank.cast(pl.UInt32))
        found.append(pl.concat([keys, texts], how="horizontal"))
    send(draft, step, BY_URL, pl.concat(found), "url")


def collect_captions(draft: Draft, step: FilterStep) -> None:
    """Put the best captions of each URL in a partition, as a list, by the batch of the URL's kept row."""
    rows = receive(draft, step, BY_URL)
    kept = rows.filter("is_kept").select(*URL, "part", "row")
    ordered = rows.filter(~pl.col("is_kept")).sort(*URL, "rank", "uid")
    first = ordered.filter(pl.int_range(pl.len()).over(URL) < step.job.config.captions_per_image - 1)
    lists = first.group_by(URL, maintain_order=True).agg(pl.struct(_FIELDS).alias(CAPTIONS.name))
    found = kept.join(lists, on=URL, how="inner", maintain_order="left")
    send(draft, step, BY_ROW, found.select("row", CAPTIONS.name), found["part"])


class CaptionsOfRows:
    """Adds the column `captions` to slices, which come in the order of their batches."""

    def __init__(self, draft: Draft, job: FilterJob):
        self._draft, self._job = draft, job
        self._batch, self._captions = -1, pl.DataFrame()

    def add(self, rows: pl.DataFrame, part_slice: PartSlice) -> pl.DataFrame:
        """Return the rows of a slice with their captions; null for a row without further ones."""
        if part_slice.batch != self._batch:
            self._batch = part_slice.batch
            found = self._job.exchange(BY_ROW).read(self._draft, self._batch)
            self._captions = found.select("row", pl.col(CAPTIONS.name).cast(_captions_type()))
        numbered = rows.with_row_index("row", part_slice.offset)
        return numbered.join(self._captions, on="row", how="left", maintain_order="left").drop("row")
