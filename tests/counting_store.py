"""A folder that counts the requests that a server would get."""

import threading
from collections import Counter

from dataops.store import FolderStore

ONE = frozenset({"size", "read", "put", "put_chunks", "create", "local", "entries"})
"""Methods that make one request each."""
MANY = frozenset({"read_each", "read_each_into", "read_ranges", "read_into", "locals"})
"""Methods that make one request for each item of their last argument."""


class CountingStore(FolderStore):
    """A store as on a server, with the requests by method."""

    is_remote = True

    def __init__(self, root):
        super().__init__(root)
        self.requests, self.arguments, self._lock = Counter(), {}, threading.Lock()

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        if name not in ONE | MANY:
            return found

        def call(*arguments, **options):
            with self._lock:
                self.requests[name] += len(arguments[-1]) if name in MANY else 1
                self.arguments.setdefault(name, []).append(arguments)
            return found(*arguments, **options)

        return call
