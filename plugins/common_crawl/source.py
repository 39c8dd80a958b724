"""`kind = "wat"`: files of page metadata; `kind = "common_crawl"`: those of Common Crawl.

They are streamed from its public host, its bucket, or a mirror.

Source: commoncrawl.org/get-started: `crawl-data/<crawl>/wat.paths.gz` lists the WAT files of a crawl.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, field_validator

from dataops.archives.members import Damage, Window, inflate_members
from dataops.digest import text_sha256
from dataops.errors import UnusableSource
from dataops.snapshot import Input
from dataops.stages import SOURCE
from dataops.web.page_pairs import MAX_IMAGES
from plugins.common_crawl.wat import WatPage, extract_wat_pairs, read_wat
from tasks.engine.context import Context
from tasks.extract.sources.base import EarlierSource, FilesSource, Provenance, SourceEstimate, Template, WebSource
from tasks.extract.sources.pairs_writer import PairsWriter
from tasks.files.base import SourceFile
from tasks.files.http_file import HttpFile
from tasks.files.resumable import ResumableStream, RetryLimit
from tasks.files.s3_file import connect_s3, split_s3
from tasks.web.request import format_user_agent

PUBLIC_HOST = "https://data.commoncrawl.org/"
MAX_LISTING_BYTES = 256 << 20
"""Maximum size of the decompressed list of a crawl's files, in bytes (a list of 100,000 files has 14 MB)."""
_BATCH_BYTES = 8 << 20  # JSON of the pages whose pairs are extracted together
_CRAWL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PATH = re.compile(r"crawl-data/[A-Za-z0-9._/-]{1,500}\.wat\.gz")


class WatReader(WebSource):
    """A source of WAT files."""

    extracted_with: ClassVar[str] = "pairmill-wat/1"

    def read(self, file: SourceFile, rows: PairsWriter) -> None:
        waiting, size = list[WatPage](), 0
        with file.open() as stream:
            for found in read_wat(stream, self.max_url_chars, rows.count):
                if isinstance(found, Damage):
                    rows.add_damage(found.offset, found.reason)
                    continue
                if found.links.images > MAX_IMAGES:
                    rows.add_damage(found.offset, "too_many_images")
                waiting.append(found)
                size += found.size
                if size >= _BATCH_BYTES:
                    rows.add_table(*extract_wat_pairs(waiting, self.bounds, self.opt_out))
                    waiting, size = [], 0
        if waiting:
            rows.add_table(*extract_wat_pairs(waiting, self.bounds, self.opt_out))


class WatSource(FilesSource, WatReader):
    """`[source]` of `kind = "wat"`."""

    kind: Literal["wat"] = "wat"
    """WAT files: gz, zstd or plain."""
    order: ClassVar[int] = 2


