"""An object of a store as a file that reads only what is asked for: a few hundred bytes of a Parquet file of gigabytes."""

import io

from dataops.storage.base import Store

AHEAD = 1 << 16
"""Bytes that a small read brings: a Parquet reader asks for the footer's length, the footer, then neighbouring columns."""


class RangeFile(io.RawIOBase):
    """A seekable, read-only file over `Store.read_ranges`, which remembers the last piece that it read."""

    def __init__(self, store: Store, name: str, size: int):
        super().__init__()
        self._store, self._name, self._size = store, name, size
        self._at, self._start, self._piece = 0, 0, b""

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go there."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        """The next bytes; all that are left where no size is given."""
        left = max(self._size - self._at, 0)
        size = left if size < 0 else min(size, left)
        if not self._start <= self._at <= self._at + size <= self._start + len(self._piece):
            start = self._at if size >= AHEAD else max(min(self._at, self._size - AHEAD), 0)
            length = min(max(size + self._at - start, AHEAD), self._size - start)
            self._piece = next(iter(self._store.read_ranges(self._name, [(start, length)])))
            self._start = start
        begin = self._at - self._start
        self._at += size
        return self._piece[begin : begin + size]
