"""Reads WARC records from a stream in one pass: gzip, zstd or lz4 (a member per record, or one for the file), or plain.

A damaged record is skipped, and reading continues at the next record that can be found.
"""

import re
from bisect import bisect_right
from collections.abc import Generator, Iterator
from functools import partial
from operator import itemgetter
from typing import NamedTuple

from dataops.archives.members import (
    GZIP,
    LENGTH,
    LZ4,
    MAX_HEAD,
    ZSTD,
    ByteStream,
    Chunk,
    Codec,
    Damage,
    Window,
    find_codec,
    inflate_members,
    inner_archive,
    split_head,
    starts_record,
)
from dataops.errors import UnusableSource
from dataops.reasons import Reason

_CHUNK = 1 << 20
_RECORD = re.compile(rb"WARC/[01]\.\d(?:(?<=\nWARC/[01]\.\d)|(?=\r?\n[A-Z]))")
_RECORD_START = 16  # bytes that the pattern _RECORD may need
VERSIONS = (b"WARC/1.", b"WARC/0.")
_AFTER = re.compile(rb"(?:\r?\n){2}|(?:\r?\n)?WARC/|[\r\n]{0,4}\Z")
_LINE_ENDS = re.compile(rb"[\r\n]+")
_NEXT = re.compile(rb"[\r\n]{0,9}(?:WARC/|\Z)")
_AFTER_SIZE = 16  # bytes that these patterns may need


class StreamedRecord(NamedTuple):
    """One WARC record."""

    offset: int
    """Position in the stream: of the member, or of the record if the stream is not compressed."""
    head: bytes
    """The version line and the fields, without the empty line after them."""
    body: bytes | memoryview | None
    """None if it is larger than allowed."""


new_record = partial(tuple.__new__, StreamedRecord)  # takes all fields; less than half the time of StreamedRecord(...)


class ChunkRun:
    """Consecutive chunks: those of a member that starts a record, or those of a stream without such members."""

    def __init__(self, start: Chunk | Damage, chunks: Iterator[Chunk | Damage], window: Window):
        self.data = start.data if isinstance(start, Chunk) else b""
        self._chunks, self._window = chunks, window
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

    def skip(self, size: int) -> bool:
        """Release the first `size` bytes of the run, which may be more than `data` has.

        Returns: whether the run has so many.
        """
        while size > len(self.data) and (chunk := self._next_chunk()):
            size -= len(self.data)
            self.data, self._marks = chunk.data, [(0, chunk)]
        complete = size <= len(self.data)
        self.data = self.data[size:]
        first = max((i for i, (at, _) in enumerate(self._marks) if at <= size), default=0)
        self._marks = [(at - size, chunk) for at, chunk in self._marks[first:]]
        return complete

    def find_record(self, position: int) -> int | None:
        """Return the start of the next record; None at the end of the run."""
        if position > len(self.data):
            self.skip(position)
            position = 0
        while not (found := _RECORD.search(self.data, position)):
            self.skip(max(position, len(self.data) - _RECORD_START))
            position = 0
            if not self.read_up_to(len(self.data) + 1):
                return None
        return found.start()

    def stream_offset(self, position: int) -> int:
        """Return the position in the stream of a byte of `data`."""
        at, chunk = self._marks[bisect_right(self._marks, position, key=itemgetter(0)) - 1]
        return chunk.offset + chunk.step * (position - at)

    def peek(self, position: int) -> bytes | None:
        """Return the bytes that may follow a record at a position beyond `data`; None if they cannot be read ahead."""
        return None if self.is_compressed else self._window.peek(self.stream_offset(position), _AFTER_SIZE)

    def drop_truncation(self) -> bool:
        """Drop the damage that ends the run if the file is cut off there. Return whether it is."""
        if not isinstance(self.next, Damage) or self.next.reason != Reason.TRUNCATED:
            return False
        self.next = next(self._chunks, None)
        return True

    def _next_chunk(self) -> Chunk | None:
        chunk = self.next
        if not isinstance(chunk, Chunk) or (chunk.first and chunk.data.startswith(b"WARC/")):
            return None
        self.next = next(self._chunks, None)
        return chunk

    @property
    def is_compressed(self) -> bool:
        return self._marks[-1][1].step == 0

    @property
    def is_broken(self) -> bool:
        """Return whether this run ends with a damage."""
        return isinstance(self.next, Damage)

    @property
    def is_last(self) -> bool:
        """Return whether the stream ends with this run."""
        return self.next is None


def read_run(run: ChunkRun, max_bytes: int) -> Iterator[StreamedRecord | Damage]:
    """Yield the records of a run, and its damages."""
    at: int | None = 0
    is_first = True
    while at is not None:
        if at == len(run.data):  # releases what was read first, since the next chunk may be small
            run.skip(at)
            at = 0
            if not run.read_up_to(1):
                return
        if line_ends := _LINE_ENDS.match(run.data, at):
            at = line_ends.end()
            continue
        found, at = _read_record(run, at, max_bytes)
        if at is not None and at > _CHUNK:  # releases the record, which may be large, before it is used
            run.skip(at)
            at = 0
        if not run.is_broken or _is_usable(run, found, at, is_first):
            yield found
        del found
        is_first = False


