"""The download stage: the pictures of the pairs that the filter kept, through img2dataset behind a safe fetch.

A shard of rows is one task: img2dataset's own Downloader, Resizer and WebDataset writer fetch, resize and write it into
a temporary folder; what they wrote is checked row by row and then committed. Rows that failed by a class that may pass are
fetched again when all shards are done, in rounds, as further shards (tasks/download/rounds.py). For shard i there is

    {i:05d}.tar               samples {uid}.jpg, {uid}.json, {uid}.txt in the order of their uids
    part-{i:05d}.parquet      the rows whose picture is in the tar
    dropped-{i:05d}.parquet   the others, each with status, error_message and drop_reason
    evidence-{i:05d}.parquet  what the servers said of each row, which no digest covers
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from dataops.errors import SourceError
from dataops.snapshot import Draft, Record
from dataops.trace.targets import Target
from tasks.download import summary
from tasks.download.fetch.originals import Originals
from tasks.download.politeness import PoliteConfig
from tasks.download.rounds import REOPENED, Cut, RetryConfig, run_rounds, shard_id
from tasks.download.row_spans import Slice
from tasks.engine.map_parts import map_parts, shared_workers
from tasks.engine.scratch_folders import scratch_folder
from tasks.engine.stage import Made, Stage, Work, gather
from tasks.engine.takedown_requests import recorded, targets_of

logger = logging.getLogger(__name__)


class DownloadConfig(PoliteConfig):
    """`[download]`: how pictures are fetched and what is made of them."""

    execution_fields: ClassVar[frozenset[str]] = PoliteConfig.execution_fields | {"threads"}

    image_size: int = Field(default=224, ge=1, le=8192)
    """Pixels of the side that `resize_mode` speaks of."""
    resize_mode: Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"] = "keep_ratio"
    """img2dataset's: keep_ratio makes the smaller side `image_size`, keep_ratio_largest the larger one, border pads to
    a square with white, center_crop cuts to a square."""
    resize_quality: Literal["exact", "fast"] = "exact"
    """exact: img2dataset's pixels. fast: large JPEGs are decoded at a half, quarter or eighth of their size, with slightly
    other pixels (docs/download-rows.md says how fast, and what other)."""
    resize_only_if_bigger: bool = False
    """Leave smaller pictures at their size."""
    encode_format: Literal["jpg", "png", "webp"] = "jpg"
    """Of the pictures in the shards."""
    encode_quality: int = Field(default=95, ge=0, le=100)
    """JPEG and WebP: 0 to 100; PNG: the compression, 0 to 9."""
    min_image_size: int = Field(default=0, ge=0)
    """Drop originals whose smaller side is below this."""
    max_image_area: int = Field(default=64_000_000, ge=1)
    """Drop originals of more pixels, before they are decoded (a decompression bomb). 64 million take 256 MB."""
    max_aspect_ratio: float = Field(default=20.0, ge=1)
    """Drop originals whose larger side is more than this many times the smaller."""
    timeout: float = Field(default=10.0, gt=0, le=600)
    """Seconds for one request as a whole, redirects included."""
    retries: int = Field(default=1, ge=0, le=10)
    """More tries, at once, after a failure that another try may mend; a timeout waits for its round."""
    retry: RetryConfig = RetryConfig()
    max_bytes: int = Field(default=20_000_000, ge=1)
    """Of one picture, on the wire."""
    threads: int = Field(default=64, ge=1, le=1024)
    """Fetches at a time in each worker process."""
    shard_size: int = Field(default=10_000, ge=1, le=100_000)
    """Rows a shard, the failed ones included."""
    min_success: float = Field(default=0.05, ge=0, le=1)
    """The stage fails, to be tried again, where a smaller share of its rows was fetched: then it is our network, not the
    web. 0: never."""

    @model_validator(mode="after")
    def _png_compression(self) -> Self:
        if self.encode_format == "png" and self.encode_quality > 9:
            msg = f"encode_quality is {self.encode_quality}; for png it is the compression, 0 to 9"
            raise ValueError(msg)
        return self

    def key_config(self) -> dict[str, Any]:
        """The fields that decide the output: how long a round waits does not."""
        fields = super().key_config()
        del fields["retry"]["delay"]
        return fields


@dataclass(frozen=True)
class Shard:
    """One task: the rows of one shard."""

    index: int
    rows: tuple[Slice, ...]
    config: DownloadConfig
    round: int = 0
    """0 for the first try of its rows."""
    again: tuple[str, ...] = ()
    """Classes of failure whose rows are left for a later round."""
    workers: int = 1
    """Processes that share what may be asked of a host."""
    taken: tuple[Target, ...] = ()
    """What somebody asked to be taken out: it is not fetched."""
    site_files: str | None = None
    """The folder of what hosts say to robots (tasks.web.origin_files), which they share too; one of its own by default."""

    @property
    def id(self) -> str:
        return shard_id(self.index)


def make(work: Work) -> Made:
    """Download all shards, and what failed again in later rounds; of a snapshot that was reopened, only the latter.

    Raises: SourceError when less than `min_success` of the rows was fetched; what failed is then forgotten, so that the
    next try asks the servers again.
    """
    config: DownloadConfig = work.config
    draft, source = work.draft, work.inputs["filter"]
    rows = [(source.path(part.name), part.rows) for part in source.named("part-", ".parquet")]
    taken = targets_of(draft.store, recorded(draft.store))
    records, start = [], 0
    if reopened := draft.done(REOPENED):
        records, rows, start = [reopened], reopened.facts["rows"], reopened.facts["shards"]

    with scratch_folder("site-files") as folder, shared_workers(work.context) as context:

        def fetch(cuts: list[Cut], number: int, again: tuple[str, ...]) -> list[Record]:
            workers = min(context.workers, len(cuts))
            shards = [Shard(index, cut, config, number, again, workers, taken, str(folder)) for index, cut in cuts]
            return map_parts(download_shard, shards, draft, context, said)

        fetched = run_rounds(draft, rows, start, config.shard_size, config.retry, fetch)
    if config.originals:
        Originals(Path(config.originals)).shrink(config.originals_bytes)
    records += fetched
    parts, counts = gather(records)
    hosts = summary.add_up(record.facts["hosts"] for record in records)
    if counts.kept < config.min_success * counts.input:
        _forget(draft, fetched, config)
        msg = (
            f"download: {counts.kept:,} of {counts.input:,} pictures were fetched, less than the share "
            f"{config.min_success:g} of download.min_success: check the network, then run again\n"
            f"{summary.table(counts, hosts)}"
        )
        raise SourceError(msg)
    size = sum(record.facts["bytes"] for record in records)
    facts = {"shards": start + len(fetched), "samples": counts.kept, "bytes_fetched": size, "hosts": hosts}
    return Made(parts, counts, facts)


def said(record: Record) -> str:
    """How one shard went, for people: reasons first, for the end of a line is what a narrow terminal shows."""
    counts, facts = record.counts, record.facts
    asked = counts.input + facts["again"]
    why = ", ".join(f"{reason} {number:,}" for reason, number in sorted(counts.dropped.items(), key=lambda x: -x[1]))
    again = f"{facts['again']:,} to be tried again; " if facts["again"] else ""
    seconds = max(facts["seconds"], 0.001)
    speed = f"{asked / seconds:,.0f} images/s, {facts['bytes'] / seconds / 1e6:,.1f} MB/s"
    share = f"{counts.kept / max(asked, 1):.1%} of {asked:,} fetched"
    return f"{record.task}: {why + '; ' if why else ''}{again}{share}, {speed}"


def _forget(draft: Draft, records: Sequence[Record], config: DownloadConfig) -> None:
    """Forget the shards of which too little was fetched, or that left rows to later rounds, and all of those rounds."""
    for record in records:
        counts, facts = record.counts, record.facts
        if facts["round"] or facts["again"] or counts.kept < config.min_success * counts.input:
            draft.store.delete(
                [draft.scratch(f"{record.task}.json"), *(draft.path(part.name) for part in record.parts)]
            )


def download_shard(draft: Draft, shard: Shard) -> Record:
    """Fetch, check and commit one shard; runs in a worker process, which alone loads img2dataset (and with it torch)."""
    from tasks.download.worker import run

    return run(draft, shard)


DOWNLOAD = Stage(name="download", version=3, make=make)
