"""The `[download]` table."""

from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tasks.download.failure_classes import check_patterns
from tasks.download.politeness_config import PoliteConfig


class RetryConfig(BaseModel):
    """`[download.retry]`: which failed rows are tried again after all others, and when."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)

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
    """Classes of failure; `*` and `?` as in file names, and `http_5xx`."""
    rounds: int = Field(default=1, ge=0, le=10)
    """Tries after the first one."""
    delay: float = Field(default=30.0, ge=0, le=3600)
    """Seconds before the first of them; before each further one twice as long."""

    @field_validator("classes")
    @classmethod
    def _known_form(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return check_patterns(value)


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
            raise ValueError(f"encode_quality is {self.encode_quality}; for png it is the compression, 0 to 9")
        return self

    def key_config(self) -> dict[str, Any]:
        """The fields that decide the output: how long a round waits does not."""
        fields = super().key_config()
        del fields["retry"]["delay"]
        return fields
