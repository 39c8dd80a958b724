"""One task of the download stage: the rows of one shard."""

from dataclasses import dataclass

from dataops.trace.targets import Target
from tasks.download.config import DownloadConfig
from tasks.download.row_spans import RowSpan


@dataclass(frozen=True)
class ShardTask:
    """One task: the rows of one shard."""

    index: int
    rows: tuple[RowSpan, ...]
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


def shard_id(index: int) -> str:
    """The task that fetches a shard."""
    return f"shard-{index:05d}"