def _is_usable(run: ChunkRun, found: StreamedRecord | Damage, at: int | None, is_first: bool) -> bool:
    """Return whether a record or damage of a broken run is to be reported beside the damage that ends the run.

    The only record of a damaged member may have wrong content, even if it is complete. If only the
    end of the file is missing after its content, the record is undamaged.
    """
    if isinstance(found, Damage) or at is None:
        return at is not None
    if not is_first or not _is_end(run, at):
        return True
    return run.drop_truncation()


def _is_end(run: ChunkRun, at: int) -> bool:
    """Return whether only line ends follow in the run."""
    return not run.read_up_to(at + _AFTER_SIZE) and not run.data[at:].strip(b"\r\n")


def _read_record(run: ChunkRun, at: int, max_bytes: int) -> tuple[StreamedRecord | Damage, int | None]:
    """Return the record at a position of the run's data, and the position to continue at (None at the run's end)."""
    offset = run.stream_offset(at)
    split = split_head(run.data, at)
    if split is None:  # the head may end beyond the chunks that were read
        run.read_up_to(at + MAX_HEAD)
        split = split_head(run.data, at)
    if not run.data.startswith(VERSIONS, at):
        is_truncated = run.is_last and len(run.data) < at + 7
        return Damage(offset, Reason.TRUNCATED if is_truncated else "bad_record"), _find_next(run, at)
    if split is None:
        return Damage(offset, Reason.TRUNCATED if run.is_last else "bad_record"), run.find_record(at + 5)
    head, start = run.data[at : split[0]], split[1]
    length = LENGTH.search(head)
    if length is None:
        return Damage(offset, "bad_length"), _find_next(run, at)
    end = start + int(length[1])
    if end - start > max_bytes:
        return _skip_large_record(run, offset, head, at, end)
    if not run.read_up_to(end):
        if run.is_broken:
            return Damage(offset, "bad_record"), None
        return Damage(offset, Reason.TRUNCATED if run.is_last else "bad_length"), _find_next(run, at)
    run.read_up_to(end + _AFTER_SIZE)
    after = run.data[end : end + _AFTER_SIZE]
    if not _AFTER.match(after) or (not _NEXT.match(after) and _holds_record(run.data, at, start, end)):
        return Damage(offset, "bad_length"), _find_next(run, at)
    return StreamedRecord(offset, head, run.data[start:end]), end


def _holds_record(data: bytes, at: int, start: int, end: int) -> bool:
    """Return whether the claimed content of a record has another record of the file in it."""
    return _RECORD.search(data, start, end) is not None and not inner_archive(data, at, in_compressed=False)[1]


def _find_next(run: ChunkRun, at: int) -> int | None:
    """Return the start of the next record after a damaged one, whose content may be an archive itself."""
    run.read_up_to(at + 2 * MAX_HEAD)
    start, length = inner_archive(run.data, at, in_compressed=False)
    return run.find_record(max(at + 1, start + length))


def _skip_large_record(
    run: ChunkRun, offset: int, head: bytes, at: int, end: int
) -> tuple[StreamedRecord | Damage, int | None]:
    """Skip the content of a record that is too large to be read.

    A plain file that can seek shows whether its length is right. If it is not, or if that cannot be
    known, the next record is searched for in its content. In a compressed stream the length
    decides.
    """
    if run.is_compressed:
        complete = run.skip(end) and (run.read_up_to(_AFTER_SIZE) or True)
        if complete and _AFTER.match(run.data[:_AFTER_SIZE]):
            return StreamedRecord(offset, head, None), 0
        return Damage(offset, Reason.TOO_LARGE), run.find_record(0) if complete else None
    after = run.peek(end - 1)
    if not after or not _AFTER.match(after[1:]):
        return Damage(offset, Reason.TOO_LARGE), _find_next(run, at)
    run.skip(end)
    return StreamedRecord(offset, head, None), 0


MAX_DAMAGES = 1000
"""Number of unreadable records above which a file counts as unreadable."""

_MAX_SEARCH = 1 << 22  # bytes in which the first record is searched for, if the stream does not start with one
_MEMBER_START = 1024
_BLANK = 32  # bytes at the start of a file, of which some may be blank
_CONTENT_LENGTH = b"\r\nContent-Length: "  # the spelling of all known producers
_PLAIN_START = re.compile(rb"\nWARC[/-]")  # the start of a record, or the second line of one
_HINTS = (
    (b"PK\x03\x04", "this is a ZIP file, such as a WACZ; `unzip FILE 'archive/*'` unpacks the WARC files in it"),
    (b"filedesc://", "this is an ARC file; `warcio recompress FILE.arc.gz FILE.warc.gz` makes a WARC file of it"),
    (b"BZh", "this is a bzip2 file; `bunzip2 FILE` makes a plain file of it"),
    (b"\xfd7zXZ\0", "this is an xz file; `unxz FILE` makes a plain file of it"),
    (b"7z\xbc\xaf\x27\x1c", "this is a 7z file; `7z x FILE` unpacks it"),
)


