"""The `[pack]` table."""

from pydantic import Field

from dataops.config import StageConfig


class PackConfig(StageConfig):
    """Settings of the training shards."""

    shard_size: int = Field(default=10_000, ge=1, le=100_000)
    """Number of samples of a shard; the last may have fewer."""
    shard_bytes: int = Field(default=512 << 20, ge=1 << 10, le=4 << 30)
    """Maximum size of the images in a shard, in bytes. A shard ends before the image that would exceed it. Captions and
    rows add about 3 kB a sample. If the store is S3, a worker holds one shard in memory."""
