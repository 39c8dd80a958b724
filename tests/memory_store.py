"""A store in memory that counts its requests, and can be ended at any write."""

import io
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

from dataops.storage.base import Entry, Store
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
    read_each, read_each_into, read_into = Store.read_each, Store.read_each_into, Store.read_into

    def __init__(self, writes=None):
        super().__init__(Path("/nowhere"))
        self.objects, self.requests, self.writes = {}, Counter(), writes

    def request(self, kind):
        """Count a request. A subclass may let it fail."""
        self.requests[kind] += 1
        if kind == "write" and self.writes is not None:
            if self.writes == 0:
                raise Killed
            self.writes -= 1

    def size(self, name):
        self.request("size")
        return len(self.objects[name]) if name in self.objects else None

    def find(self, name):
        self.request("find")
        return self.objects.get(name)

    def put(self, name, data):
        self.request("write")
        self.objects[name] = data.read_bytes() if isinstance(data, Path) else bytes(data)

    def create(self, name, data):
        self.request("write")
        return self.objects.setdefault(name, data) is data

    def entries(self, prefix):
        found = sorted(
            Entry(name, len(data), 0.0) for name, data in self.objects.items() if name.startswith(f"{prefix}/")
        )
        for _ in range(max(-(-len(found) // PAGE_OF_LISTING), 1)):
            self.request("list")
        return found

    def delete_tree(self, prefix):
        self.delete([entry.name for entry in self.entries(prefix)])

    def put_chunks(self, name, pieces, **options):
        self.put(name, b"".join(pieces()))

    @contextmanager
    def open(self, name):
        yield io.BytesIO(self.read(name))

    def delete(self, names):
        self.request("write")
        for name in names:
            self.objects.pop(name, None)
