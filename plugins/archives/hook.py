"""Hooks of a download: images from the archives of the sources, and a folder of originals (docs/data/download.md)."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
from pydantic import BaseModel, NonNegativeInt

from dataops.config import ConfigPath, absolute_path
from dataops.facts import DownloadFacts
from dataops.schema import DropReason
from dataops.snapshot import Draft, Input
from dataops.store import open_store
from dataops.trace.targets import Target, matching_rows
from tasks.download.hooks import FetchHook, ShardHook

if TYPE_CHECKING:
    from plugins.archives.originals import Original, Originals

logger = logging.getLogger(__name__)

S3 = "s3://"
ASKED = 64
"""Originals that are kept in memory while their images are requested."""


class ArchivedImages(FetchHook):
    """Takes the images of sources with `images = "archive"` from their WARC files, without a request."""

    reasons: ClassVar[Mapping[str, DropReason]] = {
        "not_in_archive": DropReason(
            'No archive of the source has a usable record of the image, with `source.images = "archive"`.',
            '`source.images = "web"` requests it from its host',
        )
    }
    order = 50  # after hooks that check bytes: what they drop is not copied from an archive

    def adapt(self, config: Any, sources: Sequence[Any]) -> Any:
        archives = [one for one in sources if getattr(one, "images", "web") == "archive"]
        hold_all = len(archives) == len(sources)
        return config.with_adapted({"archives": archives, "hold_all": hold_all}) if archives else config

    def key(self, config: Any) -> Mapping[str, Any]:
        if not (archives := config.adapted.get("archives")):
            return {}
        return {"images": "archive" if config.adapted["hold_all"] else {source.name: "archive" for source in archives}}

    def inputs(self, config: Any) -> list[Input]:
        return [
            one.model_copy(update={"key": source.label(one.key)})
            for source in config.adapted.get("archives", ())
            for one in source.inputs()
        ]

    def start(self, work: Any, context: Any, started: Sequence[ShardHook]) -> ShardHook | None:
        if not (archives := work.config.adapted.get("archives")):
            return None
        from plugins.archives.archive_index import ArchiveHook, index_archives, list_tasks

        tasks = list_tasks(archives, work.config.max_bytes, context, started)
        facts = index_archives(tasks, work.draft, context)
        names = None if work.config.adapted["hold_all"] else tuple(source.name for source in archives)
        return ArchiveHook(tuple(task.label for task in tasks), names, facts)


class OriginalsConfig(BaseModel):
    """Keys of the folder of originals."""

    originals: ConfigPath | None = None
    """Folder of the images as fetched, or for all machines a prefix in S3, such as s3://bucket/originals. A later run with
    the same folder fetches only images that have changed, by ETag and Last-Modified, and takes the others from the folder,
    with any `image_size`. The folder must be new, empty, or made by an earlier run, since files in it are deleted."""
    originals_bytes: NonNegativeInt = 50 << 30
    """Maximum bytes of that folder at the end of a run; the images that were not requested for the longest are
    deleted."""


class KeptOriginals(FetchHook):
    """Stores images as fetched, so that a later run fetches only those that have changed."""

    config = OriginalsConfig
    execution_fields = frozenset({"originals", "originals_bytes"})

    def start(self, work: Any, context: Any, started: Sequence[ShardHook]) -> ShardHook | None:
        if not work.config.originals:
            return None
        _open(work.config.originals)
        return OriginalsHook(work.config.originals)

    def finish(self, work: Any, facts: DownloadFacts) -> None:
        if work.config.originals:
            _open(work.config.originals).shrink(work.config.originals_bytes)

    def list_copies(self, table: Mapping[str, Any]) -> list[str]:
        folder = absolute_path(table.get("originals") or "")
        return [folder] if folder.startswith(S3) or (folder and Path(folder).is_dir()) else []

    def erase(self, folder: str, urls: Sequence[str], targets: Sequence[Target]) -> int:
        from plugins.archives.originals import Originals

        if folder.startswith(S3) and not Originals(open_store(folder)).is_claimed():
            return 0  # a record may name any prefix
        kept = _open(folder)
        dropped = sum(kept.drop(url) for url in urls)
        return dropped + kept.drop_matching(lambda one: bool(matching_rows(_as_table(one), targets).any()))


def _as_table(kept: Any) -> pa.Table:
    return pa.table({"url": [kept.url], "sha256": [kept.sha256]})


def _open(folder: str) -> "Originals":
    """Return a claimed folder or prefix; on a cluster, each machine may have a folder of its own. Raises: ConfigError."""
    from plugins.archives.originals import Originals

    found = Originals(open_store(folder))
    found.claim()
    return found


@dataclass
class OriginalsHook(ShardHook):
    """The folder of originals, for the shards of a run."""

    folder: str

    @contextmanager
    def open(self, draft: Draft) -> Iterator[ShardHook]:
        self._kept = _open(self.folder)
        self._found: dict[str, Original] = {}
        yield self

    def headers(self, url: str) -> Mapping[str, str]:
        if (found := self._kept.get(url)) is None:
            return {}
        if len(self._found) >= ASKED:  # of requests that failed
            self._found.clear()
        self._found[url] = found
        return found.validators

    def stored(self, url: str) -> bytes | None:
        found = self._found.pop(url, None) or self._kept.get(url)
        return found.body if found else None

    def keep(self, url: str, body: bytes, headers: Message, *, new: bool) -> None:
        self._found.pop(url, None)
        if new:
            self._kept.put(url, body, headers)
        else:
            self._kept.confirm(url)

    def failed(self, url: str) -> None:
        self._found.pop(url, None)
        self._kept.drop(url)


ARCHIVED_IMAGES, ORIGINALS = ArchivedImages(), KeptOriginals()
