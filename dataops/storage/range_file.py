"""Read an object of a store as a file by ranges: a few hundred bytes of a Parquet file of gigabytes."""

import io

from dataops.storage.base import Store

AHEAD = 1 << 16
"""Bytes that a small read fetches: a Parquet reader reads the footer's length, the footer, then neighbouring columns."""


class RangeFile(io.RawIOBase):
    """Seekable, read-only file over `Store.read_ranges`, which keeps the last range in memory."""

    def __init__(self, store: Store, name: str, size: int):
        super().__init__()
        self._store, self._name, self._size = store, name, size
        self._at, self._start, self._piece = 0, 0, b""

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position of the next read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position of the next read."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, or all that remain if no size is given."""
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
