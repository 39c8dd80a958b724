"""A store in memory that counts its requests, and can be ended at any write."""

from collections import Counter
from pathlib import Path

from dataops.storage.base import Entry
from dataops.storage.folder import FolderStore

PAGE_OF_LISTING = 1000


class Killed(BaseException):
    """The process is ended at a write."""


class MemoryStore(FolderStore):
    """As an S3 store counts requests: a listing of 1,000 names is one, and so is a deletion of 1,000 objects.

    Args:
        writes: writes and deletions until the process is "killed"; None for never.
    """

    is_remote = True

    def __init__(self, writes: int | None = None):
        super().__init__(Path("/nowhere"))
        self.objects, self.requests, self.writes = dict[str, bytes](), Counter[str](), writes

    def _write(self) -> None:
        self.requests["write"] += 1
        if self.writes is not None:
            if self.writes == 0:
                raise Killed
            self.writes -= 1

    def size(self, name: str) -> int | None:
        self.requests["size"] += 1
        return len(self.objects[name]) if name in self.objects else None

    def find(self, name: str) -> bytes | None:
        self.requests["find"] += 1
        return self.objects.get(name)

    def put(self, name: str, data: bytes | memoryview | Path) -> None:
        self._write()
        self.objects[name] = data.read_bytes() if isinstance(data, Path) else bytes(data)

    def create(self, name: str, data: bytes) -> bool:
        self._write()
        return self.objects.setdefault(name, data) is data

    def entries(self, prefix: str) -> list[Entry]:
        found = sorted(
            Entry(name, len(data), 0.0) for name, data in self.objects.items() if name.startswith(f"{prefix}/")
        )
        self.requests["list"] += max(-(-len(found) // PAGE_OF_LISTING), 1)
        return found

    def delete(self, names):
        self._write()
        for name in names:
            self.objects.pop(name, None)
