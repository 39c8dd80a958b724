"""Inflates a gzip stream of many members in one pass, and skips damaged members.

After a damaged member, reading continues at the next member that starts a WARC record.
"""

import re
from collections.abc import Generator, Iterator
from functools import partial
from typing import NamedTuple, Protocol

from isal.igzip_lib import DECOMP_GZIP, IgzipDecompressor, IsalError

from dataops.archives.warc import Damage

MAGIC = b"\x1f\x8b"
_BLOCK = 1 << 16  # bytes per read; larger blocks need fresh memory pages each time
_INPUT = 1 << 13  # bytes per call of the inflater, which copies the input that it leaves unused
_OUTPUT = 1 << 16  # bytes of output per call, allocated in advance (1 MiB took twice the time)
_CHUNK = 1 << 20  # bytes that are joined into one chunk: nearly all members then are one chunk
_SEARCHABLE = 1 << 22  # bytes of a member that are kept to search for the next member if this one is damaged
_MEMBER = re.compile(rb"\x1f\x8b\x08[\x00-\x1f]")
_MEMBER_START = 1024  # bytes that show whether a member starts a record


class ByteStream(Protocol):
    """A stream of bytes that can be read once, from start to end."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes; none at the end."""
        ...


class Chunk(NamedTuple):
    """Consecutive bytes of decompressed content."""

    data: bytes
    offset: int
    """Position in the stream: of the member, or of the first byte if the stream is not compressed."""
    step: int
    """Distance in the stream between two bytes of `data`: 1 if the stream is not compressed, else 0."""
    first: bool
    """Whether a member starts here."""


_new_chunk = partial(tuple.__new__, Chunk)  # takes all fields; less than half the time of Chunk(...)


class Window:
    """The bytes of a stream by position; the bytes before `keep` are released."""

    def __init__(self, stream: ByteStream):
        self.keep = 0
        self._stream, self._data, self._start, self._ended = stream, b"", 0, False

    def at(self, position: int, size: int, least: int = 1) -> bytes:
        """Return the bytes at a position: at most `size`, and at least `least` unless the stream ends before."""
        while self._start + len(self._data) < position + least and self.read_block():
            pass
        return self._data[position - self._start : position - self._start + size]

    def read_block(self) -> bool:
        """Read one more block. Return False at the end of the stream."""
        block = b"" if self._ended else self._stream.read(_BLOCK)
        self._ended = not block
        self._data = self._data[self.keep - self._start :] + block
        self._start = self.keep
        return not self._ended

    def search(self, pattern: re.Pattern[bytes], position: int) -> int | None:
        """Return the next position of a pattern (of less than 16 bytes), and release the bytes before it."""
        while True:
            if found := pattern.search(self._data, position - self._start):
                return self._start + found.start()
            position = max(position, self._start + len(self._data) - 16)
            self.keep = position
            if not self.read_block():
                return None


def inflate_members(window: Window) -> Iterator[Chunk | Damage]:
    """Yield the content of the members in their order, and a Damage for each broken member."""
    at: int | None = 0
    while at is not None and (start := window.at(at, _INPUT, 2)):
        window.keep = at
        if not start.startswith(MAGIC):
            if start[:2].strip(b"\0"):
                yield Damage(at, "bad_record")
            at = _next_member(window, at + 1)
            continue
        inflater = IgzipDecompressor(flag=DECOMP_GZIP)
        try:
            data = inflater.decompress(start, _OUTPUT)
        except IsalError:  # pyright: ignore[reportGeneralTypeIssues]
            yield Damage(at, "bad_record")
            at = _next_member(window, at + 1)
            continue
        if inflater.eof:
            if data:
                yield _new_chunk((data, at, 0, True))
            at += len(start) - len(inflater.unused_data)
        else:
            at = yield from _rest(window, at, inflater, at + len(start), data)


def _rest(
    window: Window, start: int, inflater: IgzipDecompressor, at: int, data: bytes
) -> Generator[Chunk | Damage, None, int | None]:
    """Yield the chunks of a member that is longer than its first input block.

    Returns: the position of the next member; None at the end of the stream.
    """
    outputs, size, first = [data], len(data), True
    broken: str | None = None
    while not inflater.eof:
        compressed = window.at(at, _INPUT) if inflater.needs_input else b""
        if not compressed and inflater.needs_input:
            broken = "truncated"
            break
        try:
            outputs.append(inflater.decompress(compressed, _OUTPUT))
        except IsalError:  # pyright: ignore[reportGeneralTypeIssues]
            broken = "bad_record"
            break
        at += len(compressed)
        size += len(outputs[-1])
        if at - window.keep > _SEARCHABLE:
            window.keep = at
        if size >= _CHUNK:
            yield Chunk(b"".join(outputs), start, 0, first)
            outputs, size, first = [], 0, False
    if size:
        yield Chunk(b"".join(outputs), start, 0, first)
    if broken:
        yield Damage(start, broken)
        return _next_member(window, max(start + 1, window.keep))
    return at - len(inflater.unused_data)


def _next_member(window: Window, position: int) -> int | None:
    """Return the position of the next member that starts a record."""
    while (found := window.search(_MEMBER, position)) is not None:
        window.keep = found
        member = window.at(found, _MEMBER_START, _MEMBER_START)
        try:
            start = IgzipDecompressor(flag=DECOMP_GZIP).decompress(member, 5)
        except IsalError:  # pyright: ignore[reportGeneralTypeIssues]
            start = b"-"
        # A shorter start is enough where the stream ends within the member.
        if b"WARC/".startswith(start) and (len(start) == 5 or len(member) < _MEMBER_START):
            return found
        position = found + 1
    return None
