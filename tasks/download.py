"""The download stage: the pictures of the pairs that the filter kept, through img2dataset behind a safe fetch.

A shard of rows is one task: img2dataset's own Downloader, Resizer and WebDataset writer fetch, resize and write it into
a temporary folder; what they wrote is checked row by row and then committed. For shard i the snapshot holds

    {i:05d}.tar               samples {key}.jpg, {key}.json, {key}.txt in the order of their keys
    part-{i:05d}.parquet      the rows whose picture is in the tar
    dropped-{i:05d}.parquet   the others, each with status, error_message and drop_reason
    evidence-{i:05d}.parquet  what the servers said of each row, which no digest covers
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from dataops.errors import SourceError
from dataops.snapshot import Draft, Record
from tasks import slices
from tasks.originals import Originals
from tasks.parts import map_parts
from tasks.polite_config import PoliteConfig
from tasks.scratch import scratch_folder
from tasks.slices import Slice
from tasks.stage import Made, Stage, Work, gather

logger = logging.getLogger(__name__)


class DownloadConfig(PoliteConfig):
    """`[download]`: how pictures are fetched and what is made of them."""

    execution_fields: ClassVar[frozenset[str]] = PoliteConfig.execution_fields | {"threads"}

    image_size: int = Field(default=224, ge=1, le=8192)
    """Pixels of the side that `resize_mode` speaks of."""
    resize_mode: Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"] = "keep_ratio"
    """img2dataset's: keep_ratio makes the smaller side `image_size`, keep_ratio_largest the larger one, border pads to
    a square with white, center_crop cuts to a square."""
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
    """More tries after a failure that another try may mend."""
    max_bytes: int = Field(default=20_000_000, ge=1)
    """Of one picture, on the wire."""
    threads: int = Field(default=16, ge=1, le=1024)
    """Fetches at a time in each worker process."""
    shard_size: int = Field(default=10_000, ge=1, le=100_000)
    """Rows a shard, the failed ones included."""
    max_failed_fraction: float = Field(default=0.95, ge=0, le=1)
    """The stage fails, to be tried again, where more of its rows failed: then it is our network, not the web. 1: never."""

    @model_validator(mode="after")
    def _png_compression(self) -> Self:
        if self.encode_format == "png" and self.encode_quality > 9:
            msg = f"encode_quality is {self.encode_quality}; for png it is the compression, 0 to 9"
            raise ValueError(msg)
        return self


@dataclass(frozen=True)
class Shard:
    """One task: the rows of one shard."""

    index: int
    rows: tuple[Slice, ...]
    config: DownloadConfig
    workers: int = 1
    """Processes that share what may be asked of a host."""
    site_files: str | None = None
    """The folder of what hosts say to robots (tasks.site_files), which they share too; one of its own by default."""

    @property
    def id(self) -> str:
        return f"shard-{self.index:05d}"


def make(work: Work) -> Made:
    """Download all shards.

    Raises: SourceError when more than `max_failed_fraction` of the rows failed; their shards are then forgotten, so
    that the next try asks the servers again.
    """
    config: DownloadConfig = work.config
    cuts = slices.cut(work.inputs["filter"], config.shard_size)
    with scratch_folder("site-files") as folder:
        workers = min(work.context.workers, len(cuts))
        shards = [Shard(index, rows, config, workers, str(folder)) for index, rows in enumerate(cuts)]
        records = map_parts(download_shard, shards, work.draft, work.context)
    if config.originals:
        Originals(Path(config.originals)).shrink(config.originals_bytes)
    parts, counts = gather(records)
    failed = counts.input - counts.kept
    if counts.input and failed / counts.input > config.max_failed_fraction:
        _forget(work.draft, records, config.max_failed_fraction)
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in sorted(counts.dropped.items(), key=lambda x: -x[1]))
        msg = (
            f"download: {failed:,} of {counts.input:,} pictures failed ({reasons}), more than the fraction "
            f"{config.max_failed_fraction:g} of download.max_failed_fraction: check the network, then run again"
        )
        raise SourceError(msg)
    fetched = sum(record.facts["bytes"] for record in records)
    return Made(parts, counts, {"shards": len(shards), "samples": counts.kept, "bytes_fetched": fetched})


def _forget(draft: Draft, records: Sequence[Record], limit: float) -> None:
    for record in records:
        if record.counts.input - record.counts.kept > limit * record.counts.input:
            draft.store.delete_tree(draft.scratch(f"{record.task}.json"))


def download_shard(draft: Draft, shard: Shard) -> Record:
    """Fetch, check and commit one shard; runs in a worker process, which alone loads img2dataset (and with it torch)."""
    from tasks.fetch_shard import run

    return run(draft, shard)


DOWNLOAD = Stage(name="download", version=3, make=make)
