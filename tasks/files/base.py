"""Define the interface of a source file."""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from dataops.archives.members import ByteStream

_COPY_BYTES = 1 << 20


class OpenFile(ByteStream, Protocol):
    """An open file, to be read once from its start. As a context manager it closes itself."""

    def __enter__(self) -> Any: ...

    def __exit__(self, kind: Any, error: Any, trace: Any, /) -> Any: ...


class SourceFile(ABC):
    """One file of a source. It is picklable, since a worker process reads it."""

    name: str
    """Name in the column `source`, the same on each machine."""

    @abstractmethod
    def digest(self) -> str:
        """Return a digest of the content, or of a name whose content never changes. Raises: SourceError."""

    def stored_bytes(self) -> int | None:
        """Return the size of the file in bytes if it is known before the file is read; progress uses it."""
        return None

    @abstractmethod
    def open(self) -> OpenFile:
        """Open the file, to be read once from its start. Raises: SourceError, also while it is read."""

    @contextmanager
    def local(self) -> Iterator[Path]:
        """Provide a local file with the same bytes inside the `with`. Raises: SourceError."""
        with tempfile.NamedTemporaryFile(prefix="pairmill-source-") as copy, self.open() as stream:
            while data := stream.read(_COPY_BYTES):
                copy.write(data)
            copy.flush()
            yield Path(copy.name)
