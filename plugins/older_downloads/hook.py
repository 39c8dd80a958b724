"""The hook by which a download takes over what an older accepted version of the stage has fetched."""

from collections.abc import Sequence
from typing import Any

from dataops.snapshot import Record
from tasks.download.hooks import FetchHook
from tasks.engine.stage import Work


class OlderDownloads(FetchHook):
    """Copies the shards of an unfinished snapshot of an older version."""

    recovers = True

    def recover(self, work: Work[Any], rows: Sequence[tuple[str, int]]) -> Record | None:
        from plugins.older_downloads.shards import recover  # the config of download loads this module

        return recover(work, rows)


OLDER_DOWNLOADS = OlderDownloads()
