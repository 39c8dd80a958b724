"""Defines the task of the download stage: the rows of one shard."""

from dataclasses import dataclass

from dataops.trace.targets import Target
from tasks.download.config import DownloadConfig
from tasks.download.hooks import ShardHook
from tasks.download.row_spans import RowSpan


@dataclass(frozen=True)
class ShardTask:
    """The rows of one shard, and how they are fetched."""

    index: int
    """Index of the shard, which names its tar and its parts."""
    spans: tuple[RowSpan, ...]
    config: DownloadConfig
    round: int = 0
    """0 for the first attempt of its rows."""
    retry_classes: tuple[str, ...] = ()
    """Failure classes whose rows are left for a later round."""
    workers: int = 1
    """Number of processes that share the limits for a host."""
    takedowns: tuple[Target, ...] = ()
    """Targets of takedown requests; rows that match them are not fetched."""
    hooks: tuple[ShardHook, ...] = ()
    """What plugins do with the images."""
    site_files: str | None = None
    """Folder that the processes share for robots.txt and similar files (tasks.web.host_state); default is a temporary
    one."""

    @property
    def id(self) -> str:
        return shard_id(self.index)

    def count_rows(self) -> int:
        """Return the number of its rows."""
        return sum(span.stop - span.start for span in self.spans)


def shard_id(index: int) -> str:
    """Return the id of the task that fetches a shard."""
    return f"shard-{index:05d}"
