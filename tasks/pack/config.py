"""The `[pack]` table."""

from typing import Any, ClassVar, Self

from pydantic import Field, PrivateAttr

from dataops.config import StageConfig
from tasks.lists.locations import Lists
from tasks.lists.opt_outs import find_problems


class PackConfig(StageConfig):
    """Settings of the training shards."""

    shard_size: int = Field(default=10_000, ge=1, le=100_000)
    """Number of samples of a shard; the last may have fewer."""
    shard_bytes: int = Field(default=512 << 20, ge=1 << 10, le=4 << 30)
    """Maximum size of the images in a shard, in bytes. A shard ends before the image that would exceed it. Captions and
    rows add about 3 kB a sample. If the store is S3, a worker has at least one shard in memory."""
    opt_out_lists: Lists = Field(default={})
    """More lists like those of `filter.opt_out_lists`, which apply to `pack` only. A change of these does not filter and
    download again."""
    memory_limit_bytes: int = Field(default=4 << 30, ge=64 << 20)
    """Memory for the images that are sorted at the same time, of all processes of a machine together. Each process
    needs about 700 MB more. Images in a folder are not sorted in memory up to 16 million pairs."""

    execution_fields: ClassVar[frozenset[str]] = frozenset({"memory_limit_bytes", "opt_out_lists"})

    _lists: dict[str, str] = PrivateAttr(default={})

    def within(self, run: Any) -> Self:
        changed = self.model_copy()
        changed._lists = dict(run.filter.opt_out_lists)
        return changed

    @property
    def all_lists(self) -> dict[str, str]:
        """The location of each list by name: those of `[filter]`, and those of this table."""
        return self._lists | self.opt_out_lists

    def problems(self) -> list[str]:
        """Return what is wrong with the opt-out lists."""
        return find_problems(self.opt_out_lists)
