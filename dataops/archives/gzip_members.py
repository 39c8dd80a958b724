"""Bytes out of a gzip stream of many members, read once, whatever state it is in.

A member that is damaged costs itself: reading goes on at the next member that starts a WARC record.
"""

import re
from collections.abc import Generator, Iterator
from functools import partial
from typing import NamedTuple, Protocol

from isal.igzip_lib import DECOMP_GZIP, IgzipDecompressor, IsalError

from dataops.archives.warc import Damage

MAGIC = b"\x1f\x8b"
_BLOCK = 1 << 16  # bytes that are read at once (more have fresh pages of memory each time)
_INPUT = 1 << 13  # bytes that the inflater is given at once: it copies what it leaves
_OUTPUT = 1 << 16  # bytes that it gives at once: it allocates them beforehand (1 MiB took twice the time)
_PIECE = 1 << 20  # bytes of a member that are put together: nearly all members are one piece then
_KEPT = 1 << 22  # bytes of a member that are kept, to look in them for the next one should it be damaged
_MEMBER = re.compile(rb"\x1f\x8b\x08[\x00-\x1f]")
_MEMBER_START = 1024  # bytes that show whether a member starts a record


class ByteStream(Protocol):
    """What can be read from its start to its end."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""
        ...


class Chunk(NamedTuple):
    """Consecutive bytes of content."""

    data: bytes
    offset: int
    """In the stream: of the member, or of the first byte itself where nothing is compressed."""
    step: int
    """How much farther in the stream the next byte is: 1 where nothing is compressed, else 0."""
    first: bool
    """Whether a member starts here."""


_piece = partial(tuple.__new__, Chunk)  # of all its fields, in less than half the time


class Window:
    """A stream's bytes by their positions, of which those before `keep` are let go."""

    def __init__(self, stream: ByteStream):
        self.keep = 0
        self._stream, self._data, self._start, self._ended = stream, b"", 0, False

    def at(self, position: int, size: int, least: int = 1) -> bytes:
        """The bytes at a position: at most `size`, and `least` unless the stream ends before."""
        while self._start + len(self._data) < position + least and self.more():
            pass
        return self._data[position - self._start : position - self._start + size]

    def more(self) -> bool:
        """Read a block. False at the stream's end."""
        block = b"" if self._ended else self._stream.read(_BLOCK)
        self._ended = not block
        self._data = self._data[self.keep - self._start :] + block
        self._start = self.keep
        return not self._ended

    def search(self, pattern: re.Pattern[bytes], position: int) -> int | None:
        """Where the pattern (of less than 16 bytes) is found next; the bytes before are let go."""
        while True:
            if found := pattern.search(self._data, position - self._start):
                return self._start + found.start()
            position = max(position, self._start + len(self._data) - 16)
            self.keep = position
            if not self.more():
                return None


def inflate_members(window: Window) -> Iterator[Chunk | Damage]:
    """The content of the members, in their order, and a damage for each that is broken."""
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
                yield _piece((data, at, 0, True))
            at += len(start) - len(inflater.unused_data)
        else:
            at = yield from _rest(window, at, inflater, at + len(start), data)


def _rest(
    window: Window, start: int, inflater: IgzipDecompressor, at: int, data: bytes
) -> Generator[Chunk | Damage, None, int | None]:
    """The pieces of a member that goes on after its first bytes. Returns: where to go on, None at the end."""
    parts, size, first = [data], len(data), True
    broken: str | None = None
    while not inflater.eof:
        chunk = window.at(at, _INPUT) if inflater.needs_input else b""
        if not chunk and inflater.needs_input:
            broken = "truncated"
            break
        try:
            parts.append(inflater.decompress(chunk, _OUTPUT))
        except IsalError:  # pyright: ignore[reportGeneralTypeIssues]
            broken = "bad_record"
            break
        at += len(chunk)
        size += len(parts[-1])
        if at - window.keep > _KEPT:
            window.keep = at
        if size >= _PIECE:
            yield Chunk(b"".join(parts), start, 0, first)
            parts, size, first = [], 0, False
    if size:
        yield Chunk(b"".join(parts), start, 0, first)
    if broken:
        yield Damage(start, broken)
        return _next_member(window, max(start + 1, window.keep))
    return at - len(inflater.unused_data)


def _next_member(window: Window, position: int) -> int | None:
    """Where the next member that starts a record is."""
    while (found := window.search(_MEMBER, position)) is not None:
        window.keep = found
        member = window.at(found, _MEMBER_START, _MEMBER_START)
        try:
            start = IgzipDecompressor(flag=DECOMP_GZIP).decompress(member, 5)
        except IsalError:  # pyright: ignore[reportGeneralTypeIssues]
            start = b"-"
        if b"WARC/".startswith(start) and (len(start) == 5 or len(member) < _MEMBER_START):  # or the stream ends in it
            return found
        position = found + 1
    return None
