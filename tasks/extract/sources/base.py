"""What a kind of source is: a config table that finds its files and knows how to read one.

A kind is a class below `Source`, named in the union `tasks.extract.stage.SourceConfig`. The stage does the rest for all of
them: a part for each file, retries, what is remembered of files, the counts of rows, damages and failed files.
"""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pydantic import Field

from dataops.archives.gzip_members import ByteStream
from dataops.config import StageConfig
from dataops.snapshot import Draft, Input, Part
from tasks.engine.stage import Context
from tasks.extract.sources.pairs_writer import PairsWriter

_COPIED_AT_ONCE = 1 << 20


class Opened(ByteStream, Protocol):
    """An open file that is read once from its start; a context that closes it."""

    def __enter__(self) -> Any: ...

    def __exit__(self, kind: Any, error: Any, trace: Any, /) -> Any: ...


class SourceFile(ABC):
    """One file of a source. Picklable: it is read in a worker process."""

    name: str
    """Machine-independent: what the column `source` says."""

    @abstractmethod
    def digest(self) -> str:
        """Of its content, or of a name that stands for content that never changes. Raises: SourceError."""

    @abstractmethod
    def open(self) -> Opened:
        """Its bytes, to be read once from their start. Raises: SourceError, also while it is read."""

    @contextmanager
    def local(self) -> Iterator[Path]:
        """A local file with its bytes, for as long as the context lasts. Raises: SourceError."""
        with tempfile.NamedTemporaryFile(prefix="pairmill-source-") as copy, self.open() as stream:
            while data := stream.read(_COPIED_AT_ONCE):
                copy.write(data)
            copy.flush()
            yield Path(copy.name)


@dataclass(frozen=True)
class Fetched:
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

    def fetch(self, draft: Draft, context: Context) -> Fetched:
        """The files, for a source that must bring them here first: what it keeps of them goes into the draft.

        Raises: ConfigError, SourceError.
        """
        return Fetched(self.files(context))

    @abstractmethod
    def read(self, file: SourceFile, rows: PairsWriter) -> None:
        """Read one file in a worker process: candidates, damages and counts go to `rows`. Raises: SourceError."""

    def row_config(self) -> dict[str, object]:
        """The fields that decide the rows of one file, as JSON values."""
        return {name: value for name, value in self.key_config().items() if name not in self.selection_fields}
