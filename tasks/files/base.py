"""The interface of a source file."""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from dataops.archives.gzip_members import ByteStream

_COPIED_AT_ONCE = 1 << 20


class OpenFile(ByteStream, Protocol):
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
    def open(self) -> OpenFile:
        """Its bytes, to be read once from their start. Raises: SourceError, also while it is read."""

    @contextmanager
    def local(self) -> Iterator[Path]:
        """A local file with its bytes, for as long as the context lasts. Raises: SourceError."""
        with tempfile.NamedTemporaryFile(prefix="pairmill-source-") as copy, self.open() as stream:
            while data := stream.read(_COPIED_AT_ONCE):
                copy.write(data)
            copy.flush()
            yield Path(copy.name)