class CommonCrawlSource(WatReader):
    """`[source]` of `kind = "common_crawl"`."""

    kind: Literal["common_crawl"] = "common_crawl"
    """WAT files of Common Crawl."""
    crawl: str | list[str] = Field(min_length=1)
    """One crawl or several, by id, such as `"CC-MAIN-2026-43"`; commoncrawl.org lists the ids. An added crawl costs only
    its own files."""
    num_files: int = Field(ge=1)
    """Number of files to read of each crawl. A WAT file has 400 MB and some hundred thousand image links; a crawl has about
    100,000 files. A larger number costs only the additional files."""
    sample_seed: NonNegativeInt = 0
    """Seed of the order in which files are selected."""
    base_url: str = Field(default=PUBLIC_HOST, pattern=r"^(https?|s3)://[^\s/]+(/\S*)?$")
    """URL of the folder of `crawl-data/`: the public host, `s3://commoncrawl/`, or a mirror of either kind."""
    user_agent: str = Field(default="pairmill", pattern=r"^[A-Za-z0-9_-]+$")
    """Name in the User-Agent header."""
    contact: str | None = Field(default=None, pattern=r"^[\x21-\x7e]+$")
    """A URL or mail address in the User-Agent header, by which the owners of the host can reach you. Set it."""
    timeout: float = Field(default=60.0, gt=0, le=3600)
    """Seconds without a byte after which a connection counts as broken."""
    max_wait: NonNegativeFloat = 900.0
    """Seconds without progress, due to rate limits and broken connections, after which reading a file fails."""

    execution_fields: ClassVar[frozenset[str]] = frozenset({"base_url", "user_agent", "contact", "timeout", "max_wait"})
    selection_fields: ClassVar[frozenset[str]] = WatReader.selection_fields | {"crawl", "num_files", "sample_seed"}

    order: ClassVar[int] = 3
    provenance: ClassVar[Provenance | None] = "public"
    template: ClassVar[Template | None] = Template(
        summary="Pages of Common Crawl become a dataset of image-caption pairs and a CLIP model.",
        table="""crawl = {data}    # commoncrawl.org/get-started lists them
num_files = 1                  # WAT files of 200 MB to 400 MB; a crawl has some 100,000, read as a stream
contact = {contact}   # yours, for the host of Common Crawl
# base_url = "s3://commoncrawl/"   # within AWS us-east-1
""",
        data="CC-MAIN-2026-43",
        question="Which crawl (commoncrawl.org/get-started lists them)?",
    )

    @field_validator("crawl")
    @classmethod
    def _check_crawl_ids(cls, crawl: str | list[str]) -> str | list[str]:
        crawls = [crawl] if isinstance(crawl, str) else crawl
        for crawl_id in crawls:
            if not _CRAWL.fullmatch(crawl_id):
                raise ValueError(f"{crawl_id!r} is no crawl id, such as CC-MAIN-2026-43")
        if len(set(crawls)) != len(crawls):
            raise ValueError("a crawl is listed twice")
        return crawl

    @property
    def crawls(self) -> list[str]:
        """Ids of the crawls, in the configured order."""
        return [self.crawl] if isinstance(self.crawl, str) else self.crawl

    def key_config(self) -> dict[str, object]:
        return {**super().key_config(), "crawl": self.crawls}

    def inputs(self) -> list[Input]:
        """Return the crawls; a published crawl does not change, so the key needs no request."""
        return [Input(stage=SOURCE, key=crawl, digest=text_sha256(crawl)) for crawl in self.crawls]

    def files(self, context: Context) -> list[SourceFile]:
        return [CommonCrawlFile(path, self) for crawl in self.crawls for path in self._select_paths(crawl)]

    def estimate(self, context: Context, earlier: EarlierSource | None) -> SourceEstimate:
        """Return the estimate by the number of files; the list of a crawl's files is not fetched for it."""
        files = self.num_files * len(self.crawls)
        rows = files * earlier.rows / earlier.files if earlier else None
        return SourceEstimate(rows, rows, files)

    def _select_paths(self, crawl: str) -> list[str]:
        """Return the first `num_files` paths of the crawl in an order that depends only on the seed."""
        listing = f"crawl-data/{crawl}/wat.paths.gz"
        seed, paths = self.sample_seed, _read_listing(listing, CommonCrawlFile(listing, self).open())
        return sorted(paths, key=lambda path: text_sha256(f"{seed} {path}"))[: self.num_files]


@dataclass(frozen=True)
class CommonCrawlFile(SourceFile):
    """A file of the public data set. Its digest is that of its path, because published files do not change."""

    name: str
    config: CommonCrawlSource

    def digest(self) -> str:
        return text_sha256(self.name)

    def open(self) -> ResumableStream:
        url = f"{self.config.base_url.rstrip('/')}/{self.name}"
        limit = RetryLimit(self.config.max_wait)
        if url.startswith("s3://"):
            bucket, key = split_s3(url)
            return ResumableStream(url, lambda offset: connect_s3(bucket, key, offset, None), limit)
        user_agent = format_user_agent(self.config.user_agent, self.config.contact)
        return ResumableStream(url, HttpFile(url, user_agent, self.config.timeout).connect, limit)


def _read_listing(name: str, stream: ResumableStream) -> Sequence[str]:
    """Return the paths in a gzipped list. Raises: SourceError if it has anything but paths of WAT files."""
    text = io.BytesIO()
    with stream:
        for found in inflate_members(Window(stream)):
            if isinstance(found, Damage):
                raise UnusableSource(f"{name}: not a whole gzip file ({found.reason} at byte {found.offset:,})")
            text.write(found.data)
            if text.tell() > MAX_LISTING_BYTES:
                raise UnusableSource(f"{name}: larger than {MAX_LISTING_BYTES:,} bytes")
    paths = text.getvalue().decode("utf-8", "replace").split()
    for path in paths:
        if not _PATH.fullmatch(path) or ".." in path:
            raise UnusableSource(f"{name}: {path[:200]!r} is no path of a WAT file")
    if not paths:
        raise UnusableSource(f"{name}: the list is empty")
    return list(dict.fromkeys(paths))
