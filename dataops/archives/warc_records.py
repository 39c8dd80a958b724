"""WARC records out of a stream that is read once: gzip (a member a record, or one for all), zstd or plain.

This is the way for files of small records that come over a network, such as WAT. A record that is damaged costs itself.
dataops.archives.warc reads local archives of whole pages.
"""

import re
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from fastwarc.stream_io import ZstdReader

from dataops.archives.gzip_members import MAGIC, ByteStream, Chunk, Window, inflate_members
from dataops.archives.warc import MAX_DAMAGES, Damage
from dataops.errors import SourceError

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_MAX_HEAD = 1 << 16
_PIECE = 1 << 20
_CONTENT_LENGTH = b"\r\nContent-Length: "  # as all producers spell it
_LENGTH = re.compile(rb"\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r?(?:\n|\Z)", re.IGNORECASE)
_RECORD = re.compile(rb"\n(?=WARC/[01]\.\d)")
_RECORD_START = 16  # bytes that the pattern may need


class StreamedRecord(NamedTuple):
    """One record."""

    offset: int
    """In the stream: of its gzip member, or of itself where nothing is compressed."""
    head: bytes
    """The version line and the fields, without the empty line after them."""
    body: bytes | memoryview


_whole_record = partial(tuple.__new__, StreamedRecord)  # of all its fields, in less than half the time


def read_records(stream: ByteStream, max_bytes: int) -> Iterator[StreamedRecord | Damage]:
    """The records in their order, and a damage for each that cannot be used.

    Reasons: `truncated` (the stream ends in it), `bad_record` (a broken gzip member, or no record where one should be),
    `bad_length` (no Content-Length, or not that of the content), `too_large` (over `max_bytes`).

    Raises: SourceError when there is no readable record, or over MAX_DAMAGES damages.
    """
    pieces = _pieces(stream)
    start = next(pieces, None)
    read = damages = 0
    while start is not None:
        if isinstance(start, Chunk) and start.first and (record := _whole(start)) is not None:
            read += 1
            yield record
            start = next(pieces, None)
            continue
        run = _Run(start, pieces)
        for found in (start,) if isinstance(start, Damage) else _records(run, max_bytes):
            if isinstance(found, StreamedRecord):
                read += 1
            else:
                damages += 1
                if damages > MAX_DAMAGES:
                    raise SourceError(f"over {MAX_DAMAGES} unreadable records, at byte {found.offset}")
            yield found
        start = run.next
    if not read:
        raise SourceError("no WARC record")


def _whole(piece: Chunk) -> StreamedRecord | None:
    """The record of a piece that is one record in the plainest form, as nearly all are: a short way, not another one."""
    data = piece.data
    end = data.find(b"\r\n\r\n", 0, _MAX_HEAD)
    head = data[:end]
    named = head.find(_CONTENT_LENGTH) + len(_CONTENT_LENGTH)
    length = head[named:]  # most often the last field
    if not length.isdigit():
        length = length.partition(b"\r\n")[0]
    if end < 0 or named < len(_CONTENT_LENGTH) or not length.isdigit() or end + 4 + int(length) + 4 != len(data):
        return None
    if not head.startswith(b"WARC/") or not data.endswith(b"\r\n\r\n") or b"\n\n" in head:
        return None
    return _whole_record((piece.offset, head, memoryview(data)[end + 4 : -4]))


def _pieces(stream: ByteStream) -> Iterator[Chunk | Damage]:
    window = Window(stream)
    start = window.at(0, 4, 4)
    if start.startswith(MAGIC):
        return inflate_members(window)
    return _zstd_pieces(window) if start == ZSTD_MAGIC else _plain_pieces(window)


def _plain_pieces(window: Window) -> Iterator[Chunk]:
    source = _Sequential(window)
    while data := source.read(_PIECE):
        yield Chunk(data, source.position - len(data), 1, first=False)


def _zstd_pieces(window: Window) -> Iterator[Chunk | Damage]:
    """The content of the frames; after a damage nothing can be found again."""
    source = _Sequential(window)
    reader = ZstdReader(source)  # pyright: ignore[reportArgumentType]  # it asks for read and tell only
    while True:
        at = source.position
        try:
            data = reader.read(_PIECE)
        except OSError as error:
            if error.errno is not None:  # the disk's
                raise
            yield Damage(at, "bad_record")
            return
        if not data:
            return
        yield Chunk(data, at, 0, first=False)


class _Sequential:
    """A window as a stream."""

    def __init__(self, window: Window):
        self.window, self.position = window, 0

    def read(self, size: int, /) -> bytes:
        data = self.window.at(self.position, size)
        self.position += len(data)
        self.window.keep = self.position
        return data

    def tell(self) -> int:
        return self.position