def read_records(stream: ByteStream, max_bytes: int) -> Generator[StreamedRecord | Damage, None, None]:
    """Yield the records in their order, and a Damage for each record that cannot be used.

    Reasons: `truncated` (the stream ends within the record), `bad_record` (a broken member, or no
    record where one is expected), `bad_length` (no Content-Length, or a wrong one), `too_large` (a
    wrong length of more than `max_bytes`).

    A stream without any content has no records.

    Raises: SourceError if there is content but no readable record, or if there are more than MAX_DAMAGES damages.
    """
    window = Window(stream)
    if hint := _hint(window):
        raise UnusableSource(f"no WARC record: {hint}, at byte 0")
    chunks = _chunks(window)
    start = next(chunks, None)
    damages, first_damage, found_any, is_cut = 0, 0, False, False
    while start is not None:
        if isinstance(start, Chunk) and start.first and start.last:
            record = _read_simple_record(start)
            if record is not None and len(record.body or b"") <= max_bytes:
                found_any = True
                yield record
                start = next(chunks, None)
                continue
        run = ChunkRun(start, chunks, window)
        # The only record of a file may be cut off.
        is_cut = is_cut or run.data[:_BLANK].lstrip().startswith(VERSIONS)
        for found in (start,) if isinstance(start, Damage) else read_run(run, max_bytes):
            if isinstance(found, StreamedRecord):
                found_any = True
            else:
                damages += 1
                first_damage = found.offset if damages == 1 else first_damage
                if damages > MAX_DAMAGES:
                    raise UnusableSource(f"over {MAX_DAMAGES} unreadable records, at byte {found.offset}")
            yield found
        start = run.next
    if damages > is_cut and not found_any:
        raise UnusableSource(f"no WARC record that can be read, at byte {first_damage}")


def _hint(window: Window) -> str:
    """Return what a file is that has no WARC records, if its first bytes show it; else ''."""
    start = window.at(0, _MEMBER_START, _MEMBER_START)
    if start.startswith(GZIP.magic):
        try:
            start = GZIP.new_inflater().decompress(start, 16)
        except GZIP.error:
            return ""
    return next((hint for magic, hint in _HINTS if start.startswith(magic)), "")


def _read_simple_record(chunk: Chunk) -> StreamedRecord | None:
    """Return the record of a chunk that is exactly one record in the usual form; None for any other chunk.

    Nearly all chunks have that form. `read_run` returns the same for them, more slowly.
    """
    data = chunk.data
    end = data.find(b"\r\n\r\n", 0, MAX_HEAD)
    head = data[:end]
    value_start = head.find(_CONTENT_LENGTH) + len(_CONTENT_LENGTH)
    length = head[value_start:]  # usually the last field
    if not length.isdigit():
        length = length.partition(b"\r\n")[0]
    if end < 0 or value_start < len(_CONTENT_LENGTH) or not length.isdigit() or len(length) > 18:
        return None
    if end + 4 + int(length) + 4 != len(data) or not data.endswith(b"\r\n\r\n"):
        return None
    if not head.startswith(VERSIONS) or b"\n\n" in head or b"\n\r\n" in head:
        return None
    return new_record((chunk.offset, head, memoryview(data)[end + 4 : -4]))


def _chunks(window: Window) -> Iterator[Chunk | Damage]:
    codec, at = find_codec(window)
    if not codec:
        codec, at = _search_codec(window, at)
    return inflate_members(window, codec, at) if codec else _plain_chunks(window)


def _search_codec(window: Window, at: int) -> tuple[Codec | None, int]:
    """Return the codec of the first member that starts a record, and the position of the first member.

    It is None for a plain file. The start of the file is damaged if it is neither a member nor a
    record.
    """
    start = window.at(at, _MAX_SEARCH, 16)
    if start.startswith(b"WARC/") or not start:
        return None, at
    start = window.at(at, _MAX_SEARCH, _MAX_SEARCH)
    plain = _PLAIN_START.search(start)
    end = plain.start() if plain else len(start)
    found = []
    for codec in (GZIP, ZSTD, LZ4):
        for member in codec.start.finditer(start, 0, end):
            if starts_record(codec, start[member.start() : member.start() + _MEMBER_START]):
                found.append((member.start(), codec))
                break
    # `inflate_members` reports the damaged bytes before the first member.
    return (min(found, key=lambda item: item[0])[1] if found else None), at


def _plain_chunks(window: Window) -> Iterator[Chunk]:
    at = 0
    while data := window.at(at, _CHUNK):
        yield Chunk(data, at, 1, first=False, last=False)
        at += len(data)
        window.keep = at
