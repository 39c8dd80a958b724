"""The base classes of `[source]`: a kind of source is a config table that finds its files and reads each of them.

A new kind is one module with a subclass of `Source`, which an entry point in the group `pairmill.sources` names by its
kind. The stage does the rest for all kinds: a part for each file, retries, the index by source file, the counts of rows,
damages and failed files. Config errors, the JSON Schema, the reference page, `pairmill init` and `pairmill plan` read the
class.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, Field, NonNegativeInt

from dataops.config import ConfigPath, StageConfig
from dataops.facts import SourceFacts
from dataops.rights.signals import list_defaults
from dataops.rules.pages import PageSignal
from dataops.schema import DropReason
from dataops.snapshot import Draft, Input, Manifest, Part
from dataops.web.page_pairs import PageBounds
from tasks.engine.context import Context
from tasks.extract.source_index import entry_name, read_indexed_record
from tasks.extract.sources.pairs_writer import PairsWriter
from tasks.files.base import SourceFile
from tasks.files.find import file_inputs, find_files, find_source_files
from tasks.web.signing import sign_as


@dataclass(frozen=True)
class FetchedFiles:
    """The files of a source, and the evidence and facts of fetching them."""

    files: Sequence[SourceFile]
    parts: Sequence[Part] = ()
    """Evidence parts that are in the draft."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Facts for the manifest."""


@dataclass(frozen=True)
class Template:
    """How `pairmill init` begins a config of this kind of source."""

    summary: str
    """What such a run does, in one sentence."""
    table: str
    """Keys of `[source]` as TOML, with comments; {data}, {contact} and {connect_to} are replaced by TOML values."""
    data: str
    """Default of {data}, which is an array with one string."""
    question: str
    """Question whose answer is {data}."""
    files: tuple[str, ...] = ()
    """Globs by which {data} is looked for in the project's folder; () if it is no path."""
    needs_contact: bool = True
    """Whether a contact has to be given where nobody can be asked."""


@dataclass(frozen=True)
class Survey:
    """What `pairmill init` finds in the data of a new project."""

    keys: Mapping[str, object]
    """Keys of `[source]`; paths are as they were given."""
    pairs: int | None = None
    """Number of pairs; None if it is not known."""
    found: tuple[str, ...] = ()
    """What was found, a sentence each."""
    captions: Sequence[str] = ()
    """Captions of some pairs."""
    sides: Sequence[int] = ()
    """Smaller sides of some images, in pixels."""
    captions_per_image: int = 1
    """Most captions of an image."""
    held_out: Sequence[tuple[str, bytes]] = ()
    """Members of a retrieval set, in pairs of image and captions, which the model is evaluated on, and not trained."""
    train: str | None = None
    """Keys of `[train]`; None: by the number of pairs."""


@dataclass(frozen=True)
class EarlierSource:
    """What an earlier snapshot has of a source of the same kind."""

    rows: float
    files: int


@dataclass(frozen=True)
class SourceEstimate:
    """What extract reads."""

    rows: float | None
    """None if no earlier snapshot shows them."""
    new_rows: float | None
    """Rows of the files that no earlier snapshot has."""
    files: int
    extracted_before: int = 0
    """Files whose parts an earlier snapshot has."""


Provenance = Literal["crawl", "public"]
"""A crawl of our own, or data that somebody published."""
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
"""Name of a source. It begins with a letter, so that no name is an index."""