class _Run:
    """Pieces that hang together: those of a gzip member that starts a record, or of a whole stream without such."""

    def __init__(self, start: Chunk | Damage, pieces: Iterator[Chunk | Damage]):
        self.data = start.data if isinstance(start, Chunk) else b""
        self._pieces = pieces
        self._marks = [(0, start)] if isinstance(start, Chunk) else []  # where in the data a piece starts
        self.next = next(pieces, None)
        """What follows, of this run or not; None at the end."""

    def have(self, size: int) -> bool:
        """Whether the data has so many bytes, after reading on in the run."""
        if len(self.data) >= size:
            return True
        parts, total = [self.data], len(self.data)
        while total < size and (piece := self._take()):
            self._marks.append((total, piece))
            parts.append(piece.data)
            total += len(piece.data)
        self.data = b"".join(parts)
        return total >= size

    def drop(self, size: int) -> None:
        """Let go of bytes from the start of the data, or still to come."""
        while size > len(self.data) and (piece := self._take()):
            size -= len(self.data)
            self.data, self._marks = piece.data, [(0, piece)]
        self.data = self.data[size:]
        last = max((i for i, (at, _) in enumerate(self._marks) if at <= size), default=0)
        self._marks = [(at - size, piece) for at, piece in self._marks[last:]]

    def search(self, position: int) -> int | None:
        """Where the next record starts."""
        while not (found := _RECORD.search(self.data, position)):
            self.drop(max(position, len(self.data) - _RECORD_START))
            position = 0
            if not self.have(len(self.data) + 1):
                return None
        return found.end()

    def offset(self, position: int) -> int:
        """In the stream, of a byte of the data."""
        at, piece = self._marks[-1]
        if at > position:
            at, piece = next(mark for mark in reversed(self._marks) if mark[0] <= position)
        return piece.offset + piece.step * (position - at)

    def _take(self) -> Chunk | None:
        piece = self.next
        if not isinstance(piece, Chunk) or (piece.first and piece.data.startswith(b"WARC/")):
            return None
        self.next = next(self._pieces, None)
        return piece

    @property
    def is_broken(self) -> bool:
        """Whether a damage ends this run."""
        return isinstance(self.next, Damage)

    @property
    def is_last(self) -> bool:
        """Whether the stream ends with this run."""
        return self.next is None


def _records(run: _Run, max_bytes: int) -> Iterator[StreamedRecord | Damage]:
    """The records of a run."""
    at: int | None = 0
    while at is not None:
        if at > _PIECE:
            run.drop(at)
            at = 0
        if at == len(run.data) and not run.have(at + 1):
            return
        if run.data[at] in b"\r\n":
            at += 1
            continue
        found, at = _record(run, at, max_bytes)
        if isinstance(found, StreamedRecord) or at is not None or not run.is_broken:  # a break is a damage of its own
            yield found


def _record(run: _Run, at: int, max_bytes: int) -> tuple[StreamedRecord | Damage, int | None]:
    """The record at a place of the run's data, and where to go on: None at the run's end."""
    offset = run.offset(at)
    split = _head_end(run.data, at)
    if split is None:  # it may be behind the piece that was read
        run.have(at + _MAX_HEAD)
        split = _head_end(run.data, at)
    if not run.data.startswith(b"WARC/", at):
        is_cut = run.is_last and len(run.data) < at + 5
        return Damage(offset, "truncated" if is_cut else "bad_record"), run.search(at)
    if split is None:
        return Damage(offset, "truncated" if run.is_last else "bad_record"), run.search(at + 5)
    head, start = run.data[at : split[0]], split[1]
    length = _LENGTH.search(head)
    if length is None:
        return Damage(offset, "bad_length"), run.search(start)
    end = start + int(length[1])
    if end - start > max_bytes:
        return Damage(offset, "too_large"), run.search(
            start
        )  # not believed: a length that lies would cost all after it
    if not run.have(end):
        return Damage(offset, "truncated" if run.is_last else "bad_length"), run.search(start)
    if run.have(end + 1) and run.data[end] not in b"\r\nW":
        return Damage(offset, "bad_length"), run.search(start)
    return StreamedRecord(offset, head, run.data[start:end]), end


def _head_end(data: bytes, at: int) -> tuple[int, int] | None:
    """Where the head ends and where the content starts."""
    end = data.find(b"\r\n\r\n", at, at + _MAX_HEAD)
    bare = data.find(b"\n\n", at, end if end >= 0 else at + _MAX_HEAD)
    if bare >= 0:
        return bare, bare + 2
    return (end, end + 4) if end >= 0 else None
