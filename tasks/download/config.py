"""Defines the `[download]` table of the config; politeness_config.py has the fields that concern hosts."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from dataops.snapshot import Input
from tasks.download.failure_classes import check_patterns
from tasks.download.fetch.archive_index import Archives, ArchiveSource
from tasks.download.harm.config import HashListsConfig
from tasks.download.harm.hash_lists import find_problems, read_inputs
from tasks.download.politeness_config import PoliteConfig


class RetryConfig(BaseModel):
    """`[download.retry]`: which failed rows are retried after all others, and when."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    classes: tuple[str, ...] = (
        "timeout",
        "dns",
        "connect",
        "incomplete",
        "host_busy",
        "http_408",
        "http_425",
        "http_429",
        "http_5xx",
    )
    """Failure classes; `*` and `?` match as in file names, and `http_5xx` matches all of 500 to 599."""
    rounds: int = Field(default=1, ge=0, le=10)
    """Number of rounds of retries."""
    delay: float = Field(default=30.0, ge=0, le=3600)
    """Seconds before the first round; each further round waits twice as long."""

    @field_validator("classes")
    @classmethod
    def _known_form(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return check_patterns(value)


class DownloadConfig(PoliteConfig):
    """`[download]`: how images are fetched, resized and stored."""

    execution_fields: ClassVar[frozenset[str]] = PoliteConfig.execution_fields | {"threads"}

    image_size: int = Field(default=224, ge=1, le=8192)
    """Size in pixels of the side that `resize_mode` names."""
    resize_mode: Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"] = "keep_ratio"
    """Mode of img2dataset: keep_ratio makes the smaller side `image_size`, keep_ratio_largest the larger one, border
    pads to a square with white, center_crop cuts to a square."""
    resize_quality: Literal["exact", "fast"] = "exact"
    """exact gives img2dataset's pixels of the upright image. fast decodes large JPEGs at a half, quarter or eighth of
    their size, which gives slightly different pixels (docs/download-rows.md has the speed and the differences)."""
    resize_only_if_bigger: bool = False
    """Do not enlarge smaller images."""
    encode_format: Literal["jpg", "png", "webp"] = "jpg"
    """Format of the images in the shards."""
    encode_quality: int = Field(default=95, ge=0, le=100)
    """Quality of JPEG and WebP, 0 to 100; for PNG, the compression, 0 to 9."""
    min_image_size: int = Field(default=0, ge=0)
    """Minimum smaller side of an original, in pixels."""
    max_image_area: int = Field(default=64_000_000, ge=1)
    """Maximum pixels of an original, checked before it is decoded (decompression bombs). Each worker decodes one image
    at a time, in a process that may allocate 20 bytes a pixel, 4 times `max_bytes` and 256 MiB: 1.6 GB by default."""
    max_aspect_ratio: float = Field(default=20.0, ge=1)
    """Maximum ratio of an original's larger side to its smaller side."""
    timeout: float = Field(default=10.0, gt=0, le=600)
    """Maximum seconds of one request, redirects included."""
    retries: int = Field(default=1, ge=0, le=10)
    """Number of immediate retries after a temporary failure; a timeout is only retried in a round."""
    retry: RetryConfig = RetryConfig()
    max_bytes: int = Field(default=20_000_000, ge=1)
    """Maximum bytes of one response body, as transferred."""
    threads: int = Field(default=64, ge=1, le=1024)
    """Number of parallel fetches in each worker process."""
    shard_size: int = Field(default=10_000, ge=1, le=100_000)
    """Rows of a shard, including the failed ones."""
    min_success: float = Field(default=0.05, ge=0, le=1)
    """Minimum share of fetched rows. Below it the stage fails: with exit code 75 if a rerun may fetch enough rows (the own
    network was down), else with 2, the most frequent failure class and what to change. 0 turns this off."""

    hash_lists: HashListsConfig | None = None
    """Drop known harmful images, by lists of their digests, before they are written; default off
    (docs/hash-lists.md)."""

    _archives: Archives | None = PrivateAttr(default=None)

    @property
    def archives(self) -> Archives | None:
        """The archives that hold images; None if all are requested from their hosts."""
        return self._archives

    def with_archives(self, sources: Sequence[ArchiveSource], *, hold_all: bool = True) -> Self:
        """Return a config that takes the images of some sources from their archives, without a request.

        Args:
            hold_all: whether these are all sources, so that no request is made at all, and so no retry.
        """
        changed = self.model_copy(update={"retry": RetryConfig(classes=(), rounds=0), "retries": 0} if hold_all else {})
        changed._archives = Archives(tuple(sources), hold_all)
        return changed

    def inputs(self) -> list[Input]:
        """Return the archives as inputs of the snapshot, if images are taken from them, and the lists of digests."""
        lists = read_inputs(self.hash_lists) if self.hash_lists else []
        return [*(self._archives.inputs() if self._archives else []), *lists]

    def problems(self) -> list[str]:
        """Return the problems that prevent a download."""
        lists = find_problems(self.hash_lists) if self.hash_lists else []
        return [*([] if self._archives and self._archives.hold_all else super().problems()), *lists]

    @model_validator(mode="after")
    def _png_compression(self) -> Self:
        if self.encode_format == "png" and self.encode_quality > 9:
            raise ValueError(f"encode_quality is {self.encode_quality}; for png it is the compression, 0 to 9")
        return self

    def key_config(self) -> dict[str, Any]:
        """Return the fields of the key, without the delay between rounds, which does not change the output."""
        fields = super().key_config()
        del fields["retry"]["delay"]
        if self._archives is None:
            return fields
        return fields | {
            "images": "archive" if self._archives.hold_all else dict.fromkeys(self._archives.names, "archive")
        }
