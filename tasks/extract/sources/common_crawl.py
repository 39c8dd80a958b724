"""`kind = "common_crawl"`: WAT files of Common Crawl, streamed from its public host, its bucket, or a mirror.

Source: commoncrawl.org/get-started: `crawl-data/<crawl>/wat.paths.gz` lists a crawl's WAT files.
"""

import io
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from dataops.digest import text_sha256
from dataops.errors import SourceError
from dataops.snapshot import Input
from tasks.engine.context import Context
from tasks.extract.sources.wat import WatReader
from tasks.files.base import SourceFile
from tasks.files.http_file import HttpFile
from tasks.files.resumable import ResumableStream, RetryLimit
from tasks.files.s3_file import connect_s3, split_s3

PUBLIC_HOST = "https://data.commoncrawl.org/"
VERSION = "0.1"
MAX_LISTING_BYTES = 256 << 20
"""Of the unpacked list of a crawl's files (100,000 of them take 14 MB)."""
_CRAWL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PATH = re.compile(r"crawl-data/[A-Za-z0-9._/-]{1,500}\.wat\.gz")


class CommonCrawlSource(WatReader):
    """`[source]` of `kind = "common_crawl"`."""

    kind: Literal["common_crawl"] = "common_crawl"
    """WAT files of Common Crawl."""
    crawl: str | list[str] = Field(min_length=1)
    """One crawl or several, by their ids: `"CC-MAIN-2026-43"`. commoncrawl.org lists them. Adding one costs only its own
    files."""
    num_files: int = Field(ge=1)
    """Files of each crawl that are read: a WAT file has 400 MB and some hundred thousand image links, a crawl about 100,000
    files. Raising the number costs only the files that come in addition."""
    sample_seed: int = Field(default=0, ge=0)
    """Of the order in which files are picked."""
    base_url: str = Field(default=PUBLIC_HOST, pattern=r"^(https?|s3)://[^\s/]+(/\S*)?$")
    """Where `crawl-data/` lies: the public host, `s3://commoncrawl/`, or a mirror of either kind."""
    user_agent: str = Field(default="pairmill", pattern=r"^[A-Za-z0-9_-]+$")
    """How the reader names itself."""
    contact: str | None = Field(default=None, pattern=r"^[\x21-\x7e]+$")
    """An address (URL or mail) that the user agent gives, so that the host's owners can reach you. Give one."""
    timeout: float = Field(default=60.0, gt=0, le=3600)
    """Seconds without a byte after which a connection counts as broken."""
    max_wait: float = Field(default=900.0, ge=0)
    """Seconds that a file may wait in a row, on rate limits and broken connections, before the try counts as failed."""

    execution_fields: ClassVar[frozenset[str]] = frozenset({"base_url", "user_agent", "contact", "timeout", "max_wait"})
    selection_fields: ClassVar[frozenset[str]] = frozenset({"max_failed_files", "crawl", "num_files", "sample_seed"})

    @field_validator("crawl")
    @classmethod
    def _named(cls, crawl: str | list[str]) -> str | list[str]:
        crawls = [crawl] if isinstance(crawl, str) else crawl
        for one in crawls:
            if not _CRAWL.fullmatch(one):
                raise ValueError(f"{one!r} is no crawl id, such as CC-MAIN-2026-43")
        if len(set(crawls)) != len(crawls):
            raise ValueError("a crawl is named twice")
        return crawl

    @property
    def crawls(self) -> list[str]:
        """The crawls in their order."""
        return [self.crawl] if isinstance(self.crawl, str) else self.crawl

    def key_config(self) -> dict[str, object]:
        return {**super().key_config(), "crawl": self.crawls}

    def inputs(self) -> list[Input]:
        """The crawls: what was published under such an id does not change, so nothing is fetched to know a snapshot."""
        return [Input(stage="source", key=crawl, digest=text_sha256(crawl)) for crawl in self.crawls]

    def files(self, context: Context) -> list[SourceFile]:
        return [CommonCrawlFile(path, self) for crawl in self.crawls for path in self._picked(crawl)]

    def _picked(self, crawl: str) -> list[str]:
        """The first `num_files` paths of the crawl in seeded order, which does not depend on how many are picked."""
        listing = f"crawl-data/{crawl}/wat.paths.gz"
        seed, paths = self.sample_seed, _lines(listing, CommonCrawlFile(listing, self).open())
        return sorted(paths, key=lambda path: text_sha256(f"{seed} {path}"))[: self.num_files]

    @property
    def user_agent_header(self) -> str:
        """For example `pairmill/0.1 (+https://example.org/crawling)`."""
        return f"{self.user_agent}/{VERSION}" + (f" (+{self.contact})" if self.contact else "")


@dataclass(frozen=True)
class CommonCrawlFile(SourceFile):
    """A file of the public data set. Its path stands for its content."""

    name: str
    config: CommonCrawlSource

    def digest(self) -> str:
        return text_sha256(self.name)

    def open(self) -> ResumableStream:
        url = f"{self.config.base_url.rstrip('/')}/{self.name}"
        patience = RetryLimit(self.config.max_wait)
        if url.startswith("s3://"):
            bucket, key = split_s3(url)
            return ResumableStream(url, lambda offset: connect_s3(bucket, key, offset, None), patience)
        return ResumableStream(url, HttpFile(url, self.config.user_agent_header, self.config.timeout).connect, patience)


def _lines(name: str, stream: ResumableStream) -> Sequence[str]:
    """The paths that a gzipped list names. Raises: SourceError when it holds anything else."""
    text = io.BytesIO()
    with stream:
        inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
        try:
            while data := stream.read(1 << 20):
                text.write(inflater.decompress(data, MAX_LISTING_BYTES - text.tell()))
                if inflater.unconsumed_tail:
                    raise SourceError(f"{name}: over {MAX_LISTING_BYTES} bytes")
        except zlib.error as error:
            raise SourceError(f"{name}: not gzip: {error}") from error
    paths = text.getvalue().decode("utf-8", "replace").split()
    odd = next((path for path in paths if not _PATH.fullmatch(path) or ".." in path), None)
    if odd is not None or not paths:
        raise SourceError(f"{name}: {f'{odd[:200]!r} is no path of a WAT file' if odd else 'the list is empty'}")
    return list(dict.fromkeys(paths))
