"""What a kind of source is: a config table that finds its files and knows how to read one.

A kind is a class below `Source`, named in the union `tasks.extract.config.SourceConfig`. The stage does the rest for all of
them: a part for each file, retries, what is remembered of files, the counts of rows, damages and failed files.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import Field

from dataops.config import StageConfig
from dataops.snapshot import Draft, Input, Part
from tasks.engine.context import Context
from tasks.extract.sources.pairs_writer import PairsWriter
from tasks.files.base import SourceFile


@dataclass(frozen=True)
class FetchedFiles:
    """The files of a source, and what getting them has left in the snapshot."""

    files: Sequence[SourceFile]
    parts: Sequence[Part] = ()
    """Evidence."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """For the manifest."""


class Source(StageConfig, ABC):
    """The fields of `[source]` that all kinds share, and what each kind must do."""

    max_caption_chars: int = Field(default=2000, ge=1, le=100_000)
    """Longer captions are cut at a space."""
    max_url_chars: int = Field(default=4096, ge=64, le=65_536)
    """Longer addresses are dropped."""
    max_failed_files: int = Field(default=0, ge=0)
    """Files that may turn out unreadable, after retries, before the stage fails. Those that did are named in the
    manifest and in the run's summary."""

    extracted_with: ClassVar[str]
    """What the column of that name says: the extractor and its version."""
    selection_fields: ClassVar[frozenset[str]] = frozenset({"max_failed_files"})
    """Fields that decide which files are read and cannot change the rows of one: what is remembered of a file stands
    when they change."""

    def problems(self) -> list[str]:
        """What is wrong with what the config names, a line each, below `source.`; nothing is read for it."""
        return []

    @abstractmethod
    def inputs(self) -> list[Input]:
        """What is read from outside the store, digested for the snapshot's key. Raises: ConfigError, SourceError."""

    @abstractmethod
    def files(self, context: Context) -> Sequence[SourceFile]:
        """The files to read, in the order of their parts. Raises: ConfigError, SourceError."""

    def fetch(self, draft: Draft, context: Context) -> FetchedFiles:
        """The files, for a source that must bring them here first: what it keeps of them goes into the draft.

        Raises: ConfigError, SourceError.
        """
        return FetchedFiles(self.files(context))

    @abstractmethod
    def read(self, file: SourceFile, rows: PairsWriter) -> None:
        """Read one file in a worker process: candidates, damages and counts go to `rows`. Raises: SourceError."""

    def row_config(self) -> dict[str, object]:
        """The fields that decide the rows of one file, as JSON values."""
        return {name: value for name, value in self.key_config().items() if name not in self.selection_fields}
