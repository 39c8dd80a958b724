"""The parts that all readers of archives share: a stream by position, and the report of a damage."""

import os
import re
from dataclasses import dataclass
from typing import Protocol

_BLOCK = 1 << 16  # bytes per read; larger blocks need fresh memory pages each time
LONGEST_PATTERN = 64
"""Number of bytes that a pattern of `Window.search` may match, at most."""


class ByteStream(Protocol):
    """A stream of bytes that can be read once, from start to end."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes; none at the end."""
        ...


@dataclass(frozen=True)
class Damage:
    """A record that could not be used, and the reason."""

    offset: int
    """Position of that record, or of its gzip member or frame, in the file."""
    reason: str


class Window:
    """The bytes of a stream by position; the bytes before `keep` are released."""

    def __init__(self, stream: ByteStream):
        self.keep = 0
        self._stream, self._data, self._start, self._ended = stream, b"", 0, False

    def at(self, position: int, size: int, least: int = 1) -> bytes:
        """Return the bytes at a position: at most `size`, and at least `least` unless the stream ends before."""
        while self._start + len(self._data) < position + least and self.read_block():
            pass
        start = max(0, position - self._start)
        return self._data[start : start + size]

    def read_block(self) -> bool:
        """Read one more block. Return False at the end of the stream."""
        block = b"" if self._ended else self._stream.read(_BLOCK)
        self._ended = not block
        released = min(self.keep - self._start, len(self._data))
        self._data = self._data[released:] + block
        self._start += released
        return not self._ended

    def search(self, pattern: re.Pattern[bytes], position: int) -> int | None:
        """Return the next position of a pattern, and release the bytes before it; None if there is none.

        The pattern matches at most LONGEST_PATTERN bytes.
        """
        while True:
            if found := pattern.search(self._data, max(0, position - self._start)):
                return self._start + found.start()
            position = max(position, self._start + len(self._data) - LONGEST_PATTERN)
            self.keep = position
            if not self.read_block():
                return None

    def peek(self, position: int, size: int) -> bytes | None:
        """Return at most `size` bytes at a position that may be far ahead; None if the stream cannot seek."""
        seek, tell = getattr(self._stream, "seek", None), getattr(self._stream, "tell", None)
        if seek is None or tell is None:
            return None
        back = tell()
        found = b""
        if position < seek(0, os.SEEK_END):
            seek(position)
            found = self._stream.read(size)
        seek(back)
        return found
