"""The `[pack]` table."""

from typing import ClassVar

from pydantic import Field

from dataops.config import StageConfig


class PackConfig(StageConfig):
    """Settings of the training shards."""

    shard_size: int = Field(default=10_000, ge=1, le=100_000)
    """Number of samples of a shard; the last may have fewer."""
    shard_bytes: int = Field(default=512 << 20, ge=1 << 10, le=4 << 30)
    """Maximum size of the images in a shard, in bytes. A shard ends before the image that would exceed it. Captions and
    rows add about 3 kB a sample. If the store is S3, a worker has at least one shard in memory."""
    memory_limit_bytes: int = Field(default=4 << 30, ge=64 << 20)
    """Memory for the images that are sorted at the same time, of all processes of a machine together. Each process
    needs about 700 MB more. Images in a folder are not sorted in memory up to 16 million pairs."""

    execution_fields: ClassVar[frozenset[str]] = frozenset({"memory_limit_bytes"})
