"""Reads WARC records from a stream in one pass: gzip (a member per record, or one for the whole file), zstd or plain.

It is for files of small records that arrive over a network, such as WAT. A damaged record is skipped.
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
_CHUNK = 1 << 20
_CONTENT_LENGTH = b"\r\nContent-Length: "  # the spelling of all known producers
_LENGTH = re.compile(rb"\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r?(?:\n|\Z)", re.IGNORECASE)
_RECORD = re.compile(rb"\n(?=WARC/[01]\.\d)")
_RECORD_START = 16  # bytes that the pattern _RECORD may need


class StreamedRecord(NamedTuple):
    """One WARC record."""

    offset: int
    """Position in the stream: of the gzip member, or of the record if the stream is not compressed."""
    head: bytes
    """The version line and the fields, without the empty line after them."""
    body: bytes | memoryview


_new_record = partial(tuple.__new__, StreamedRecord)  # takes all fields; less than half the time of StreamedRecord(...)


def read_records(stream: ByteStream, max_bytes: int) -> Iterator[StreamedRecord | Damage]:
    """Yield the records in their order, and a Damage for each record that cannot be used.

    Reasons: `truncated` (the stream ends within the record), `bad_record` (a broken gzip member, or no record where one
    is expected), `bad_length` (no Content-Length, or a wrong one), `too_large` (more than `max_bytes`).

    Raises: SourceError if there is no readable record, or if there are more than MAX_DAMAGES damages.
    """
    chunks = _chunks(stream)
    start = next(chunks, None)
    read = damages = 0
    while start is not None:
        if isinstance(start, Chunk) and start.first and (record := _read_simple_record(start)) is not None:
            read += 1
            yield record
            start = next(chunks, None)
            continue
        run = _ChunkRun(start, chunks)
        for found in (start,) if isinstance(start, Damage) else _read_run(run, max_bytes):
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


def _read_simple_record(chunk: Chunk) -> StreamedRecord | None:
    """Return the record of a chunk that is exactly one record in the usual form; None for any other chunk.

    Nearly all chunks have that form. `_read_record` returns the same for them, more slowly.
    """
    data = chunk.data
    end = data.find(b"\r\n\r\n", 0, _MAX_HEAD)
    head = data[:end]
    value_start = head.find(_CONTENT_LENGTH) + len(_CONTENT_LENGTH)
    length = head[value_start:]  # usually the last field
    if not length.isdigit():
        length = length.partition(b"\r\n")[0]
    if end < 0 or value_start < len(_CONTENT_LENGTH) or not length.isdigit() or end + 4 + int(length) + 4 != len(data):
        return None
    if not head.startswith(b"WARC/") or not data.endswith(b"\r\n\r\n") or b"\n\n" in head:
        return None
    return _new_record((chunk.offset, head, memoryview(data)[end + 4 : -4]))


def _chunks(stream: ByteStream) -> Iterator[Chunk | Damage]:
    window = Window(stream)
    start = window.at(0, 4, 4)
    if start.startswith(MAGIC):
        return inflate_members(window)
    return _zstd_chunks(window) if start == ZSTD_MAGIC else _plain_chunks(window)


def _plain_chunks(window: Window) -> Iterator[Chunk]:
    source = _Sequential(window)
    while data := source.read(_CHUNK):
        yield Chunk(data, source.position - len(data), 1, first=False)


def _zstd_chunks(window: Window) -> Iterator[Chunk | Damage]:
    """Yield the content of the frames; nothing can be read after a damage."""
    source = _Sequential(window)
    reader = ZstdReader(source)  # pyright: ignore[reportArgumentType]  # it calls only read and tell
    while True:
        at = source.position
        try:
            data = reader.read(_CHUNK)
        except OSError as error:
            if error.errno is not None:  # an error of the disk, not of the format
                raise
            yield Damage(at, "bad_record")
            return
        if not data:
            return
        yield Chunk(data, at, 0, first=False)


class _Sequential:
    """A file-like reader of a Window."""

    def __init__(self, window: Window):
        self.window, self.position = window, 0

    def read(self, size: int, /) -> bytes:
        data = self.window.at(self.position, size)
        self.position += len(data)
        self.window.keep = self.position
        return data

    def tell(self) -> int:
        return self.position


class _ChunkRun:
    """Consecutive chunks: those of a gzip member that starts a record, or those of a stream without such members."""

    def __init__(self, start: Chunk | Damage, chunks: Iterator[Chunk | Damage]):
        self.data = start.data if isinstance(start, Chunk) else b""
        self._chunks = chunks
        self._marks = [(0, start)] if isinstance(start, Chunk) else []  # positions in `data` where a chunk starts
        self.next = next(chunks, None)
        """The chunk or damage after those in `data`, of this run or of the next one; None at the end."""

    def read_up_to(self, size: int) -> bool:
        """Read chunks of the run until `data` has `size` bytes. Return whether it has."""
        if len(self.data) >= size:
            return True
        contents, total = [self.data], len(self.data)
        while total < size and (chunk := self._next_chunk()):
            self._marks.append((total, chunk))
            contents.append(chunk.data)
            total += len(chunk.data)
        self.data = b"".join(contents)
        return total >= size

    def skip(self, size: int) -> None:
        """Release the first `size` bytes of the run, which may be more than `data` has."""
        while size > len(self.data) and (chunk := self._next_chunk()):
            size -= len(self.data)
            self.data, self._marks = chunk.data, [(0, chunk)]
        self.data = self.data[size:]
        first = max((i for i, (at, _) in enumerate(self._marks) if at <= size), default=0)
        self._marks = [(at - size, chunk) for at, chunk in self._marks[first:]]

    def find_record(self, position: int) -> int | None:
        """Return the start of the next record; None at the end of the run."""
        while not (found := _RECORD.search(self.data, position)):
            self.skip(max(position, len(self.data) - _RECORD_START))
            position = 0
            if not self.read_up_to(len(self.data) + 1):
                return None
        return found.end()

    def stream_offset(self, position: int) -> int:
        """Return the position in the stream of a byte of `data`."""
        at, chunk = self._marks[-1]
        if at > position:
            at, chunk = next(mark for mark in reversed(self._marks) if mark[0] <= position)
        return chunk.offset + chunk.step * (position - at)

    def _next_chunk(self) -> Chunk | None:
        chunk = self.next
        if not isinstance(chunk, Chunk) or (chunk.first and chunk.data.startswith(b"WARC/")):
            return None
        self.next = next(self._chunks, None)
        return chunk

    @property
    def is_broken(self) -> bool:
        """Whether this run ends with a damage."""
        return isinstance(self.next, Damage)

    @property
    def is_last(self) -> bool:
        """Whether the stream ends with this run."""
        return self.next is None


def _read_run(run: _ChunkRun, max_bytes: int) -> Iterator[StreamedRecord | Damage]:
    """Yield the records of a run, and its damages."""
    at: int | None = 0
    while at is not None:
        if at > _CHUNK:
            run.skip(at)
            at = 0
        if at == len(run.data) and not run.read_up_to(at + 1):
            return
        if run.data[at] in b"\r\n":
            at += 1
            continue
        found, at = _read_record(run, at, max_bytes)
        # The damage that ends a broken run is reported by itself.
        if isinstance(found, StreamedRecord) or at is not None or not run.is_broken:
            yield found


def _read_record(run: _ChunkRun, at: int, max_bytes: int) -> tuple[StreamedRecord | Damage, int | None]:
    """Return the record at a position of the run's data, and the position to continue at (None at the run's end)."""
    offset = run.stream_offset(at)
    split = _split_head(run.data, at)
    if split is None:  # the head may end beyond the chunks that were read
        run.read_up_to(at + _MAX_HEAD)
        split = _split_head(run.data, at)
    if not run.data.startswith(b"WARC/", at):
        is_truncated = run.is_last and len(run.data) < at + 5
        return Damage(offset, "truncated" if is_truncated else "bad_record"), run.find_record(at)
    if split is None:
        return Damage(offset, "truncated" if run.is_last else "bad_record"), run.find_record(at + 5)
    head, start = run.data[at : split[0]], split[1]
    length = _LENGTH.search(head)
    if length is None:
        return Damage(offset, "bad_length"), run.find_record(start)
    end = start + int(length[1])
    if end - start > max_bytes:
        # The search starts at the content: a wrong length would skip all records after this one.
        return Damage(offset, "too_large"), run.find_record(start)
    if not run.read_up_to(end):
        return Damage(offset, "truncated" if run.is_last else "bad_length"), run.find_record(start)
    if run.read_up_to(end + 1) and run.data[end] not in b"\r\nW":
        return Damage(offset, "bad_length"), run.find_record(start)
    return StreamedRecord(offset, head, run.data[start:end]), end


def _split_head(data: bytes, at: int) -> tuple[int, int] | None:
    """Return the end of the head and the start of the content; None if the head does not end within _MAX_HEAD."""
    end = data.find(b"\r\n\r\n", at, at + _MAX_HEAD)
    bare = data.find(b"\n\n", at, end if end >= 0 else at + _MAX_HEAD)
    if bare >= 0:
        return bare, bare + 2
    return (end, end + 4) if end >= 0 else None
