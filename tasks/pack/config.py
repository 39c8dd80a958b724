"""The `[pack]` table."""

from pydantic import Field

from dataops.config import StageConfig


class PackConfig(StageConfig):
    """`[pack]`: the training shards."""

    shard_size: int = Field(default=10_000, ge=1, le=100_000)
    """Most samples of a shard; the last may have fewer."""
    shard_bytes: int = Field(default=512 << 20, ge=1 << 10, le=4 << 30)
    """Most bytes of pictures in a shard: it ends before the picture that would be too much. Captions and rows, about 3 kB a
    sample, come on top. Where the store is S3 a worker holds one shard in memory."""