class Source(StageConfig, ABC):
    """The fields of `[source]` that all kinds share, and the methods that each kind implements."""

    kind: Any
    """Kind of source; each class has a literal of its own."""
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
    max_failed_files: NonNegativeInt = 0
    """Maximum number of files that may be unreadable after retries; above it the stage fails. Unreadable files are listed
    in the manifest and in the run's summary."""

    order: ClassVar[int] = 100
    """Place among the kinds, in messages and on the reference page."""
    extracted_with: ClassVar[str]
    """Value of the column `extracted_with`: the extractor and its version."""
    offset_unit: ClassVar[str] = "byte"
    """Unit of the column `source_offset`."""
    template: ClassVar[Template | None] = None
    """How `pairmill init` begins a config; None: not with this kind."""
    reasons: ClassVar[Mapping[str, DropReason]] = {}
    """The meaning of drop reasons that only this kind has."""
    provenance: ClassVar[Provenance | None] = None
    """Where the pairs come from, if all sources of this kind have that in common."""
    selection_fields: ClassVar[frozenset[str]] = frozenset({"name", "max_failed_files"})
    """Fields that select files but do not change the rows of a file, so that indexed parts stay valid."""

    @property
    def requests_images(self) -> bool:
        """Whether the images of its pairs are requested from their hosts."""
        return True

    @property
    def tables(self) -> tuple["Source", ...]:
        """The sources of the config: this one."""
        return (self,)

    def within(self, run: Any) -> Self:
        return self.signing_as(run.download)

    def signing_as(self, other: BaseModel) -> Self:
        """Return the source, whose requests are signed as those of another config unless it has its own keys."""
        return sign_as(self, other)

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        """Return whether a folder has data of this kind."""
        return False

    @classmethod
    def survey(cls, data: str) -> Survey | None:
        """Look into the data of a new project, a path or a glob; None if this kind does not look.

        Raises: ConfigError if it is no data of this kind.
        """
        return None

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

    def describe_earlier(self, facts: SourceFacts, manifest: Manifest) -> EarlierSource | None:
        """Return what an earlier snapshot has of a source of this kind; None if it does not show how large this one is.

        Args:
            facts: facts of the source; the snapshot may have other sources too.
            manifest: of that snapshot.
        """
        return EarlierSource(facts.counts.input, facts.files) if facts.files else None

    def estimate(self, context: Context, earlier: EarlierSource | None) -> SourceEstimate:
        """Return the estimate of what is read. Raises: ConfigError, SourceError.

        Args:
            earlier: of the nearest snapshot with a source of this kind.
        """
        files = self.files(context)
        known: list[tuple[SourceFile, int]] = []
        new: list[SourceFile] = []
        for file in files:
            name = entry_name(self.row_config(), file.digest(), self.label(file.name))
            record = read_indexed_record(context.store, name)
            if record is None:
                new.append(file)
            else:
                known.append((file, record.counts.input))
        rows = self.estimate_new(new, known, earlier) if new else 0.0
        before = sum(rows for _, rows in known)
        return SourceEstimate(None if rows is None else before + rows, rows, len(files), len(known))

    def estimate_new(
        self, new: Sequence[SourceFile], known: Sequence[tuple[SourceFile, int]], earlier: EarlierSource | None
    ) -> float | None:
        """Return the rows of files that were not extracted before; None if nothing shows them.

        Args:
            known: files that were extracted before, with their rows.
        """
        sizes, size = [file.stored_bytes() for file in new], sum(file.stored_bytes() or 0 for file, _ in known)
        if size and all(sizes):
            return sum(one or 0 for one in sizes) * sum(rows for _, rows in known) / size
        return earlier.rows / earlier.files * len(new) if earlier else None


class FilesSource(Source):
    """A source of files in folders or buckets."""

    paths: list[ConfigPath] = Field(min_length=1)
    """Files or globs (`**` for any depth), or `s3://bucket/key` with the same wildcards. The column `source` has the
    path of a file below the part of the pattern without wildcards, so that it is the same on all machines."""

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

    opt_out_directives: tuple[PageSignal, ...] = list_defaults("extract")
    """Signals by which a page forbids the use of its images, in its elements or in the headers of its response
    (docs/rights/rights.md): its rows are dropped as opt_out."""

    @property
    def bounds(self) -> PageBounds:
        """Maximum lengths of captions and URLs."""
        return PageBounds(self.max_caption_chars, self.max_url_chars)

    @property
    def opt_out(self) -> frozenset[str]:
        """Names of the signals by which rows are dropped."""
        return frozenset(self.opt_out_directives)
