"""The hook of a download that reads the images of own sources, in place of a request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.message import Message
from typing import Any, ClassVar

import pyarrow as pa

from dataops.errors import PairmillError, SourceError
from dataops.facts import DownloadFacts
from dataops.reasons import Reason
from dataops.schema import DropReason
from dataops.snapshot import Input
from plugins.own_images.reasons import NO_IMAGE, READ_REASONS
from plugins.own_images.urls import split_own_image_url
from tasks.download.hooks import FetchHook, ShardHook
from tasks.web.fetch_error import FetchError

NAME = "own_images"
VERSION = 1
"""Version of what is read of a source; it is in the key of `download`."""


class OwnImagesHook(FetchHook):
    """Reads the images of sources that hold them."""

    reasons: ClassVar[Mapping[str, DropReason]] = READ_REASONS
    order = 60

    def adapt(self, config: Any, sources: Sequence[Any]) -> Any:
        own = [source for source in sources if hasattr(source, "image_inputs")]
        return config.with_adapted({NAME: own}) if own else config

    def key(self, config: Any) -> Mapping[str, Any]:
        own = config.adapted.get(NAME, ())
        return {NAME: {source.url_name: [source.kind, VERSION] for source in own}} if own else {}

    def inputs(self, config: Any) -> list[Input]:
        return _list_inputs(config.adapted.get(NAME, ()))

    def start(self, work: Any, context: Any, started: Sequence[ShardHook]) -> ShardHook | None:
        own = work.config.adapted.get(NAME, ())
        files = {}
        for source in own:
            if source.kind != "folder":
                files |= {source.label(file.name): file for file in source.source_files()}
        return ImageReader(tuple(own), files, work.config.max_bytes) if own else None

    def finish(self, work: Any, facts: DownloadFacts) -> None:
        own = work.config.adapted.get(NAME, ())
        if own and not set(_list_inputs(own)) <= set(work.made_of):
            raise SourceError(
                "the images of a source changed while the run read them; start the run again", retryable=False
            )


OWN_IMAGES = OwnImagesHook()


def _list_inputs(sources: Sequence[Any]) -> list[Input]:
    return [
        one.model_copy(update={"key": source.label(one.key)}) for source in sources for one in source.image_inputs()
    ]


@dataclass
class ImageReader(ShardHook):
    """Reads the images of a shard."""

    sources: tuple[Any, ...]
    files: Mapping[str, Any]
    """Files of shards and datasets, by the value of the column `source`."""
    max_bytes: int
    _places: dict[str, tuple[Any, str, int]] = field(default_factory=dict[str, tuple[Any, str, int]])
    """Source, file and offset of each image of a shard, by URL."""
    _spool: Any = None
    _failed: PairmillError | None = None

    def begin(self, rows: pa.Table) -> None:
        by_name = {source.url_name: source for source in self.sources}
        self._places, self._failed = {}, None
        columns = zip(*(rows[name].to_pylist() for name in ("url", "source", "source_offset")), strict=True)
        for url, file, offset in columns:
            found = split_own_image_url(url)
            if found and found[0] in by_name:
                self._places[url] = (by_name[found[0]], file, offset)
        in_tables = [
            (url, file, at) for url, (source, file, at) in self._places.items() if source.kind == "huggingface"
        ]
        if in_tables:
            from plugins.own_images.parquet_images import Spool

            columns = {file: getattr(source, "image_column", None) for source, file, _ in self._places.values()}
            self._spool = Spool(in_tables, self.files, columns, self.max_bytes)

    def fetch(self, fetch: Any, url: str) -> Any:
        if not split_own_image_url(url):
            return None
        if url in self._places:
            _, fetch.evidence.archive, fetch.evidence.archive_offset = self._places[url]
        body = self.read_image(url)
        fetch.evidence.bytes = min(len(body), self.max_bytes)
        return fetch.accept(url, body, Message())

    def read_image(self, url: str) -> bytes:
        """Return the first bytes of an image, at most one more than the limit. Raises: FetchError."""
        if url not in self._places:
            raise FetchError(NO_IMAGE, "its source is not in the config")
        source, file, offset = self._places[url]
        _, path = split_own_image_url(url) or ("", "")
        try:
            if source.kind == "huggingface":
                return self._spool.read(url)
            return (
                source.opened.read(path, self.max_bytes) if source.kind == "folder" else self._read(file, path, offset)
            )
        except PairmillError as error:
            self._failed = error
            raise FetchError(Reason.OTHER, type(error).__name__) from error

    def _read(self, file: str, path: str, offset: int) -> bytes:
        from plugins.own_images.shards import read_member

        shard = self.files.get(file)
        if shard is None:
            raise FetchError(NO_IMAGE, "its shard is not in the source")
        return read_member(shard, path.removeprefix(f"{shard.name}/"), offset, self.max_bytes)

    def end(self) -> None:
        """Delete the copies. Raises: SourceError if an image could not be read, and a retry may succeed."""
        if self._spool is not None:
            self._spool.close()
            self._spool = None
        if self._failed is not None:
            raise self._failed
