"""The base classes of `[source]`: a kind of source is a config table that finds its files and reads each of them.

A new kind is a subclass of `Source` and a member of the union `tasks.extract.config.AnySource`. The stage does the rest for
all kinds: a part for each file, retries, the index by source file, the counts of rows, damages and failed files.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from pydantic import Field

from dataops.config import StageConfig
from dataops.snapshot import Draft, Input, Part
from dataops.web.page_pairs import PageBounds
from tasks.engine.context import Context
from tasks.extract.sources.pairs_writer import PairsWriter
from tasks.files.base import SourceFile
from tasks.files.find import file_inputs, find_files, find_source_files
from tasks.web.identity.config import IdentityConfig


@dataclass(frozen=True)
class FetchedFiles:
    """The files of a source, and the evidence and facts of fetching them."""

    files: Sequence[SourceFile]
    parts: Sequence[Part] = ()
    """Evidence parts that are in the draft."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Facts for the manifest."""


NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
"""Name of a source. It begins with a letter, so that no name is an index."""


class Source(StageConfig, ABC):
    """The fields of `[source]` that all kinds share, and the methods that each kind implements."""

    name: str = Field(default="", pattern=rf"^({NAME.pattern})?$")
    """Name of the source: letters, digits, `_` and `-`, a letter first. The column `source` then begins with the name and
    `/`. Sources of a list that have no name are named by their kind: `warc`, `warc-2`."""
    license: str | None = Field(default=None, pattern=r"^https?://[^\s/]\S*$", max_length=2048)
    """URL of the licence under which the source is published. The column `license` has it where neither the image nor its
    page declares one."""
    max_caption_chars: int = Field(default=2000, ge=1, le=100_000)
    """Maximum length of a caption, in characters. Longer captions are cut at a space."""
    max_url_chars: int = Field(default=4096, ge=64, le=65_536)
    """Maximum length of a URL, in characters. Rows with longer URLs are dropped."""
    max_failed_files: int = Field(default=0, ge=0)
    """Maximum number of files that may be unreadable after retries; above it the stage fails. Unreadable files are listed
    in the manifest and in the run's summary."""

    extracted_with: ClassVar[str]
    """Value of the column `extracted_with`: the extractor and its version."""
    selection_fields: ClassVar[frozenset[str]] = frozenset({"name", "max_failed_files"})
    """Fields that select files but do not change the rows of a file, so that indexed parts stay valid."""

    @property
    def tables(self) -> tuple["Source", ...]:
        """The sources of the config: this one."""
        return (self,)

    def with_identity(self, identity: IdentityConfig) -> Self:
        """Return the source with an identity for its requests: this one, if it makes no signed requests."""
        return self

    def label(self, file: str) -> str:
        """Return the value of the column `source` for the rows of a file, or the key of an input of the snapshot."""
        return f"{self.name}/{file}" if self.name else file

    def problems(self) -> list[str]:
        """Return what is wrong with the paths of the config, one line each, relative to `source.`; reads no file."""
        return []

    @abstractmethod
    def inputs(self) -> list[Input]:
        """Return the inputs outside the store, with digests for the snapshot's key. Raises: ConfigError, SourceError."""

    @abstractmethod
    def files(self, context: Context) -> Sequence[SourceFile]:
        """Return the files to read, in the order of their parts. Raises: ConfigError, SourceError."""

    def fetch(self, draft: Draft, context: Context) -> FetchedFiles:
        """Return the files; a source that first has to download them puts evidence into the draft.

        Raises: ConfigError, SourceError.
        """
        return FetchedFiles(self.files(context))

    @abstractmethod
    def read(self, file: SourceFile, rows: PairsWriter) -> None:
        """Read one file in a worker process, and add its pairs, damages and counts to `rows`. Raises: SourceError."""

    def row_config(self) -> dict[str, object]:
        """Return the fields that decide the rows of one file, as JSON values."""
        return {name: value for name, value in self.key_config().items() if name not in self.selection_fields}


class FilesSource(Source):
    """A source of files in folders or buckets."""

    paths: list[str] = Field(min_length=1)
    """Files or globs (`**` for any depth), relative to the current folder, or `s3://bucket/key` with the same wildcards.
    The column `source` has the path of a file below the part of the pattern without wildcards, so that it is the same on
    all machines."""

    # The key covers the digests and names of the files, not the patterns that found them.
    execution_fields: ClassVar[frozenset[str]] = frozenset({"paths"})

    def problems(self) -> list[str]:
        return find_files(self.paths)[1]

    def inputs(self) -> list[Input]:
        return file_inputs(find_source_files(self.paths))

    def files(self, context: Context) -> Sequence[SourceFile]:
        return find_source_files(self.paths)


class WebSource(Source):
    """A source whose pairs come from web pages."""

    opt_out_directives: tuple[str, ...] = (
        "noai", "noimageai", "noimageindex", "content-usage", "content-signal", "rsl"
    )  # fmt: skip
    """Declarations by which a page forbids the use of its images, in its `<meta>` and `<link>` elements or in the headers
    of its response: its rows are dropped as opt_out. `noindex` and `tdm-reservation` are allowed too (docs/rights.md)."""

    @property
    def bounds(self) -> PageBounds:
        """Maximum lengths of captions and URLs."""
        return PageBounds(self.max_caption_chars, self.max_url_chars)

    @property
    def opt_out(self) -> frozenset[str]:
        """The opt-out directives in lower case."""
        return frozenset(directive.lower() for directive in self.opt_out_directives)
